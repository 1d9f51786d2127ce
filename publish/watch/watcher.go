package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/publish"
)

// Config says what to watch, and how. All but Elector and Transport is needed.
type Config struct {
	// Publisher's proof is left to the watcher, which sets NoVerify.
	Publisher *publish.Publisher
	// Interval lies between two looks at the cluster, VerifyInterval between
	// two looks at the public issuer; 0 leaves the public side unread.
	Interval, VerifyInterval time.Duration
	// Nudge makes it look at once.
	Nudge <-chan struct{}
	// Elector lets one of several replicas publish; nil for a single one.
	Elector *Elector
	// Transport reads the public issuer; nil is an anonymous one.
	Transport http.RoundTripper
	Log       *slog.Logger
}

// Watcher keeps an issuer published.
type Watcher struct {
	Config
	metrics *metrics
	health  *health
	said    *teller
	rotated rotation
	// wrote asks for a look at the public side after a change.
	wrote chan struct{}

	mu   sync.Mutex
	last discovery.Snapshot
}

// New makes a watcher whose metrics are in the registry.
func New(c Config, registry prometheus.Registerer) *Watcher {
	c.Publisher.NoVerify = true
	return &Watcher{
		Config:  c,
		metrics: newMetrics(registry),
		health:  newHealth(c.Interval),
		said:    &teller{log: c.Log, last: map[string]string{}},
		wrote:   make(chan struct{}, 1),
	}
}

// Run watches until ctx ends and then returns nil, once the write in hand is
// done and the Lease given up. It returns an error only for what can't pass: the
// target is somebody else's.
func (w *Watcher) Run(ctx context.Context) error {
	if w.Elector == nil {
		return w.lead(ctx)
	}
	w.metrics.leader.Set(0)
	return w.Elector.run(ctx, w.lead, w.standBy)
}

func (w *Watcher) standBy(leader string) {
	w.health.standBy()
	w.Log.Info("standing by", "leader", leader)
}

// lead publishes until ctx ends.
func (w *Watcher) lead(ctx context.Context) error {
	w.metrics.leader.Set(1)
	defer w.metrics.leader.Set(0)
	ctx, cancel := context.WithCancel(ctx)
	var public sync.WaitGroup
	if w.VerifyInterval > 0 {
		public.Go(func() { w.watchPublic(ctx) })
	}
	defer public.Wait()
	defer cancel()
	return w.Publisher.Run(ctx, w.Interval, w.Nudge, w.observe)
}

// observe takes in a pass: one line in the log where the world changed, and
// none where it did not.
func (w *Watcher) observe(pass publish.Pass) {
	w.metrics.observe(pass)
	w.health.observe(pass)
	w.observeKeys(pass)
	w.said.outcome("cluster", pass.Err)
	for _, warning := range pass.Report.Warnings {
		w.said.warning("source", warning)
	}
	for _, t := range pass.Report.Targets {
		w.said.outcome(t.Target.Name, t.Err)
		for _, warning := range t.Plan.Warnings {
			w.said.warning(t.Target.Name, warning)
		}
		if t.Err == nil && len(t.Written) > 0 {
			c := t.Plan.Changes
			w.Log.Info("published", "target", t.Target.Name, "written", strings.Join(t.Written, ","),
				"added", strings.Join(c.Added, ","), "retired", strings.Join(c.Retired, ","), "dropped", strings.Join(c.Dropped, ","))
		}
	}
	w.said.endOfPass()
	if pass.Err != nil {
		return
	}
	w.mu.Lock()
	w.last = pass.Report.Snapshot
	w.mu.Unlock()
	if pass.Report.Changed() {
		select {
		case w.wrote <- struct{}{}:
		default: // a look is due already
		}
	}
}

func (w *Watcher) observeKeys(pass publish.Pass) {
	changed, took := w.rotated.observe(pass)
	if changed {
		w.metrics.rotations.Inc()
	}
	for _, d := range took {
		w.metrics.toPublic.Observe(d.Seconds())
	}
	w.metrics.unpublished.Set(float64(len(w.rotated.waiting)))
}

// settle is how long a store or cache may take to show what was written,
// before a look at the public side is worth it.
const settle = 5 * time.Second

// watchPublic reads the issuer as a relying party does, at each interval and a
// little after each change.
func (w *Watcher) watchPublic(ctx context.Context) {
	for {
		timer := time.NewTimer(w.VerifyInterval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-w.wrote:
			timer.Reset(settle)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		}
		w.lookAtPublic(ctx)
	}
}

func (w *Watcher) lookAtPublic(ctx context.Context) {
	w.mu.Lock()
	snapshot := w.last
	w.mu.Unlock()
	issuer := w.Publisher.Policy.Issuer
	if issuer == "" {
		issuer = snapshot.Document.Issuer()
	}
	if issuer == "" {
		return // nothing was published yet
	}
	ctx, cancel := context.WithTimeout(ctx, w.Publisher.Timeout)
	defer cancel()
	opts := verify.Options{Issuer: string(issuer), Transport: w.Transport}
	if !w.Publisher.Policy.AheadOfIssuerChange {
		opts.Source = &snapshot
	}
	report, err := verify.Run(ctx, opts)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			w.metrics.checks.WithLabelValues(string(verify.Error)).Inc()
			w.said.outcome("public issuer", err)
		}
		return
	}
	w.metrics.checks.WithLabelValues(string(report.Verdict)).Inc()
	w.metrics.certificate.Set(0)
	if !report.CertificateExpiry.IsZero() {
		w.metrics.certificate.Set(seconds(report.CertificateExpiry))
	}
	w.said.outcome("public issuer", verdict(report))
	w.said.warningOnce("public certificate", certificateWarning(report))
}

func verdict(report verify.Report) error {
	var faults []string
	for _, check := range report.Checks {
		if check.Status == verify.Fail || check.Status == verify.Error {
			faults = append(faults, fmt.Sprintf("%s: %s (%s)", check.Title, check.Cause, check.Cure))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

// expiryNotice is how long before its end a certificate is complained about.
const expiryNotice = 14 * 24 * time.Hour

func certificateWarning(report verify.Report) string {
	if report.CertificateExpiry.IsZero() || time.Until(report.CertificateExpiry) > expiryNotice {
		return ""
	}
	return "a certificate of the public issuer expires on " + report.CertificateExpiry.UTC().Format(time.DateOnly)
}
