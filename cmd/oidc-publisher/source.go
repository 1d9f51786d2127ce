package main

import (
	"strings"

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
		cli.String("from", "", "`DIR` with documents of kubectl get --raw instead of a cluster"),
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

// checkSource refuses flags of two sources at once.
func checkSource(c *cli.Context) error {
	var kinds []string
	for _, flag := range []string{"kubeconfig", "from"} {
		if c.String(flag) != "" {
			kinds = append(kinds, "--"+flag)
		}
	}
	if len(cli.Values(c, "public-key")) > 0 {
		kinds = append(kinds, "--public-key")
	}
	if len(kinds) > 1 {
		return cli.Usagef("%s and %s are two sources: give one", kinds[0], kinds[1])
	}
	if fromFiles(c) && (c.Bool("all-api-servers") || c.String("context") != "") {
		return cli.Usagef("--all-api-servers and --context are for a live cluster, not for %s", kinds[0])
	}
	canary := c.String("canary")
	if namespace, account, _ := strings.Cut(canary, "/"); canary != "" && canary != kube.NoCanary && (namespace == "" || account == "") {
		return cli.Usagef("--canary %q must be written as NAMESPACE/SERVICEACCOUNT, or be %s", canary, kube.NoCanary)
	}
	return nil
}

// fromFiles reports whether the source is not a cluster.
func fromFiles(c *cli.Context) bool {
	return c.String("from") != "" || len(cli.Values(c, "public-key")) > 0
}

// openSource returns the source that the flags name.
func openSource(c *cli.Context, issuer discovery.Issuer) (publish.Source, error) {
	if dir := c.String("from"); dir != "" {
		return files.Dir(dir), nil
	}
	if keys := cli.Values(c, "public-key"); len(keys) > 0 {
		return files.PublicKeys(keys, issuer), nil
	}
	return kube.New(clusterConfig(c))
}

// clusterConfig reads clusterFlags. A dry run changes nothing, so it mints no
// token, which the audit log would record.
func clusterConfig(c *cli.Context) kube.Config {
	canary := c.String("canary")
	if c.Bool("dry-run") {
		canary = kube.NoCanary
	}
	return kube.Config{
		Canary:        canary,
		Kubeconfig:    c.String("kubeconfig"),
		Context:       c.String("context"),
		AllAPIServers: c.Bool("all-api-servers"),
		UserAgent:     cli.Name + "/" + cli.Version(),
	}
}
