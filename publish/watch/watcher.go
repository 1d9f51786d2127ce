package watch

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/service"
	"oidc-publisher/publish"
)

// Config is the configuration of a Watcher. Nudge, Transport and Follower are
// optional.
type Config struct {
	// Publisher makes the passes. The watcher sets its NoVerify and checks the
	// public issuer itself.
	Publisher *publish.Publisher
	// Interval is the time between two passes, VerifyInterval between two checks
	// of the public issuer; 0 disables the checks.
	Interval, VerifyInterval time.Duration
	// Nudge starts a pass at once.
	Nudge <-chan struct{}
	// Transport reads the public issuer; nil is an anonymous one.
	Transport http.RoundTripper
	// Follower, if not nil, receives the progress that a person at a terminal
	// waits for.
	Follower Follower
	Log      *slog.Logger
}

// Follower receives the progress of one target. Each call replaces a line in
// the log.
type Follower interface {
	// Waiting is called with the reason why the cluster could not be read yet,
	// or why its documents can't be published. It is called again when the
	// reason changes.
	Waiting(reason error)
	// Found is called with the first snapshot of the cluster.
	Found(cluster discovery.Snapshot)
	// Published is called after each pass that succeeded for the target.
	Published(now publish.Published)
}

// Watcher keeps an issuer published.
type Watcher struct {
	Config
	metrics  *metrics
	health   *service.Health
	failures *service.Failures
	rotated  rotation
	public   public
	// found is set once the cluster could be read.
	found bool
}

// slack is more than the longest wait between two passes apart from the
// interval (an API server's Retry-After).
const slack = 3 * time.Minute

// New makes a watcher and registers its metrics.
func New(c Config, registry prometheus.Registerer) *Watcher {
	c.Publisher.NoVerify = true
	return &Watcher{
		Config:   c,
		metrics:  newMetrics(registry, c.Publisher),
		health:   service.NewHealth(2*c.Interval+2*c.Publisher.Timeout+slack, "nothing was published yet"),
		failures: service.NewFailures(c.Log),
		public:   public{changed: service.NewNudge()},
	}
}

// Handler serves /livez, /readyz and, from the given handler, /metrics. It is
// ready after its first complete pass.
func (w *Watcher) Handler(metrics http.Handler) http.Handler { return w.health.Handler(metrics) }

// Run watches until ctx ends and then returns nil, once the write in progress is
// done. It returns an error only for what retrying can't fix: at its first
// complete pass a target belongs to another cluster.
func (w *Watcher) Run(ctx context.Context) error {
	w.health.Start()
	defer w.health.Stop()
	ctx, cancel := context.WithCancel(ctx)
	var checking sync.WaitGroup
	if w.VerifyInterval > 0 {
		checking.Go(func() { w.watchPublic(ctx) })
	}
	defer checking.Wait()
	defer cancel()
	return w.Publisher.Run(ctx, w.Interval, w.Nudge, w.observe)
}

// observe records a pass. It logs one line for each change and nothing if there
// was none.
func (w *Watcher) observe(pass publish.Pass) {
	w.metrics.observe(pass)
	w.health.Passed(!pass.Failed())
	w.observeKeys(pass)
	w.observeCluster(pass)
	if pass.Err != nil {
		return
	}
	for _, warning := range pass.Report.Warnings {
		w.failures.Warn(warning)
	}
	for _, t := range pass.Report.Targets {
		w.observeTarget(t)
	}
	w.failures.EndPass()
	w.public.observe(pass)
}

func (w *Watcher) observeCluster(pass publish.Pass) {
	switch {
	case w.Follower == nil || w.found:
		w.failures.Report("fetch", pass.Err)
	case pass.Err != nil:
		if w.failures.IsNew("fetch", pass.Err) {
			w.Follower.Waiting(pass.Err)
		}
	default:
		w.failures.Forget("fetch")
		w.found = true
		w.Follower.Found(pass.Report.Snapshot)
	}
}

func (w *Watcher) observeTarget(t publish.TargetReport) {
	name := t.Target.Name
	if w.Follower != nil && t.Err != nil {
		if w.failures.IsNew("publish", t.Err, "target", name) {
			w.Follower.Waiting(t.Err)
		}
	} else {
		w.failures.Report("publish", t.Err, "target", name)
	}
	for _, warning := range t.Plan.Warnings {
		w.failures.Warn(warning, "target", name)
	}
	if t.Err != nil {
		return
	}
	if w.Follower != nil {
		w.Follower.Published(t.Published)
	}
	switch c := t.Plan.Changes; {
	case len(t.Written) == 0:
	case t.Repaired:
		w.metrics.repairs.WithLabelValues(name).Inc()
		w.Log.Warn("repaired what another writer changed or deleted", "target", name, "written", strings.Join(t.Written, ","))
	case !t.Changed:
		w.Log.Debug("state updated", "target", name)
	case w.Follower == nil:
		w.Log.Info("published", "target", name, "written", strings.Join(t.Written, ","),
			"added", strings.Join(c.Added, ","), "retired", strings.Join(c.Retired, ","), "dropped", strings.Join(c.Dropped, ","))
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
	w.metrics.unpublished.Set(float64(w.rotated.unpublished()))
}
