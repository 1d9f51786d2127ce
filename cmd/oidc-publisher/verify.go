package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/httpx"
	"oidc-publisher/publish"
)

const (
	// maxTokenFile bounds what is read of a token file.
	maxTokenFile = 64 << 10
	// waitTimeout is the default of --timeout with --wait-for-kid: twice the
	// lifetime that Cloud Storage gives to objects without Cache-Control.
	waitTimeout = 2 * time.Hour
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:        "verify",
		Usage:       "see a public issuer as a relying party does, and say why it would be refused",
		ArgsUsage:   "ISSUER",
		Description: verifyDescription,
		Flags:       verifyFlags(),
		Action:      verifyAction,
	}
}

const verifyDescription = `Reads the public documents anonymously and judges all that relying parties
look at. With a source it compares them with the cluster; with a token it checks
that the token verifies; with --for it adds the limits of single services. For
cloudsmith and gcp, with a token, it prints what to enter there to trust it.

Exit codes: 0 fit; 1 could not check; 3 a relying party would refuse.

Examples:
  # what the world sees
  oidc-publisher verify https://storage.googleapis.com/my-issuer

  # against the cluster, with a fresh token, for two services
  oidc-publisher verify https://issuer.example.com --mint default/default --audience sts.amazonaws.com --for aws,vault

  # the gate before the API server signs with a new key
  oidc-publisher verify https://issuer.example.com --wait-for-kid KEY_ID --timeout 2h`

func verifyFlags() []cli.Flag {
	flags := []cli.Flag{
		cli.String("token-file", "", "check that the service account token in `FILE` verifies; - is standard input"),
		cli.String("mint", "", "check that a token newly minted for `NAMESPACE/SERVICEACCOUNT` verifies; needs --audience"),
		cli.String("audience", "", "the `AUDIENCE` that the token is for"),
		cli.List("for", "add the limits of these `SERVICES`, separated by commas: "+strings.Join(relyingPartyNames(), ", ")),
		cli.String("wait-for-kid", "", "first wait until the key `ID` is safe to sign with: public for longer than any cache keeps an answer"),
		cli.Duration("timeout", 30*time.Second, "give up after `DURATION`; with --wait-for-kid it bounds the wait, 2h by default"),
	}
	flags = append(flags, sourceFlags()...)
	return append(append(flags, cli.Output("text", "json", "junit")), cli.LogFlags(cli.LogText)...)
}

func relyingPartyNames() []string {
	var names []string
	for _, party := range verify.RelyingParties() {
		names = append(names, string(party))
	}
	return names
}

