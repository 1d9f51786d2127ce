package main

import (
	"context"
	"strings"

	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/cli"
)

const categoryService = "Service"

// exchangeService describes a service that exchanges tokens, for the commands
// exchange and pull-secret.
type exchangeService struct {
	name, title string
	flags       func() []cli.Flag
	// target reads the flags.
	target func(*cli.Context) (exchangeTarget, error)
	// registries are the defaults of --registry.
	registries []string
	// variables are the names that the service's own tools give to a token.
	variables []string
	// credentialConfig prints the configuration of the service's own client
	// libraries, which read the token from a file; nil if they have none.
	credentialConfig func(c *cli.Context, tokenFile string) ([]byte, error)

	exchangeExamples, pullSecretExamples string
}

// exchangeTarget is the service and the account of one run.
type exchangeTarget struct {
	exchanger exchange.Exchanger
	// tokenFile names the token if no flag does.
	tokenFile exchange.TokenFile
	// owner and source are those of a pullsecret.Secret.
	owner, source string
	// explain describes the target for the explanation of a refusal.
	explain explain.Options
}

// exchange exchanges the token within ctx. A refusal is explained within command.
func (t exchangeTarget) exchange(ctx, command context.Context, subject *exchange.SubjectSource) (exchange.Credential, error) {
	token, err := subject.Token(ctx)
	if err != nil {
		return exchange.Credential{}, err
	}
	options := t.explain
	options.Token = token
	return explain.Exchange(ctx, command, t.exchanger, options)
}

// registryFlag is --registry with the service's default.
func (s exchangeService) registryFlag(usage string) cli.Flag {
	if len(s.registries) > 0 {
		usage += " (default: " + strings.Join(s.registries, ", ") + ")"
	}
	return cli.List("registry", usage)
}

// perService makes the command have a subcommand for each service.
func perService(command *cli.Command, services []exchangeService, subcommand func(exchangeService) *cli.Command) *cli.Command {
	for _, service := range services {
		command.Subcommands = append(command.Subcommands, subcommand(service))
		command.ArgsUsage += "|" + service.name
	}
	command.ArgsUsage = strings.TrimPrefix(command.ArgsUsage, "|")
	command.Action = cli.NoSubcommand
	return command
}
