package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/httpx"
)

const (
	categorySubject = "Token to exchange"
	categoryService = "Service"
	// projectedToken is where the examples project the token.
	projectedToken = "/var/run/secrets/tokens/oidc-token" //nolint:gosec // G101: a path
)

// subjectTokenFlags say where the token comes from that is exchanged; read
// them with subjectToken. They go together with clusterFlags.
func subjectTokenFlags() []cli.Flag {
	return inCategory(categorySubject,
		cli.String("token-file", "", "exchange the service account token in `FILE`, read at each use; - is standard input (default: "+projectedToken+" if it exists)"),
		cli.String("mint", "", "exchange a token newly minted for `NAMESPACE/SERVICEACCOUNT`; needs --audience"),
		cli.String("audience", "", "the `AUDIENCE` that a minted token is for"),
		cli.Bool("allow-api-token", "exchange even a token that the API server itself takes, and that the service could use against the cluster; known by its file and its audience only: what else --api-audiences or a second --service-account-issuer make the server take, no token tells"),
	)
}

// clusterFlags say which cluster is meant, where a live one is needed.
func clusterFlags() []cli.Flag {
	return inCategory(categorySource,
		cli.String("kubeconfig", "", "use the cluster of this kubeconfig `FILE` (default: $KUBECONFIG, ~/.kube/config, then the pod's own cluster)"),
		cli.String("context", "", "use the context `NAME` of the kubeconfig (default: its current one)"),
	)
}

func inCategory(category string, flags ...cli.Flag) []cli.Flag {
	for _, flag := range flags {
		cli.Categorise(flag, category)
	}
	return flags
}

// subjectFunc reads or mints the token anew at each call. The context bounds
// the minting.
type subjectFunc func(context.Context) (discovery.Token, error)

// subjectToken reads subjectTokenFlags.
func subjectToken(c *cli.Context) (subjectFunc, error) {
	return subjectTokenOf(c, exchange.TokenFile{})
}

// subjectTokenOf has a file to read where no flag names one.
func subjectTokenOf(c *cli.Context, otherwise exchange.TokenFile) (subjectFunc, error) {
	if err := checkTokenFlags(c); err != nil {
		return nil, err
	}
	if c.String("mint") != "" {
		return func(ctx context.Context) (discovery.Token, error) {
			token, err := mintToken(ctx, c)
			if err != nil {
				return discovery.Token{}, err
			}
			return token, unlessAllowed(c, token, "")
		}, nil
	}
	from, err := tokenFile(c, otherwise)
	if err != nil {
		return nil, err
	}
	if from.Path == "-" { // there is no second reading of it
		token, err := readSubject(c, from)
		return func(context.Context) (discovery.Token, error) { return token, err }, nil
	}
	return func(context.Context) (discovery.Token, error) { return readSubject(c, from) }, nil
}

func tokenFile(c *cli.Context, otherwise exchange.TokenFile) (exchange.TokenFile, error) {
	if file := c.String("token-file"); file != "" {
		return exchange.TokenFile{Path: file}, nil
	}
	if otherwise.Path != "" {
		return otherwise, nil
	}
	if _, err := os.Stat(projectedToken); err == nil {
		return exchange.TokenFile{Path: projectedToken}, nil
	}
	return exchange.TokenFile{}, &cli.UsageError{
		Message: "which token? " + projectedToken + " does not exist",
		Hint:    "project it into the pod there, or give --token-file FILE, --token-file - or --mint NAMESPACE/SERVICEACCOUNT --audience AUDIENCE",
	}
}

func readSubject(c *cli.Context, from exchange.TokenFile) (discovery.Token, error) {
	content, err := readToken(c, from.Path)
	if err != nil {
		return discovery.Token{}, err
	}
	token, err := from.Token([]byte(content.Reveal()))
	if err != nil {
		return discovery.Token{}, fmt.Errorf("token file %s: %w", from.Path, err)
	}
	return token, unlessAllowed(c, token, from.Path)
}

func unlessAllowed(c *cli.Context, token discovery.Token, file string) error {
	err := exchange.RefuseAPIToken(token, file)
	if err == nil || c.Bool("allow-api-token") {
		return nil
	}
	return fmt.Errorf("%w (--allow-api-token takes it all the same)", err)
}

func mintToken(ctx context.Context, c *cli.Context) (discovery.Token, error) {
	cluster, err := openCluster(c)
	if err != nil {
		return discovery.Token{}, err
	}
	namespace, account, _ := strings.Cut(c.String("mint"), "/")
	return cluster.MintToken(ctx, namespace, account, c.String("audience"), kube.MinExpiry)
}

