package main

import (
	"oidc-publisher/internal/cli"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/files"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/publish"
)

const categorySource = "Source"

func sourceFlags() []cli.Flag {
	flags := []cli.Flag{
		cli.String("kubeconfig", "", "read the cluster of this kubeconfig `FILE` (default: $KUBECONFIG, ~/.kube/config, then the pod's own cluster)"),
		cli.String("context", "", "use the context `NAME` of the kubeconfig (default: its current one)"),
		cli.Bool("all-api-servers", "ask every API server of the cluster and take the union of their keys"),
		cli.String("from", "", "read the documents from `DIR`, as kubectl get --raw left them, instead of a cluster"),
		cli.List("public-key", "take the keys from this PEM `FILE` instead of a cluster, as the API server's --service-account-key-file; repeatable; needs --issuer"),
	}
	for _, flag := range flags {
		cli.Categorise(flag, categorySource)
	}
	return flags
}

// checkSource refuses flags of two sources at once.
func checkSource(c *cli.Context) error {
	var kinds []string
	for _, kind := range []struct{ name, flag string }{
		{"--kubeconfig", c.String("kubeconfig")},
		{"--from", c.String("from")},
		{"--public-key", first(cli.Values(c, "public-key"))},
	} {
		if kind.flag != "" {
			kinds = append(kinds, kind.name)
		}
	}
	if len(kinds) > 1 {
		return cli.Usagef("%s and %s are two sources: give one", kinds[0], kinds[1])
	}
	if fromFiles(c) && (c.Bool("all-api-servers") || c.String("context") != "") {
		return cli.Usagef("--all-api-servers and --context are for a live cluster, not for %s", kinds[0])
	}
	return nil
}

func fromFiles(c *cli.Context) bool {
	return c.String("from") != "" || len(cli.Values(c, "public-key")) > 0
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// openSource returns the source that the flags name.
func openSource(c *cli.Context, issuer discovery.Issuer) (publish.Source, error) {
	if dir := c.String("from"); dir != "" {
		return files.Dir(dir), nil
	}
	if keys := cli.Values(c, "public-key"); len(keys) > 0 {
		return files.PublicKeys(keys, issuer), nil
	}
	return openCluster(c)
}

func openCluster(c *cli.Context) (*kube.Source, error) { return kube.New(clusterConfig(c)) }

func clusterConfig(c *cli.Context) kube.Config {
	return kube.Config{
		Kubeconfig:    c.String("kubeconfig"),
		Context:       c.String("context"),
		AllAPIServers: c.Bool("all-api-servers"),
		UserAgent:     cli.Name + "/" + cli.Version(),
	}
}
