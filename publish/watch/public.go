package watch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/publish"
)

const (
	// settle is how long a store or cache may take to show what was written,
	// before a look at the public side is worth it.
	settle = 5 * time.Second
	// expiryNotice is how long before its end a certificate is complained about.
	expiryNotice = 14 * 24 * time.Hour
)

// public is what relying parties should find.
type public struct {
	// wrote asks for a look after a change.
	wrote chan struct{}

	mu sync.Mutex
	// copies are what the targets hold. The issuer leads to one of them, and
	// mostly they are equal.
	copies  []publicCopy
	issuer  discovery.Issuer
	changed time.Time
}

// publicCopy is one target's content: the documents, and a snapshot as if they
// were the cluster's own.
type publicCopy struct {
	document, keys []byte
	asSource       discovery.Snapshot
}

// expect takes in a pass that reached the cluster.
func (p *public) expect(pass publish.Pass) {
	var copies []publicCopy
	for _, t := range pass.Report.Targets {
		if t.Err != nil {
			continue
		}
		c, err := newPublicCopy(t.Plan, pass.Report.Snapshot)
		known := func(other publicCopy) bool { return other.same(c) }
		if err == nil && !slices.ContainsFunc(copies, known) {
			copies = append(copies, c)
		}
	}
	if len(copies) == 0 {
		return // the last good is what should be found
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := !slices.EqualFunc(copies, p.copies, publicCopy.same)
	p.copies, p.issuer = copies, pass.Report.Issuer
	if !changed && !pass.Report.Changed() {
		return
	}
	p.changed = time.Now()
	select {
	case p.wrote <- struct{}{}:
	default: // a look is due already
	}
}

func newPublicCopy(plan publish.Plan, cluster discovery.Snapshot) (publicCopy, error) {
	document, err := discovery.ParseDocument(plan.Document.Body)
	if err != nil {
		return publicCopy{}, err
	}
	keys, err := discovery.ParseKeySet(plan.Keys.Body)
	if err != nil {
		return publicCopy{}, err
	}
	c := publicCopy{plan.Document.Body, plan.Keys.Body, discovery.Snapshot{Document: document, Keys: keys}}
	if cluster.Document.Issuer() == document.Issuer() {
		c.asSource.Canary = cluster.Canary
	}
	return c, nil
}

func (c publicCopy) same(other publicCopy) bool {
	return bytes.Equal(c.document, other.document) && bytes.Equal(c.keys, other.keys)
}

// expected returns what should be found, and since when.
func (p *public) expected() (discovery.Issuer, []publicCopy, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.issuer, slices.Clone(p.copies), p.changed
}

// watchPublic reads the issuer as a relying party does, at each interval and a
// little after each change.
func (w *Watcher) watchPublic(ctx context.Context) {
	for {
		wait := time.NewTimer(w.VerifyInterval)
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-w.public.wrote:
			wait.Reset(settle)
			select {
			case <-ctx.Done():
			case <-wait.C:
			}
		}
		wait.Stop()
		if ctx.Err() != nil {
			return
		}
		w.lookAtPublic(ctx)
	}
}

// lookAtPublic says what is wrong with what relying parties find. While a
// cache may still rightly hand out what was published before, and where
// something was written during the look, it says nothing.
func (w *Watcher) lookAtPublic(ctx context.Context) {
	issuer, copies, since := w.public.expected()
	if len(copies) == 0 {
		return // nothing was published yet
	}
	ctx, cancel := context.WithTimeout(ctx, w.Publisher.Timeout)
	defer cancel()
	report, err := w.inspect(ctx, issuer, copies)
	fault := errors.Join(err, verdict(report))
	switch _, _, now := w.public.expected(); {
	case errors.Is(err, context.Canceled), fault != nil && !now.Equal(since):
		return
	case fault != nil && w.notYetFresh(ctx, issuer, copies, since):
		w.Log.Debug("a cache still answers with an older copy", "issuer", issuer)
		return
	}
	w.metrics.checks.WithLabelValues(string(statusOf(report, fault))).Inc()
	w.metrics.certificate.Set(expiry(report))
	w.failures.Report("public check", fault)
	w.failures.Report("public certificate check", certificateFault(report))
}

// inspect makes every check that verify knows, against the copy that fits best.
func (w *Watcher) inspect(ctx context.Context, issuer discovery.Issuer, copies []publicCopy) (report verify.Report, err error) {
	for _, c := range copies {
		report, err = verify.Run(ctx, verify.Options{Issuer: string(issuer), Source: &c.asSource, Transport: w.Transport})
		if err == nil && verdict(report) == nil {
			break
		}
	}
	return report, err
}

// notYetFresh reports whether a cache explains what was found.
func (w *Watcher) notYetFresh(ctx context.Context, issuer discovery.Issuer, copies []publicCopy, since time.Time) bool {
	client := &http.Client{Transport: w.Transport, Timeout: w.Publisher.Timeout}
	return slices.ContainsFunc(copies, func(c publicCopy) bool {
		err := verify.Published(ctx, client, issuer, c.document, c.keys)
		if stale := new(verify.StaleError); errors.As(err, &stale) {
			return stale.FreshIn > 0
		}
		different := new(verify.DifferentError)
		return errors.As(err, &different) && time.Since(since) < different.FreshIn
	})
}

// statusOf is the verdict as a label: what verify only warns of may be a fault here.
func statusOf(report verify.Report, fault error) verify.Status {
	switch {
	case fault == nil:
		return verify.Pass
	case report.Verdict == verify.Pass:
		return verify.Fail
	default:
		return cmp.Or(report.Verdict, verify.Error)
	}
}

// verdict is what is wrong. A key that was not published by this program is,
// though to verify it may be somebody's retired one.
func verdict(report verify.Report) error {
	var faults []string
	for _, check := range report.Checks {
		stranger := check.Status == verify.Warn && check.ID == "source-keys"
		if check.Status == verify.Fail || check.Status == verify.Error || stranger {
			faults = append(faults, fmt.Sprintf("failed check %q: %s: %s", check.Title, check.Evidence, check.Cause))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

// expiry is in seconds since 1970, 0 where no certificate was seen.
func expiry(report verify.Report) float64 {
	if report.CertificateExpiry.IsZero() {
		return 0
	}
	return seconds(report.CertificateExpiry)
}

func certificateFault(report verify.Report) error {
	if report.CertificateExpiry.IsZero() || time.Until(report.CertificateExpiry) > expiryNotice {
		return nil
	}
	return fmt.Errorf("a certificate of the public issuer expires on %s: renew it", report.CertificateExpiry.UTC().Format(time.DateOnly))
}
