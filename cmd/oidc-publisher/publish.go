package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"oidc-publisher/internal/cli"

	"oidc-publisher/backends"
	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/publish"
)

func publishCommand() *cli.Command {
	return &cli.Command{
		Name:        "publish",
		Usage:       "copy a cluster's discovery documents to where relying parties can read them",
		Description: publishDescription,
		Flags:       publishFlags(),
		Action:      publishAction,
	}
}

var publishDescription = `Reads both documents from the API server, checks them, points jwks_uri to the
public issuer and writes what differs to each target. Keys that the cluster no
longer lists stay public for --grace, so that no live token loses its key.

Targets: ` + backends.Accepted() + `.
Credentials are those of the cloud's own tools and environment.
Where the issuer is itself a bucket's URL, --to may be left out.

Examples:
  # the current kubeconfig context, to the bucket that its issuer names
  oidc-publisher publish

  # what would be written?
  oidc-publisher publish --to 's3://my-issuer?region=eu-central-1' --dry-run

  # before the cluster exists, from its public key
  oidc-publisher publish --public-key sa.pub --issuer https://storage.googleapis.com/my-issuer

  # a leaked key
  oidc-publisher publish --revoke KEY_ID`

func publishFlags() []cli.Flag {
	flags := []cli.Flag{
		cli.List("to", "publish to `TARGET`; repeatable (default: the bucket that the issuer names)"),
		cli.String("issuer", "", "public issuer `URL`, exactly the cluster's own (default: the cluster's own)"),
		cli.String("owner", "", "owner `NAME` recorded at the target (default: the cluster itself)"),
		cli.Duration("grace", publish.DefaultGrace, "keep retired keys public for `DURATION`; 0 removes them at once"),
		cli.List("revoke", "remove key `ID` now and never publish it again; repeatable"),
		cli.Bool("take-over", "overwrite a target that belongs to another owner"),
		cli.Bool("ahead-of-issuer-change", "publish for an --issuer that the cluster will have"),
		cli.String("canary", "", "mint tokens for `NAMESPACE/SERVICEACCOUNT` to check the signing key, or none (default: this program's own account, else default/default)"),
		cli.Bool("no-verify", "do not read the public issuer after writing"),
		cli.Bool("dry-run", "print what would be written, and write nothing"),
		cli.Timeout(),
	}
	flags = append(flags, sourceFlags()...)
	return append(append(flags, cli.Output("text", "json")), cli.LogFlags(cli.LogText)...)
}

func publishAction(c *cli.Context) error {
	format, err := cli.OutputFormat(c, "text", "json")
	if err != nil {
		return err
	}
	log, err := cli.Logger(c)
	if err != nil {
		return err
	}
	publisher, err := newPublisher(c, nil)
	if err != nil {
		return err
	}
	publisher.DryRun, publisher.NoVerify, publisher.Log = c.Bool("dry-run"), c.Bool("no-verify"), log
	began := time.Now()
	if err := openTargets(c, publisher); err != nil {
		return err
	}
	defer closeTargets(publisher.Targets)
	publisher.Timeout -= time.Since(began) // it bounds all steps together
	report, err := publisher.Publish(c.Context)
	if err != nil {
		return tellFailure(c.App.Writer, format, publisher.DryRun, cli.Overtime(err, c.Duration("timeout")))
	}
	if c.Err() != nil {
		report.Proof = publish.Proof{} // cut short, it says nothing
	}
	for i, target := range report.Targets {
		report.Targets[i].Err = cli.Overtime(target.Err, c.Duration("timeout"))
	}
	for _, warning := range warnings(report) {
		log.Warn(warning)
	}
	if format == "json" {
		err = cli.PrintJSON(c.App.Writer, publishJSON(report, publisher.DryRun))
	} else {
		err = printReport(c.App.Writer, report, publisher.DryRun)
	}
	if err != nil {
		return err
	}
	return cmp.Or(outcome(c.App.ErrWriter, report), c.Err())
}

// newPublisher makes a Publisher of the flags, without targets yet. It calls
// disconnected when an API server closes its connection.
func newPublisher(c *cli.Context, disconnected func()) (*publish.Publisher, error) {
	if err := errors.Join(cli.CheckArgs(c), checkSource(c), cli.CheckTimeout(c)); err != nil {
		return nil, err
	}
	policy, err := policy(c)
	if err != nil {
		return nil, err
	}
	if _, err := parseTargets(cli.Values(c, "to")); err != nil {
		return nil, err
	}
	p := &publish.Publisher{Policy: policy, Timeout: c.Duration("timeout")}
	if fromFiles(c) {
		p.Source, err = openSource(c, policy.Issuer)
		return p, err
	}
	config := clusterConfig(c)
	config.Disconnected = disconnected
	cluster, err := kube.New(config)
	if err != nil {
		return nil, err
	}
	p.Source = cluster
	return p, nil
}

