package main

import (
	"strings"

	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/httpx"
)

func gcpService() exchangeService {
	return exchangeService{ //nolint:gosec // G101: names and examples
		name: "gcp", title: "Google Cloud", flags: gcpFlags, target: gcpTarget, credentialConfig: gcpCredentialConfig,
		variables: []string{"CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"},
		exchangeExamples: `
  # in a pod with a projected token
  oidc-publisher exchange gcp --service-account puller@acme.iam.gserviceaccount.com \
    --provider projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a

  # the file for GOOGLE_APPLICATION_CREDENTIALS
  oidc-publisher exchange gcp --print-credential-config --provider … --service-account … > credentials.json`,
		pullSecretExamples: `
  oidc-publisher pull-secret gcp --service-account puller@acme.iam.gserviceaccount.com \
    --provider projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a \
    --registry europe-docker.pkg.dev --secret-name regcred --namespace team-a,team-b --attach default`,
	}
}

func gcpFlags() []cli.Flag {
	account := cli.String("service-account", "", "`EMAIL` of the Google service account to impersonate")
	account.DefaultText = "none: the federated token is the credential"
	lifetime := cli.Duration("lifetime", 0, "lifetime `DURATION` of the service account's token")
	lifetime.DefaultText = "1h"
	return cli.InCategory(categoryService, account, lifetime,
		cli.String("provider", "", "full `NAME` of the workload identity pool provider (projects/…)"),
		cli.List("scope", "OAuth `SCOPE`; repeatable (default: "+exchange.CloudPlatform+")"),
		cli.String("credential-config", "", "external_account `FILE` with provider, service account and token file"),
		cli.String("sts-url", exchange.STSURL, "base `URL` of the Security Token Service"),
		cli.String("iam-url", exchange.IAMURL, "base `URL` of the IAM Credentials API"),
	)
}

func gcpTarget(c *cli.Context) (exchangeTarget, error) {
	config, file, err := gcpConfig(c)
	if err != nil {
		return exchangeTarget{}, err
	}
	exchanger, err := exchange.GCP(config)
	if err != nil {
		return exchangeTarget{}, cli.Usagef("%v", err)
	}
	owner := config.ServiceAccount
	if owner == "" {
		owner = config.Provider
	}
	return exchangeTarget{
		exchanger: exchanger,
		tokenFile: file,
		owner:     "gcp/" + owner,
		source:    strings.Join(append([]string{config.Provider, config.STSURL, config.IAMURL}, config.Scopes...), " "),
		explain:   explain.Options{Service: verify.GCP, Provider: config.Provider, ServiceAccount: config.ServiceAccount},
	}, nil
}

// gcpConfig reads gcpFlags. It also returns the token file that
// --credential-config names, if it is given.
func gcpConfig(c *cli.Context) (exchange.GCPConfig, exchange.TokenFile, error) {
	config := exchange.GCPConfig{
		Provider: c.String("provider"), ServiceAccount: c.String("service-account"),
		STSURL: c.String("sts-url"), IAMURL: c.String("iam-url"),
	}
	var file exchange.TokenFile
	switch path := c.String("credential-config"); {
	case path != "" && (config.Provider != "" || config.ServiceAccount != ""):
		return config, file, cli.Usagef("--credential-config names provider and service account: leave --provider and --service-account out")
	case path != "":
		data, err := httpx.ReadFile(path, exchange.MaxTokenFile)
		if err == nil {
			config, file, err = exchange.ReadCredentialConfig(data, config.STSURL, config.IAMURL)
		}
		if err != nil {
			return config, file, cli.Usagef("--credential-config %s: %v", path, err)
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

func gcpCredentialConfig(c *cli.Context, tokenFile string) ([]byte, error) {
	config, file, err := gcpConfig(c)
	if err != nil {
		return nil, err
	}
	if tokenFile == "" {
		tokenFile = file.Path
	}
	if tokenFile == "" {
		tokenFile = projectedToken
	}
	text, err := config.CredentialConfig(tokenFile)
	if err != nil {
		return nil, cli.Usagef("%v", err)
	}
	return text, nil
}
