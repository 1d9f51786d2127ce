package watch

import (
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
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
	"oidc-publisher/publish"
)

const (
	// settle is how long the check after a change waits for stores and caches.
	settle = 5 * time.Second
	// expiryNotice is how long before its expiry a certificate is reported.
	expiryNotice = 14 * 24 * time.Hour
)

// public is the state of the public check, in addition to
// publish.Publisher.Published.
type public struct {
	// changed asks for a check after a change.
	changed service.Nudge

	mu sync.Mutex
	// canary is the token that the last pass minted, if the public issuer is the
	// cluster's own.
	canary *discovery.Canary
}

// observe records a pass that reached the cluster.
func (p *public) observe(pass publish.Pass) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cluster := pass.Report.Snapshot
	if p.canary = nil; cluster.Document.Issuer() == pass.Report.Issuer {
		p.canary = cluster.Canary
	}
	for _, t := range pass.Report.Targets {
		if t.Err == nil && !t.Published.Since.Before(pass.Began) {
			p.changed.Send()
		}
	}
}

// expected returns the different contents of the targets: the issuer leads to
// one of them, and usually they are equal. It also returns when they last
// changed.
func (w *Watcher) expected() (copies []publish.Published, since time.Time) {
	for _, p := range w.Publisher.Published() {
		if !slices.ContainsFunc(copies, p.SameDocuments) {
			copies = append(copies, p)
		}
		if p.Since.After(since) {
			since = p.Since
		}
	}
	return copies, since
}

// watchPublic reads the issuer as a relying party does, at each interval and
// shortly after each change.
func (w *Watcher) watchPublic(ctx context.Context) {
	for ctx.Err() == nil {
		if retry.Wait(ctx, w.VerifyInterval, w.public.changed) {
			retry.Sleep(ctx, settle)
		}
		if ctx.Err() == nil {
			w.checkPublic(ctx)
		}
	}
}

// checkPublic reports what is wrong with what relying parties find. It reports
// nothing while a cache may still return the previous documents, nor if
// something was written during the check.
func (w *Watcher) checkPublic(ctx context.Context) {
	copies, since := w.expected()
	if len(copies) == 0 {
		return // nothing was published yet
	}
	ctx, cancel := context.WithTimeout(ctx, w.Publisher.Timeout)
	defer cancel()
	report, err := w.verify(ctx, copies)
	failure := errors.Join(err, verdict(report))
	switch _, now := w.expected(); {
	case errors.Is(err, context.Canceled), failure != nil && !now.Equal(since):
		return
	case failure != nil && w.notYetFresh(ctx, copies, since):
		w.Log.Debug("a cache still returns an older copy", "issuer", copies[0].Document.Issuer())
		return
	}
	w.metrics.checks.WithLabelValues(string(statusOf(report, failure))).Inc()
	w.metrics.certificate.Set(expiry(report))
	w.failures.Report("public check", failure)
	w.failures.Report("public certificate check", certificateFailure(report))
}

// verify makes every check of package verify, against the copy that matches
// best.
func (w *Watcher) verify(ctx context.Context, copies []publish.Published) (report verify.Report, err error) {
	w.public.mu.Lock()
	canary := w.public.canary
	w.public.mu.Unlock()
	for _, c := range copies {
		source := discovery.Snapshot{Document: c.Document, Keys: c.Keys, Canary: canary}
		report, err = verify.Run(ctx, verify.Options{Issuer: string(c.Document.Issuer()), Source: &source, Transport: w.Transport})
		if err == nil && verdict(report) == nil {
			break
		}
	}
	return report, err
}

// notYetFresh reports whether a cache explains what was found.
func (w *Watcher) notYetFresh(ctx context.Context, copies []publish.Published, since time.Time) bool {
	client := &http.Client{Transport: w.Transport, Timeout: w.Publisher.Timeout}
	return slices.ContainsFunc(copies, func(c publish.Published) bool {
		err := verify.Published(ctx, client, c.Document.Issuer(), c.Document.Bytes(), c.Keys.Bytes())
		if stale := new(verify.StaleError); errors.As(err, &stale) {
			return stale.FreshIn > 0
		}
		different := new(verify.DifferentError)
		return errors.As(err, &different) && time.Since(since) < different.FreshIn
	})
}

// statusOf returns the verdict as a label. Some warnings of verify are failures
// here.
func statusOf(report verify.Report, failure error) verify.Status {
	switch {
	case failure == nil:
		return verify.Pass
	case report.Verdict == verify.Pass:
		return verify.Fail
	default:
		return cmp.Or(report.Verdict, verify.Error)
	}
}

// verdict returns the failed checks as an error. A key that this program did
// not publish is an error here, although for verify it may be a retired one.
func verdict(report verify.Report) error {
	var failures []string
	for _, check := range report.Checks {
		foreign := check.Status == verify.Warn && check.ID == "source-keys"
		if check.Status == verify.Fail || check.Status == verify.Error || foreign {
			failures = append(failures, fmt.Sprintf("failed check %q: %s: %s", check.Title, check.Evidence, check.Cause))
		}
	}
	if len(failures) == 0 {
		return nil
	}
	return errors.New(strings.Join(failures, "; "))
}

// expiry is in seconds since 1970, 0 where no certificate was seen.
func expiry(report verify.Report) float64 {
	if report.CertificateExpiry.IsZero() {
		return 0
	}
	return seconds(report.CertificateExpiry)
}

func certificateFailure(report verify.Report) error {
	if report.CertificateExpiry.IsZero() || time.Until(report.CertificateExpiry) > expiryNotice {
		return nil
	}
	return fmt.Errorf("a certificate of the public issuer expires on %s: renew it", report.CertificateExpiry.UTC().Format(time.DateOnly))
}
