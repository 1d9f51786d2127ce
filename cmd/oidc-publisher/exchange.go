package main

import (
	"context"
	"slices"

	"oidc-publisher/internal/cli"
)

func exchangeCommand(services []exchangeService) *cli.Command {
	return perService(&cli.Command{
		Name:        "exchange",
		Usage:       "exchange a service account token for a service's access token",
		Description: exchangeDescription,
	}, services, exchangeWith)
}

const exchangeDescription = `Presents a service account token to a service that trusts the issuer, and prints
the access token that the service returns. If the service refuses, the same token
is checked against the public issuer, and the likely cause is printed.

Exit codes: 0 done; 1 failed, a retry may help; 2 wrong usage; 3 the service
refused the token, or this program refused to send it.`

const exchangeServiceDescription = `Output: text is the token alone; json has user name and expiry too;
docker-config is a config.json for docker, skopeo and crane; env is for eval.

A token for the API server itself is refused, because its receiver could act in
the cluster. It is recognised by its file and its audience; other audiences that
the API server accepts (--api-audiences, a second --service-account-issuer) are
not. --allow-api-token overrides the refusal.

Examples:`

func exchangeWith(service exchangeService) *cli.Command {
	flags := slices.Concat(service.flags(), subjectFlags(), clusterFlags(),
		[]cli.Flag{cli.Output("text", "json", "docker-config", "env"), cli.Timeout(defaultTimeout)},
		cli.InCategory(cli.CategoryOutput, service.registryFlag("`HOST` in a docker-config; repeatable")))
	if service.credentialConfig != nil {
		flags = append(flags, cli.InCategory(cli.CategoryOutput,
			cli.Bool("print-credential-config", "print the external_account file for the service's client libraries instead"))...)
	}
	return &cli.Command{
		Name:        service.name,
		Usage:       "exchange the token at " + service.title,
		Description: exchangeServiceDescription + service.exchangeExamples,
		Flags:       flags,
		Action:      func(c *cli.Context) error { return exchangeAction(c, service) },
	}
}

func exchangeAction(c *cli.Context, service exchangeService) error {
	if c.Bool("print-credential-config") {
		return printCredentialConfig(c, service)
	}
	target, err := service.target(c)
	if err != nil {
		return err
	}
	subject, err := subjectOf(c, target.tokenFile)
	if err != nil {
		return err
	}
	registries, err := registryHosts(c, service.registries)
	if err != nil {
		return err
	}
	if c.String("output") == "docker-config" && len(registries) == 0 {
		return cli.Usagef("--output docker-config needs --registry HOST, such as europe-docker.pkg.dev")
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	credential, err := target.exchange(ctx, c.Context, subject)
	if err != nil {
		return cli.Overtime(err, c.Duration("timeout"))
	}
	return printCredential(c, service, registries, credential)
}

func printCredentialConfig(c *cli.Context, service exchangeService) error {
	file, mint, err := readTokenFlags(c)
	if err != nil {
		return err
	}
	if mint != nil || file == "-" {
		return cli.Usagef("--print-credential-config needs the path that the token has in the pod: --token-file FILE, or none for %s", projectedToken)
	}
	config, err := service.credentialConfig(c, file)
	if err != nil {
		return err
	}
	_, err = c.App.Writer.Write(config)
	return err
}
