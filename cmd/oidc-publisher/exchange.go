package main

import (
	"context"
	"slices"

	"oidc-publisher/internal/cli"

	"oidc-publisher/federation/exchange"
)

func exchangeCommand() *cli.Command {
	return &cli.Command{
		Name:        "exchange",
		Usage:       "exchange a service account token for a credential of a service that trusts the issuer",
		ArgsUsage:   "cloudsmith|gcp",
		Description: exchangeDescription,
		Action:      cli.NoSubcommand,
		Subcommands: []*cli.Command{exchangeCloudsmithCommand(), exchangeGCPCommand()},
	}
}

const exchangeDescription = `Presents a service account token to Cloudsmith or to Google Cloud and prints what
it was exchanged for. Where the service refuses, the same token is held against
the public issuer, and the likely cause and its cure are said.

Exit codes: 0 done; 1 failed, it may work later; 2 wrong usage; 3 the service
refused the token, or this program refused to send it.`

const exchangeFormats = `Output: text is the token alone; json has user name and expiry too;
docker-config is a config.json for docker, skopeo and crane; env is for eval.`

func exchangeCloudsmithCommand() *cli.Command {
	return &cli.Command{
		Name:  "cloudsmith",
		Usage: "exchange at Cloudsmith, as one of an organisation's exchangeService accounts",
		Description: exchangeFormats + `

Examples:
  # in a pod with a projected token
  oidc-publisher exchange cloudsmith --org acme --service-slug puller

  # from outside, for docker
  oidc-publisher exchange cloudsmith --org acme --service-slug puller \
    --mint team/puller --audience https://api.cloudsmith.io --output docker-config > config.json`,
		Flags: slices.Concat(cloudsmithFlags(), subjectTokenFlags(), clusterFlags(), exchangeOutputFlags()),
		Action: func(c *cli.Context) error {
			if err := cli.CheckArgs(c); err != nil {
				return err
			}
			exchanger, err := cloudsmithExchanger(c)
			if err != nil {
				return err
			}
			subject, err := subjectToken(c)
			if err != nil {
				return err
			}
			return exchangeAction(c, cloudsmithService(c), exchanger, subject)
		},
	}
}

func exchangeGCPCommand() *cli.Command {
	printConfig := cli.Bool("print-credential-config", "exchange nothing: print the external_account file with which Google's own client libraries do it in a pod")
	printConfig.Category = cli.CategoryOutput
	return &cli.Command{
		Name:  "gcp",
		Usage: "exchange at Google Cloud, by workload identity federation",
		Description: exchangeFormats + `

Examples:
  # in a pod with a projected token
  oidc-publisher exchange gcp --service-account puller@acme.iam.gserviceaccount.com \
    --provider projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a

  # the file for GOOGLE_APPLICATION_CREDENTIALS
  oidc-publisher exchange gcp --print-credential-config --provider … --service-account … > credentials.json`,
		Flags: append(slices.Concat(gcpFlags(), subjectTokenFlags(), clusterFlags(), exchangeOutputFlags()), printConfig),
		Action: func(c *cli.Context) error {
			if err := cli.CheckArgs(c); err != nil {
				return err
			}
			if c.Bool("print-credential-config") {
				return printCredentialConfig(c)
			}
			exchanger, config, file, err := gcpExchanger(c)
			if err != nil {
				return err
			}
			subject, err := subjectTokenOf(c, file)
			if err != nil {
				return err
			}
			return exchangeAction(c, gcpService(config), exchanger, subject)
		},
	}
}

func printCredentialConfig(c *cli.Context) error {
	config, file, err := gcpConfig(c)
	switch {
	case err != nil:
		return err
	case c.String("mint") != "" || c.String("token-file") == "-":
		return cli.Usagef("--print-credential-config needs the path that the token has in the pod: --token-file FILE, or none for %s", projectedToken)
	case c.String("token-file") != "":
		file.Path = c.String("token-file")
	case file.Path == "":
		file.Path = projectedToken
	}
	text, err := config.CredentialConfig(file.Path)
	if err != nil {
		return cli.Usagef("%v", err)
	}
	_, err = c.App.Writer.Write(text)
	return err
}

func exchangeAction(c *cli.Context, s exchangeService, exchanger exchange.Exchanger, subject subjectFunc) error {
	if err := cli.CheckTimeout(c); err != nil {
		return err
	}
	render, err := credentialRenderer(c, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	credential, err := s.exchange(ctx, c.Context, exchanger, subject)
	if err != nil {
		return cli.Overtime(err, c.Duration("timeout"))
	}
	return render(c.App.Writer, credential)
}
