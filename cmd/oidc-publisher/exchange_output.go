package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/pullsecret"
	"oidc-publisher/internal/cli"
)

// credentialPrinter returns what prints the credential in the format of --output.
func credentialPrinter(c *cli.Context, service exchangeService) (func(io.Writer, exchange.Credential) error, error) {
	format, err := cli.OutputFormat(c, "text", "json", "docker-config", "env")
	if err != nil {
		return nil, err
	}
	registries, err := registryHosts(c, service.registries)
	if err != nil {
		return nil, err
	}
	switch format {
	case "json":
		return func(w io.Writer, credential exchange.Credential) error {
			return cli.PrintJSON(w, credentialJSONOf(service.name, credential))
		}, nil
	case "docker-config":
		if len(registries) == 0 {
			return nil, cli.Usagef("--output docker-config needs --registry HOST, such as europe-docker.pkg.dev")
		}
		return func(w io.Writer, credential exchange.Credential) error {
			config, err := pullsecret.DockerConfig(registries, credential)
			if err != nil {
				return err
			}
			return cli.PrintJSON(w, json.RawMessage(config))
		}, nil
	case "env":
		return func(w io.Writer, credential exchange.Credential) error {
			return printEnv(w, credential, service.variables)
		}, nil
	default:
		return func(w io.Writer, credential exchange.Credential) error {
			_, err := fmt.Fprintln(w, credential.Password.Reveal())
			return err
		}, nil
	}
}

// registryHosts returns the hosts of --registry, as image references have them.
func registryHosts(c *cli.Context, defaults []string) ([]string, error) {
	hosts := cli.Values(c, "registry")
	if len(hosts) == 0 {
		return defaults, nil
	}
	for _, host := range hosts {
		if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/@?#"\`, r) }) {
			return nil, cli.Usagef("--registry is %q, and must be the host of the images, such as docker.cloudsmith.io", host)
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

// printEnv prints lines for a shell's eval.
func printEnv(w io.Writer, credential exchange.Credential, variables []string) error {
	var out strings.Builder
	export := func(name, value string) { fmt.Fprintf(&out, "export %s=%s\n", name, shellQuote(value)) }
	export("REGISTRY_USERNAME", credential.Username)
	export("REGISTRY_PASSWORD", credential.Password.Reveal())
	for _, variable := range variables {
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
