package publish

import (
	"bytes"
	"context"
	"errors"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/internal/service/retry"
)

// Waits between two attempts of the first proof. Object stores grant public
// access with a delay of up to minutes (Cloud Storage: IAM is eventually
// consistent).
const (
	firstProofPause   = 500 * time.Millisecond
	longestProofPause = 5 * time.Second
)

// Proof is the result of reading the public issuer back, anonymously.
type Proof struct {
	// Read is set if the issuer was read.
	Read bool
	// FreshIn is how long a cache may still serve an older copy; 0 if the
	// published documents were read.
	FreshIn time.Duration
	// Err is the reason why the issuer does not serve the published documents:
	// an error of verify.Published.
	Err error
	// Expected is set if the issuer has to serve the published documents: at
	// least one target is not a local directory.
	Expected bool
}

// Failed reports whether the issuer fails to serve what it has to.
func (p Proof) Failed() bool { return p.Expected && p.Err != nil }

// prove reads the public issuer and compares it with what the targets hold now.
// New documents may take a while to become public, so it reads again until the
// pass runs out of time.
func (p *Publisher) prove(ctx context.Context, report Report) Proof {
	done := done(report.Targets)
	if p.NoVerify || p.DryRun || len(done) == 0 {
		return Proof{}
	}
	proof := Proof{Read: true}
	for _, t := range done {
		proof.Expected = proof.Expected || !t.Target.Local
	}
	wait := firstProofPause
	for {
		proof.Err = p.readBack(ctx, report, done)
		if !report.Changed() || !proof.Expected || !verify.Temporary(proof.Err) {
			break
		}
		if wait == firstProofPause {
			p.log().InfoContext(ctx, "published; the issuer does not serve it yet, retrying", "error", proof.Err)
		}
		if !retry.Sleep(ctx, wait) {
			break
		}
		wait = min(2*wait, longestProofPause)
	}
	if stale := new(verify.StaleError); errors.As(proof.Err, &stale) {
		proof.Err, proof.FreshIn = nil, max(stale.FreshIn, time.Second)
	}
	return proof
}

// readBack succeeds if the issuer answers with what one of the targets holds:
// which of them it leads to is unknown.
func (p *Publisher) readBack(ctx context.Context, report Report, done []TargetReport) error {
	var err error
	for i, t := range done {
		if i > 0 && bytes.Equal(t.Published.Keys.Bytes(), done[i-1].Published.Keys.Bytes()) {
			continue
		}
		err = p.compare(ctx, report.Issuer, t.Published.Document.Bytes(), t.Published.Keys.Bytes())
		if different := new(verify.DifferentError); errors.As(err, &different) {
			if held, ok := p.overtaken(ctx, t); ok {
				err = p.compare(ctx, report.Issuer, held.Document.Body, held.Keys.Body)
			}
		}
		if err == nil {
			return nil
		}
	}
	return err
}

func (p *Publisher) compare(ctx context.Context, issuer discovery.Issuer, document, keys []byte) error {
	ctx, cancel := p.operation(ctx)
	defer cancel()
	return verify.Published(ctx, p.Client, issuer, document, keys)
}

// overtaken returns what the target holds now if another publisher has added to
// it since: then that has to be public.
func (p *Publisher) overtaken(ctx context.Context, t TargetReport) (Held, bool) {
	held, err := p.read(ctx, t.Target.Backend)
	if err != nil || held.Keys == nil || held.Document == nil {
		return Held{}, false
	}
	keys, err := discovery.ParseKeySet(held.Keys.Body)
	if err != nil {
		return Held{}, false
	}
	for _, id := range t.Published.Keys.IDs() {
		if _, kept := keys.Lookup(id); !kept {
			return Held{}, false
		}
	}
	return held, true
}

func done(targets []TargetReport) []TargetReport {
	var done []TargetReport
	for _, t := range targets {
		if t.Err == nil {
			done = append(done, t)
		}
	}
	return done
}
