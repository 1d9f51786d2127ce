package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"oidc-publisher/internal/cli"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/federation/pullsecret"
)

func exchangeOutputFlags() []cli.Flag {
	registry := cli.List("registry", "registry `HOST` of a docker-config; repeatable (default for Cloudsmith: docker.cloudsmith.io)")
	registry.Category = cli.CategoryOutput
	return []cli.Flag{cli.Output("text", "json", "docker-config", "env"), registry, cli.Timeout()}
}

// exchangeService is what the output and the explanation know of where a token is
// exchanged.
type exchangeService struct {
	// registries are those of a docker-config where none is given.
	registries []string
	// variables are the names by which the service's own tools know a token.
	variables []string
	// explain is all but the token.
	explain explain.Options
}

func cloudsmithService(c *cli.Context) exchangeService {
	return exchangeService{
		registries: []string{"docker.cloudsmith.io"}, variables: []string{"CLOUDSMITH_API_KEY"},
		explain: explain.Options{Service: verify.Cloudsmith, Org: c.String("org"), ServiceSlug: c.String("service-slug")},
	}
}

func gcpService(config exchange.GCPConfig) exchangeService {
	return exchangeService{
		variables: []string{"CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"},
		explain:   explain.Options{Service: verify.GCP, Provider: config.Provider, ServiceAccount: config.ServiceAccount},
	}
}

// exchange exchanges the subject token. A refusal is explained within the
// command's context, since the exchange may have used up its own.
func (s exchangeService) exchange(ctx, command context.Context, exchanger exchange.Exchanger, subject subjectFunc) (exchange.Credential, error) {
	token, err := subject(ctx)
	if err != nil {
		return exchange.Credential{}, err
	}
	credential, err := exchanger.Exchange(ctx, token)
	if err != nil {
		return exchange.Credential{}, s.explained(command, err, token)
	}
	return credential, nil
}

// explained adds to a refusal why the token was refused.
func (s exchangeService) explained(ctx context.Context, err error, token discovery.Token) error {
	var refused *exchange.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	options := s.explain
	options.Token = token
	return fmt.Errorf("%w\n%s", err, explain.Refusal(ctx, refused, options).Text())
}

const explainTimeout = 15 * time.Second

// credentialRenderer is what writes the credential in the format of --output.
func credentialRenderer(c *cli.Context, s exchangeService) (func(io.Writer, exchange.Credential) error, error) {
	format, err := cli.OutputFormat(c, "text", "json", "docker-config", "env")
	if err != nil {
		return nil, err
	}
	registries, err := registryHosts(c, s.registries)
	if err != nil {
		return nil, err
	}
	switch format {
	case "json":
		return func(w io.Writer, credential exchange.Credential) error {
			return cli.PrintJSON(w, credentialJSONOf(string(s.explain.Service), credential))
		}, nil
	case "docker-config":
		if len(registries) == 0 {
			return nil, cli.Usagef("--output docker-config needs --registry HOST, like europe-docker.pkg.dev")
		}
		return func(w io.Writer, credential exchange.Credential) error {
			config, err := pullsecret.DockerConfig(registries, credential)
			if err != nil {
				return err
			}
			return cli.PrintJSON(w, json.RawMessage(config))
		}, nil
	case "env":
		return s.printEnv, nil
	default:
		return func(w io.Writer, credential exchange.Credential) error {
			_, err := fmt.Fprintln(w, credential.Password.Reveal())
			return err
		}, nil
	}
}

// registryHosts are the hosts of --registry, as they stand in images.
func registryHosts(c *cli.Context, otherwise []string) ([]string, error) {
	hosts := cli.Values(c, "registry")
	if len(hosts) == 0 {
		return otherwise, nil
	}
	for _, host := range hosts {
		if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/@?#"\`, r) }) {
			return nil, cli.Usagef("--registry is %q, and must be a host as images begin with it, like docker.cloudsmith.io", host)
		}
	}
	return hosts, nil
}

// The JSON form of an exchange: a contract with scripts.
type credentialJSON struct {
	Service  string  `json:"service"`
	Username string  `json:"username"`
	Token    string  `json:"token"`
	Expiry   *string `json:"expiry"` // RFC 3339; null where the service does not say
}

func credentialJSONOf(service string, credential exchange.Credential) credentialJSON {
	out := credentialJSON{Service: service, Username: credential.Username, Token: credential.Password.Reveal()}
	if !credential.Expiry.IsZero() {
		expiry := credential.Expiry.UTC().Format(time.RFC3339)
		out.Expiry = &expiry
	}
	return out
}

// printEnv writes lines for a shell's eval.
func (s exchangeService) printEnv(w io.Writer, credential exchange.Credential) error {
	var out strings.Builder
	export := func(name, value string) { fmt.Fprintf(&out, "export %s=%s\n", name, shellQuote(value)) }
	export("REGISTRY_USERNAME", credential.Username)
	export("REGISTRY_PASSWORD", credential.Password.Reveal())
	for _, variable := range s.variables {
		export(variable, credential.Password.Reveal())
	}
	if !credential.Expiry.IsZero() {
		export("REGISTRY_EXPIRY", credential.Expiry.UTC().Format(time.RFC3339))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// shellQuote makes any text one word of a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
