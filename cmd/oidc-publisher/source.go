package main

import (
	"oidc-publisher/discovery"
	"oidc-publisher/discovery/files"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/cli"
	"oidc-publisher/publish"
)

const categorySource = "Source"

// sourceFlags say where the documents come from: a cluster or files.
func sourceFlags() []cli.Flag {
	return append(clusterFlags(), cli.InCategory(categorySource,
		cli.Bool("all-api-servers", "publish the union of the keys of all API servers"),
		cli.String("from", "", "`DIR` with the output of kubectl get --raw, instead of a cluster"),
		cli.List("public-key", "PEM `FILE` of --service-account-key-file instead of a cluster; repeatable; needs --issuer"),
	)...)
}

// clusterFlags say which cluster is meant.
func clusterFlags() []cli.Flag {
	return cli.InCategory(categorySource,
		cli.String("kubeconfig", "", "kubeconfig `FILE` (default: $KUBECONFIG, ~/.kube/config, then the pod's own cluster)"),
		cli.String("context", "", "context `NAME` of the kubeconfig (default: its current one)"),
	)
}

// source is where the documents come from: files, public keys or a cluster.
type source struct {
	dir        string
	publicKeys []string
	cluster    kube.Config
}

// readSource reads sourceFlags, and refuses flags of two sources at once.
func readSource(c *cli.Context) (source, error) {
	s := source{dir: c.String("from"), publicKeys: cli.Values(c, "public-key"), cluster: readCluster(c)}
	s.cluster.AllAPIServers = c.Bool("all-api-servers")
	var kinds []string
	if s.cluster.Kubeconfig != "" {
		kinds = append(kinds, "--kubeconfig")
	}
	if s.dir != "" {
		kinds = append(kinds, "--from")
	}
	if len(s.publicKeys) > 0 {
		kinds = append(kinds, "--public-key")
	}
	if len(kinds) > 1 {
		return s, cli.Usagef("%s and %s exclude each other: give one", kinds[0], kinds[1])
	}
	if s.isFiles() && (s.cluster.AllAPIServers || s.cluster.Context != "") {
		return s, cli.Usagef("--all-api-servers and --context are for a live cluster, not for %s", kinds[0])
	}
	return s, nil
}

// readCluster reads clusterFlags.
func readCluster(c *cli.Context) kube.Config {
	return kube.Config{Kubeconfig: c.String("kubeconfig"), Context: c.String("context"), UserAgent: cli.Name + "/" + cli.Version()}
}

// isFiles reports whether the source is not a cluster.
func (s source) isFiles() bool { return s.dir != "" || len(s.publicKeys) > 0 }

// isNamed reports whether a flag names the source. Otherwise it is the current
// cluster.
func (s source) isNamed() bool {
	return s.isFiles() || s.cluster.Kubeconfig != "" || s.cluster.Context != "" || s.cluster.AllAPIServers
}

// open opens the source. The issuer is that of public keys, which have none.
func (s source) open(issuer discovery.Issuer) (publish.Source, error) {
	switch {
	case s.dir != "":
		return files.Dir(s.dir), nil
	case len(s.publicKeys) > 0:
		return files.PublicKeys(s.publicKeys, issuer), nil
	default:
		return kube.New(s.cluster)
	}
}