func verifyAction(c *cli.Context) error {
	format, err := cli.OutputFormat(c, "text", "json", "junit")
	if err != nil {
		return err
	}
	log, err := cli.Logger(c)
	if err != nil {
		return err
	}
	opts, err := verifyOptions(c)
	if err != nil {
		return err
	}
	if err := waitForKey(c, opts, log); err != nil {
		return tellUnchecked(c, opts, format, "wait-for-kid", "key is safe to sign with", err)
	}
	ctx, cancel := context.WithTimeout(c.Context, checkingTime(c))
	defer cancel()
	if err := addCluster(ctx, c, &opts, log); err != nil {
		return tellUnchecked(c, opts, format, "source", "cluster and token can be read", cli.Overtime(err, checkingTime(c)))
	}
	result, err := verify.Run(ctx, opts)
	if err != nil {
		return err
	}
	if err := renderVerify(cli.Masked{Writer: c.App.Writer}, result, format, cli.Colour(c.App.Writer), trustOf(opts)...); err != nil {
		return err
	}
	switch result.Verdict {
	case verify.Fail:
		return &cli.ExitError{Code: cli.ExitRefused}
	case verify.Error:
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return nil
}

// trustOf is what to enter at the services of --for so that they trust the
// token. A token that can't be read has its check.
func trustOf(opts verify.Options) []explain.Trust {
	var all []explain.Trust
	for _, party := range opts.For {
		trust, err := explain.TrustOf(explain.Options{Service: party, Token: opts.Token})
		if err == nil && len(trust.Values) > 0 {
			all = append(all, trust)
		}
	}
	return all
}

// tellUnchecked gives a script that asked for a document one with the error in
// it, where checking did not even begin.
func tellUnchecked(c *cli.Context, opts verify.Options, format, id, title string, err error) error {
	if format == "text" {
		return err
	}
	status := verify.Error
	if errors.Is(err, publish.ErrRefused) {
		status = verify.Fail
	}
	check := verify.Check{ID: id, Title: title, Status: status, Cause: err.Error()}
	report := verify.Report{Issuer: opts.Issuer, Verdict: status, Checks: []verify.Check{check}}
	return errors.Join(err, renderVerify(cli.Masked{Writer: c.App.Writer}, report, format, false))
}

// verifyOptions reads the flags; nothing is asked yet.
func verifyOptions(c *cli.Context) (verify.Options, error) {
	if err := errors.Join(cli.CheckArgs(c, "ISSUER"), checkSource(c), cli.CheckTimeout(c), checkTokenFlags(c)); err != nil {
		return verify.Options{}, err
	}
	opts := verify.Options{Issuer: c.Args().First(), Audience: c.String("audience")}
	for _, given := range cli.Values(c, "for") {
		for name := range strings.SplitSeq(given, ",") {
			party, err := verify.ParseRelyingParty(strings.TrimSpace(name))
			if err != nil {
				return opts, cli.Usagef("--for: %v", err)
			}
			opts.For = append(opts.For, party)
		}
	}
	return opts, nil
}

func checkTokenFlags(c *cli.Context) error {
	mint := c.String("mint")
	switch {
	case mint == "":
		return nil
	case c.String("token-file") != "":
		return cli.Usagef("--mint and --token-file are two tokens: give one")
	case c.String("audience") == "":
		return cli.Usagef("--mint needs --audience: the audience that the relying party expects")
	case fromFiles(c):
		return cli.Usagef("--mint needs a live cluster, not --from or --public-key")
	case strings.Count(mint, "/") != 1 || strings.HasPrefix(mint, "/") || strings.HasSuffix(mint, "/"):
		return cli.Usagef("--mint is %q, and must be NAMESPACE/SERVICEACCOUNT", mint)
	}
	return nil
}

// addCluster adds to the options what comes from the cluster: its documents,
// and a token.
func addCluster(ctx context.Context, c *cli.Context, opts *verify.Options, log *slog.Logger) error {
	if err := addSnapshot(ctx, c, opts, log); err != nil {
		return err
	}
	if file := c.String("token-file"); file != "" {
		token, err := readToken(c, file)
		opts.Token = token
		return err
	}
	if c.String("mint") == "" {
		return nil
	}
	var err error
	opts.Token, err = mintToken(ctx, c)
	return err
}

// addSnapshot asks the source, if one was named or is needed anyway.
func addSnapshot(ctx context.Context, c *cli.Context, opts *verify.Options, log *slog.Logger) error {
	live := c.String("kubeconfig") != "" || c.String("context") != "" || c.Bool("all-api-servers") || c.String("mint") != ""
	if !live && !fromFiles(c) {
		return nil
	}
	source, err := openSource(c, discovery.Issuer(opts.Issuer))
	if err != nil {
		return err
	}
	snapshot, err := publish.Fetch(ctx, source)
	if err != nil {
		return err
	}
	for _, warning := range snapshot.Warnings {
		log.Warn(warning)
	}
	opts.Source = &snapshot
	return nil
}

// readToken reads a token; its errors never show what was read.
func readToken(c *cli.Context, file string) (discovery.Token, error) {
	from := c.App.Reader
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return discovery.Token{}, fmt.Errorf("--token-file: %w", err)
		}
		defer opened.Close()
		from = opened
	}
	raw, err := httpx.Read(from, maxTokenFile)
	switch {
	case errors.Is(err, httpx.ErrTooLarge):
		return discovery.Token{}, fmt.Errorf("--token-file %s: larger than %d bytes, so it is not a token", file, maxTokenFile)
	case err != nil:
		return discovery.Token{}, fmt.Errorf("--token-file %s: %w", file, err)
	case strings.TrimSpace(string(raw)) == "":
		return discovery.Token{}, fmt.Errorf("--token-file %s: is empty", file)
	}
	return discovery.NewToken(string(raw)), nil
}

func waitForKey(c *cli.Context, opts verify.Options, log *slog.Logger) error {
	kid := c.String("wait-for-kid")
	if kid == "" {
		return nil
	}
	limit := c.Duration("timeout")
	if !c.IsSet("timeout") {
		limit = waitTimeout
	}
	ctx, cancel := context.WithTimeout(c.Context, limit)
	defer cancel()
	var last string
	err := verify.WaitForKey(ctx, opts, kid, func(p verify.Progress) {
		if line := progressLine(p); line != last {
			log.Info(line)
			last = line
		}
	})
	if wait := new(verify.WaitError); errors.As(err, &wait) && wait.Last.Answered && c.Err() == nil {
		return &publish.RefusedError{Reasons: []error{err}}
	}
	return err
}

// progressLine changes at most once a minute while nothing else does.
func progressLine(p verify.Progress) string {
	if !p.Public {
		return fmt.Sprintf("waiting for key %q: %s", p.KeyID, p.Seen)
	}
	return fmt.Sprintf("key %q is public; safe to sign with in %v", p.KeyID, (p.Remaining + time.Minute - 1).Truncate(time.Minute))
}

// checkingTime is what the checks may take once waiting is over.
func checkingTime(c *cli.Context) time.Duration {
	if c.String("wait-for-kid") != "" {
		return 30 * time.Second
	}
	return c.Duration("timeout")
}