func policy(c *cli.Context) (publish.Policy, error) {
	policy := publish.Policy{
		Owner:               c.String("owner"),
		Grace:               c.Duration("grace"),
		Revoke:              cli.Values(c, "revoke"),
		TakeOver:            c.Bool("take-over"),
		AheadOfIssuerChange: c.Bool("ahead-of-issuer-change"),
	}
	if policy.Grace < 0 {
		return policy, cli.Usagef("--grace must not be negative")
	}
	given := c.String("issuer")
	if given == "" {
		if c.String("tunnel") != "" {
			return policy, nil // its public URL becomes the issuer
		}
		if len(cli.Values(c, "public-key")) > 0 {
			return policy, cli.Usagef("--public-key needs --issuer: a key file does not say whose it is")
		}
		if policy.AheadOfIssuerChange {
			return policy, cli.Usagef("--ahead-of-issuer-change needs --issuer: the issuer that the cluster will have")
		}
		return policy, nil
	}
	issuer, err := discovery.ParseIssuer(given)
	if err != nil {
		return policy, cli.Usagef("--issuer: %v", err)
	}
	policy.Issuer = issuer
	return policy, nil
}

// openTargets opens what --to names or, without it, the bucket that the issuer
// names; to learn the issuer it may fetch from the cluster first.
func openTargets(c *cli.Context, p *publish.Publisher) error {
	targets, err := parseTargets(cli.Values(c, "to"))
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		target, err := targetOfIssuer(c.Context, p)
		if err != nil {
			return err
		}
		targets = []backends.Target{target}
	}
	for _, target := range targets {
		opened, err := target.Open(c.Context)
		if err != nil {
			closeTargets(p.Targets)
			return err
		}
		p.Targets = append(p.Targets, opened)
	}
	return nil
}

func parseTargets(given []string) ([]backends.Target, error) {
	var targets []backends.Target
	seen := map[string]bool{}
	for _, raw := range given {
		target, err := backends.Parse(raw)
		if err != nil {
			return nil, cli.Usagef("--to: %v", err)
		}
		if seen[target.String()] {
			return nil, cli.Usagef("--to names %s twice", target)
		}
		seen[target.String()] = true
		targets = append(targets, target)
	}
	return targets, nil
}

func targetOfIssuer(ctx context.Context, p *publish.Publisher) (backends.Target, error) {
	issuer := p.Policy.Issuer
	if issuer == "" {
		ctx, cancel := context.WithTimeout(ctx, p.Timeout)
		defer cancel()
		snapshot, err := publish.Fetch(ctx, p.Source)
		if err != nil {
			return backends.Target{}, err
		}
		issuer = snapshot.Document.Issuer()
		p.First = snapshot
	}
	target, ok := backends.ForIssuer(string(issuer))
	if !ok {
		return target, cli.Usagef("--to is missing: the issuer %q is not a bucket's URL, so say where to publish", issuer)
	}
	return target, nil
}

func closeTargets(targets []publish.Target) {
	for _, target := range targets {
		_ = target.Backend.Close() // every write is durable already
	}
}

// outcome makes one error of the targets' errors.
func outcome(stderr io.Writer, report publish.Report) error {
	var failed, refused int
	for _, t := range report.Targets {
		switch {
		case errors.Is(t.Err, publish.ErrRefused):
			refused++
			cli.Say(stderr, "refused", prefixed(t))
		case t.Err != nil:
			failed++
			cli.Say(stderr, "error", prefixed(t))
		}
	}
	switch {
	case failed+refused > 0 && failed+refused < len(report.Targets):
		return &cli.ExitError{Code: cli.ExitPartly}
	case failed > 0:
		return &cli.ExitError{Code: cli.ExitFailed}
	case refused > 0:
		return &cli.ExitError{Code: cli.ExitRefused}
	case report.Proof.Failed():
		return fmt.Errorf("published, but the public issuer does not answer with it: %w", report.Proof.Err)
	}
	return nil
}

func prefixed(t publish.TargetReport) string { return t.Target.Name + ": " + t.Err.Error() }

// warnings are printed once, however many targets share them.
func warnings(report publish.Report) []string {
	var all []string
	seen := map[string]bool{}
	add := func(warning string) {
		if !seen[warning] {
			seen[warning] = true
			all = append(all, warning)
		}
	}
	for _, warning := range report.Warnings {
		add(warning)
	}
	for _, t := range report.Targets {
		for _, warning := range t.Plan.Warnings {
			add(warning)
		}
	}
	switch proof := report.Proof; {
	case proof.FreshIn > 0:
		add(fmt.Sprintf("a cache in front of the issuer still answers with an older copy, for at most %v", proof.FreshIn.Round(time.Second)))
	case proof.Err != nil && !proof.Expected:
		add(fmt.Sprintf("the issuer does not answer with these documents yet: %v", proof.Err))
	}
	return all
}
