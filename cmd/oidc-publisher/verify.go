package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/cli"
	"oidc-publisher/publish"
)

const (
	// defaultTimeout also bounds the checks of verify after --wait-for-kid.
	defaultTimeout = 30 * time.Second
	// waitTimeout is the default of --timeout with --wait-for-kid: twice the
	// lifetime that Cloud Storage gives to objects without Cache-Control.
	waitTimeout = 2 * time.Hour
)

func verifyCommand() *cli.Command {
	var parties []string
	for _, party := range verify.RelyingParties() {
		parties = append(parties, string(party))
	}
	timeout := cli.Timeout(defaultTimeout)
	timeout.DefaultText = "30s, with --wait-for-kid 2h"
	return &cli.Command{
		Name:        "verify",
		Usage:       "check a public issuer as a relying party does, and explain failures",
		ArgsUsage:   "ISSUER",
		Description: verifyDescription,
		Flags: slices.Concat(
			[]cli.Flag{
				cli.List("for", "add the limits of `SERVICES`, comma-separated: "+strings.Join(parties, ", ")),
				cli.String("wait-for-kid", "", "first wait until the key `ID` is safe to sign with"),
				timeout,
			},
			tokenFlags(""), sourceFlags(), []cli.Flag{cli.Output("text", "json", "junit")}, cli.LogFlags(cli.LogText)),
		Action: verifyAction,
	}
}

const verifyDescription = `Fetches the public documents anonymously and checks what relying parties check.
With a source it compares them with the cluster; with a token it checks that the
token verifies; with --for it adds the limits of single services. For cloudsmith
and gcp, with a token, it prints what to configure there to trust the token.

--wait-for-kid first waits until a key is safe to sign with: public for longer
than any cache keeps an answer. --timeout bounds the wait then, by default 2h.

Exit codes: 0 fit; 1 could not check; 3 a relying party would refuse.

Examples:
  # what everybody sees
  oidc-publisher verify https://storage.googleapis.com/my-issuer

  # against the cluster, with a fresh token, for two services
  oidc-publisher verify https://issuer.example.com --mint default/default --audience sts.amazonaws.com --for aws,vault

  # the gate before the API server signs with a new key
  oidc-publisher verify https://issuer.example.com --wait-for-kid KEY_ID --timeout 2h`

// verification is the flags of one run. The options have no snapshot and no
// token yet.
type verification struct {
	options     verify.Options
	source      source
	compare     bool // with the source
	readToken   func(context.Context) (discovery.Token, error)
	waitForKID  string
	waitLimit   time.Duration
	checksLimit time.Duration
	format      string
}

func verifyAction(c *cli.Context) error {
	v, err := readVerifyFlags(c)
	if err != nil {
		return err
	}
	log := cli.Logger(c)
	if err := v.awaitKey(c.Context, log); err != nil {
		return v.printUnchecked(c, "wait-for-kid", "key is safe to sign with", err)
	}
	ctx, cancel := context.WithTimeout(c.Context, v.checksLimit)
	defer cancel()
	if err := v.fetch(ctx, log); err != nil {
		return v.printUnchecked(c, "source", "cluster and token can be read", cli.Overtime(err, v.checksLimit))
	}
	report, err := verify.Run(ctx, v.options)
	if err != nil {
		return err
	}
	if err := renderVerify(cli.Masked{Writer: c.App.Writer}, report, v.format, cli.Colour(c.App.Writer), explain.Trusts(v.options.For, v.options.Token)...); err != nil {
		return err
	}
	switch report.Verdict {
	case verify.Fail:
		return &cli.ExitError{Code: cli.ExitRefused}
	case verify.Error:
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return nil
}

// readVerifyFlags reads the flags and makes no request.
func readVerifyFlags(c *cli.Context) (verification, error) {
	source, err := readSource(c)
	if err != nil {
		return verification{}, err
	}
	tokenFile, mint, err := readTokenFlags(c)
	if err != nil {
		return verification{}, err
	}
	v := verification{
		options:     verify.Options{Issuer: c.Args().First(), Audience: c.String("audience")},
		source:      source,
		compare:     source.isNamed() || mint != nil,
		readToken:   mint,
		waitForKID:  c.String("wait-for-kid"),
		checksLimit: c.Duration("timeout"),
		format:      c.String("output"),
	}
	if tokenFile != "" {
		stdin := c.App.Reader
		v.readToken = func(context.Context) (discovery.Token, error) {
			token, err := exchange.ReadToken(tokenFile, stdin)
			if err != nil {
				err = fmt.Errorf("--token-file: %w", err)
			}
			return token, err
		}
	}
	if v.waitForKID != "" {
		v.waitLimit, v.checksLimit = v.checksLimit, defaultTimeout
		if !c.IsSet("timeout") {
			v.waitLimit = waitTimeout
		}
	}
	for _, name := range cli.CommaValues(c, "for") {
		party, err := verify.ParseRelyingParty(name)
		if err != nil {
			return v, cli.Usagef("--for: %v", err)
		}
		v.options.For = append(v.options.For, party)
	}
	return v, nil
}

// fetch adds the documents of the source and the token to the options.
func (v *verification) fetch(ctx context.Context, log *slog.Logger) error {
	if v.compare {
		source, err := v.source.open(discovery.Issuer(v.options.Issuer))
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
		v.options.Source = &snapshot
	}
	if v.readToken == nil {
		return nil
	}
	var err error
	v.options.Token, err = v.readToken(ctx)
	return err
}

// awaitKey waits for the key of --wait-for-kid. A key that is still not safe
// when the time is over is a refusal.
func (v *verification) awaitKey(ctx context.Context, log *slog.Logger) error {
	if v.waitForKID == "" {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, v.waitLimit)
	defer cancel()
	var last string
	err := verify.WaitForKey(limited, v.options, v.waitForKID, func(p verify.Progress) {
		if line := p.String(); line != last {
			log.Info(line)
			last = line
		}
	})
	if wait := new(verify.WaitError); errors.As(err, &wait) && wait.Last.Answered && ctx.Err() == nil {
		return &publish.RefusedError{Reasons: []error{err}}
	}
	return err
}

// printUnchecked prints a document with the error for a script that asked for
// one, if the checks did not even begin.
func (v *verification) printUnchecked(c *cli.Context, id, title string, err error) error {
	if v.format == "text" {
		return err
	}
	status := verify.Error
	if errors.Is(err, publish.ErrRefused) {
		status = verify.Fail
	}
	check := verify.Check{ID: id, Title: title, Status: status, Cause: err.Error()}
	report := verify.Report{Issuer: v.options.Issuer, Verdict: status, Checks: []verify.Check{check}}
	return errors.Join(err, renderVerify(cli.Masked{Writer: c.App.Writer}, report, v.format, false))
}