// cloudsmithFlags name an organisation's service account; read them with
// cloudsmithExchanger. The environment may have the names of Cloudsmith's own
// tools.
func cloudsmithFlags() []cli.Flag {
	org := cli.String("org", "", "`SLUG` of the Cloudsmith organisation (workspace)")
	org.EnvVars = append(org.EnvVars, "CLOUDSMITH_ORG", "CLOUDSMITH_ORG_SLUG")
	service := cli.String("service-slug", "", "`SLUG` of the Cloudsmith service account to act as")
	service.EnvVars = append(service.EnvVars, "CLOUDSMITH_SERVICE_SLUG")
	return inCategory(categoryService, org, service,
		cli.String("cloudsmith-url", exchange.CloudsmithURL, "base `URL` of Cloudsmith's API"))
}

func cloudsmithConfig(c *cli.Context) exchange.CloudsmithConfig {
	return exchange.CloudsmithConfig{Org: c.String("org"), Service: c.String("service-slug"), URL: c.String("cloudsmith-url")}
}

func cloudsmithExchanger(c *cli.Context) (exchange.Exchanger, error) {
	for _, flag := range []string{"org", "service-slug"} {
		if c.String(flag) == "" {
			return nil, cli.Usagef("--%s is missing", flag)
		}
	}
	e, err := exchange.Cloudsmith(cloudsmithConfig(c))
	if err != nil {
		return nil, cli.Usagef("%v", err)
	}
	return e, nil
}

// gcpFlags name a workload identity pool provider; read them with gcpExchanger.
func gcpFlags() []cli.Flag {
	lifetime := cli.Duration("lifetime", 0, "ask for a token of the service account that lives for `DURATION`")
	lifetime.Category, lifetime.DefaultText = categoryService, "1h"
	return inCategory(categoryService, lifetime,
		cli.String("provider", "", "`NAME` of the workload identity pool provider: projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER"),
		cli.String("service-account", "", "act as the Google service account with this `EMAIL`; without, the federated token itself is the credential and lives as long as the token"),
		cli.List("scope", "ask for this OAuth `SCOPE`; repeatable (default: "+exchange.CloudPlatform+")"),
		cli.String("credential-config", "", "take provider, service account and token file from an external_account `FILE`, as gcloud writes it"),
		cli.String("sts-url", exchange.STSURL, "base `URL` of the Security Token Service"),
		cli.String("iam-url", exchange.IAMURL, "base `URL` of the IAM Credentials API"),
	)
}

// gcpExchanger also returns what it was made of, and where the credential
// configuration, if any, has the token, for subjectTokenOf.
func gcpExchanger(c *cli.Context) (exchange.Exchanger, exchange.GCPConfig, exchange.TokenFile, error) {
	config, file, err := gcpConfig(c)
	if err != nil {
		return nil, config, file, err
	}
	e, err := exchange.GCP(config)
	if err != nil {
		return nil, config, file, cli.Usagef("%v", err)
	}
	return e, config, file, nil
}

func gcpConfig(c *cli.Context) (exchange.GCPConfig, exchange.TokenFile, error) {
	config := exchange.GCPConfig{
		Provider: c.String("provider"), ServiceAccount: c.String("service-account"),
		STSURL: c.String("sts-url"), IAMURL: c.String("iam-url"),
	}
	var file exchange.TokenFile
	switch name := c.String("credential-config"); {
	case name != "" && (config.Provider != "" || config.ServiceAccount != ""):
		return config, file, cli.Usagef("--credential-config names provider and service account: leave --provider and --service-account out")
	case name != "":
		var err error
		if config, file, err = readCredentialConfig(c, name); err != nil {
			return config, file, err
		}
	case config.Provider == "":
		return config, file, cli.Usagef("--provider is missing")
	}
	if c.IsSet("lifetime") {
		config.Lifetime = c.Duration("lifetime")
	}
	config.Scopes = cli.Values(c, "scope")
	return config, file, nil
}

func readCredentialConfig(c *cli.Context, name string) (exchange.GCPConfig, exchange.TokenFile, error) {
	fail := func(err error) (exchange.GCPConfig, exchange.TokenFile, error) {
		return exchange.GCPConfig{}, exchange.TokenFile{}, cli.Usagef("--credential-config %s: %v", name, err)
	}
	data, err := httpx.ReadFile(name, maxTokenFile)
	if err != nil {
		return fail(err)
	}
	config, file, err := exchange.ReadCredentialConfig(data, c.String("sts-url"), c.String("iam-url"))
	if err != nil {
		return fail(err)
	}
	return config, file, nil
}
