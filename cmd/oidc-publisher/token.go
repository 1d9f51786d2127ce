package main

import (
	"context"
	"os"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/cli"
)

const (
	categoryToken = "Service account token"
	// projectedToken is where the examples project the token.
	projectedToken = "/var/run/secrets/tokens/oidc-token" //nolint:gosec // G101: a path
)

// tokenFlags name a service account token. defaultFile is for the help.
func tokenFlags(defaultFile string) []cli.Flag {
	file := cli.String("token-file", "", "`FILE` with the token; - is standard input")
	file.DefaultText = defaultFile
	return cli.InCategory(categoryToken, file,
		cli.String("mint", "", "mint a token for `NAMESPACE/SERVICEACCOUNT`; needs --audience"),
		cli.DurationFrom(kube.MinExpiry, "mint-duration", kube.MinExpiry, "lifetime `DURATION` of a minted token; at least 10m"),
		cli.String("audience", "", "`AUDIENCE` of the token"),
	)
}

// minter mints the token that --mint asks for.
type minter func(context.Context) (discovery.Token, error)

// readTokenFlags reads tokenFlags: the file, if any, or how the token is minted.
func readTokenFlags(c *cli.Context) (file string, mint minter, err error) {
	file = c.String("token-file")
	account, audience, duration := c.String("mint"), c.String("audience"), c.Duration("mint-duration")
	switch {
	case account == "" && c.IsSet("mint-duration"):
		return "", nil, cli.Usagef("--mint-duration needs --mint")
	case account == "":
		return file, nil, nil
	case file != "":
		return "", nil, cli.Usagef("--mint and --token-file exclude each other: give one")
	case audience == "":
		return "", nil, cli.Usagef("--mint needs --audience: the audience that the relying party expects")
	case c.String("from") != "" || len(cli.Values(c, "public-key")) > 0:
		return "", nil, cli.Usagef("--mint needs a live cluster, not --from or --public-key")
	case strings.Count(account, "/") != 1 || strings.HasPrefix(account, "/") || strings.HasSuffix(account, "/"):
		return "", nil, cli.Usagef("--mint is %q, and must be NAMESPACE/SERVICEACCOUNT", account)
	}
	config := readCluster(c)
	namespace, name, _ := strings.Cut(account, "/")
	return "", func(ctx context.Context) (discovery.Token, error) {
		cluster, err := kube.New(config)
		if err != nil {
			return discovery.Token{}, err
		}
		return cluster.MintToken(ctx, namespace, name, audience, duration)
	}, nil
}

func subjectFlags() []cli.Flag {
	return append(tokenFlags(projectedToken+" if it exists"),
		cli.InCategory(categoryToken, cli.Bool("allow-api-token", "exchange even a token for the API server itself"))...)
}

// subjectOf reads subjectFlags. If no flag names a token, configured names it.
func subjectOf(c *cli.Context, configured exchange.TokenFile) (*exchange.SubjectSource, error) {
	file, mint, err := readTokenFlags(c)
	if err != nil {
		return nil, err
	}
	subject := &exchange.SubjectSource{Mint: mint, File: configured, Stdin: c.App.Reader, AllowAPIToken: c.Bool("allow-api-token")}
	if file != "" {
		subject.File = exchange.TokenFile{Path: file}
	}
	if mint != nil || subject.File.Path != "" {
		return subject, nil
	}
	if _, err := os.Stat(projectedToken); err != nil {
		return nil, &cli.UsageError{
			Message: "which token? " + projectedToken + " does not exist",
			Hint:    "project a token to that path, or give --token-file FILE, --token-file - or --mint NAMESPACE/SERVICEACCOUNT --audience AUDIENCE",
		}
	}
	subject.File = exchange.TokenFile{Path: projectedToken}
	return subject, nil
}
