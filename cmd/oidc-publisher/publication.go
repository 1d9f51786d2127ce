package main

import (
	"context"
	"strings"
	"time"

	"oidc-publisher/backends"
	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/cli"
	"oidc-publisher/publish"
)

// publicationFlags are those of publish, watch and serve.
func publicationFlags() []cli.Flag {
	canary := cli.String("canary", "", "mint tokens for `NAMESPACE/SERVICEACCOUNT` to check the signing key; none disables")
	canary.DefaultText = "the program's own account, else default/default"
	return append([]cli.Flag{
		cli.String("issuer", "", "public issuer `URL`, exactly the cluster's own (default: the cluster's own)"),
		cli.String("owner", "", "owner `NAME` recorded at the target (default: the cluster itself)"),
		cli.DurationFrom(0, "grace", publish.DefaultGrace, "keep retired keys public for `DURATION`; 0 removes them at once"),
		cli.List("revoke", "remove key `ID` now and never publish it again; repeatable"),
		cli.Bool("ahead-of-issuer-change", "allow an --issuer that the cluster will have only later"),
		canary,
		cli.Timeout(defaultTimeout),
	}, sourceFlags()...)
}

// intervalFlags are those of the commands that follow a cluster.
func intervalFlags() []cli.Flag {
	return []cli.Flag{
		cli.DurationFrom(time.Second, "interval", 10*time.Second, "poll the cluster every `DURATION`, at least 1s"),
		cli.DurationFrom(0, "verify-interval", time.Minute, "verify the public issuer every `DURATION`; 0 disables"),
	}
}

func toFlag() cli.Flag {
	return cli.List("to", "publish to `TARGET`; repeatable (default: the bucket that the issuer names)")
}

func takeOverFlag() cli.Flag {
	return cli.Bool("take-over", "overwrite a target that belongs to another owner")
}

// publication holds the values of publicationFlags, --to and --take-over.
type publication struct {
	source  source
	policy  publish.Policy
	targets []backends.Target // empty: the bucket that the issuer names
	timeout time.Duration
}

// readPublication reads the flags. If tunnelled, the public URL of the tunnel may
// become the issuer.
func readPublication(c *cli.Context, tunnelled bool) (publication, error) {
	p := publication{timeout: c.Duration("timeout")}
	var err error
	if p.source, err = readSource(c); err != nil {
		return p, err
	}
	if p.source.cluster.Canary, err = readCanary(c); err != nil {
		return p, err
	}
	if p.policy, err = readPolicy(c); err != nil {
		return p, err
	}
	if p.policy.Issuer == "" && !tunnelled {
		switch {
		case len(p.source.publicKeys) > 0:
			return p, cli.Usagef("--public-key needs --issuer: a key file does not name its issuer")
		case p.policy.AheadOfIssuerChange:
			return p, cli.Usagef("--ahead-of-issuer-change needs --issuer: the issuer that the cluster will have")
		}
	}
	p.targets, err = readTargets(c)
	return p, err
}

// readCanary reads --canary. A dry run mints no token, which the audit log would
// record.
func readCanary(c *cli.Context) (string, error) {
	canary := c.String("canary")
	if namespace, account, _ := strings.Cut(canary, "/"); canary != "" && canary != kube.NoCanary && (namespace == "" || account == "") {
		return "", cli.Usagef("--canary %q must be written as NAMESPACE/SERVICEACCOUNT, or be %s", canary, kube.NoCanary)
	}
	if c.Bool("dry-run") {
		return kube.NoCanary, nil
	}
	return canary, nil
}

func readPolicy(c *cli.Context) (publish.Policy, error) {
	policy := publish.Policy{
		Owner:               c.String("owner"),
		Grace:               c.Duration("grace"),
		Revoke:              cli.Values(c, "revoke"),
		TakeOver:            c.Bool("take-over"),
		AheadOfIssuerChange: c.Bool("ahead-of-issuer-change"),
	}
	if issuer := c.String("issuer"); issuer != "" {
		var err error
		if policy.Issuer, err = discovery.ParseIssuer(issuer); err != nil {
			return policy, cli.Usagef("--issuer: %v", err)
		}
	}
	return policy, nil
}

func readTargets(c *cli.Context) (targets []backends.Target, err error) {
	seen := map[string]bool{}
	for _, raw := range cli.Values(c, "to") {
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

// publisher returns a Publisher without targets. It calls disconnected when an
// API server closes its connection.
func (p publication) publisher(disconnected func()) (*publish.Publisher, error) {
	p.source.cluster.Disconnected = disconnected
	source, err := p.source.open(p.policy.Issuer)
	return &publish.Publisher{Source: source, Policy: p.policy, Timeout: p.timeout}, err
}

// openTargets opens the targets of the publisher. Without --to it may fetch the
// issuer from the cluster first, to learn the bucket.
func (p publication) openTargets(ctx context.Context, publisher *publish.Publisher) error {
	targets := p.targets
	if len(targets) == 0 {
		target, err := targetOfIssuer(ctx, publisher)
		if err != nil {
			return err
		}
		targets = []backends.Target{target}
	}
	for _, target := range targets {
		opened, err := target.Open(ctx)
		if err != nil {
			closeTargets(publisher.Targets)
			return err
		}
		publisher.Targets = append(publisher.Targets, opened)
	}
	return nil
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
