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

// printCredential prints the credential in the format of --output.
func printCredential(c *cli.Context, service exchangeService, registries []string, credential exchange.Credential) error {
	switch c.String("output") {
	case "json":
		return cli.PrintJSON(c.App.Writer, credentialJSON{service.name, credential.Username, credential.Password.Reveal(), orNull(credential.Expiry)})
	case "docker-config":
		config, err := pullsecret.DockerConfig(registries, credential)
		if err != nil {
			return err
		}
		return cli.PrintJSON(c.App.Writer, json.RawMessage(config))
	case "env":
		return printEnv(c.App.Writer, credential, service.variables)
	default:
		_, err := fmt.Fprintln(c.App.Writer, credential.Password.Reveal())
		return err
	}
}

// registryHosts returns the hosts of --registry, in the form that image
// references use.
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
	Service  string     `json:"service"`
	Username string     `json:"username"`
	Token    string     `json:"token"`
	Expiry   *time.Time `json:"expiry"` // null where the service does not say
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
