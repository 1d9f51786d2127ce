package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"oidc-publisher/internal/cli"

	"oidc-publisher/backends"
	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/serve"
	"oidc-publisher/publish"
	"oidc-publisher/publish/watch"
)

// dirLook lies between two looks at a directory. Reading two small files each
// second costs nothing, and works where file events don't: network file systems
// and bind mounts.
const dirLook = time.Second

// feed is what fills a site.
type feed struct {
	run part
	// live answers /livez.
	live  http.Handler
	close func()
}

// newFeed makes it of the flags. url is the public URL where a front learned
// one.
func newFeed(c *cli.Context, url string, site *serve.Site, p *progress, registry prometheus.Registerer) (feed, error) {
	if url != "" && c.String("issuer") == "" {
		if err := c.Set("issuer", url); err != nil {
			return feed{}, err
		}
	}
	policy, err := policy(c)
	if err != nil {
		return feed{}, err
	}
	if policy.Issuer != "" {
		p.publicURL(string(policy.Issuer))
	}
	if path := c.String("dir"); path != "" {
		return newDirFeed(path, policy.Issuer, site, p, registry)
	}
	return newSourceFeed(c, policy, site, p, registry)
}

// newDirFeed serves a directory that somebody else publishes into.
func newDirFeed(path string, issuer discovery.Issuer, site *serve.Site, p *progress, registry prometheus.Registerer) (feed, error) {
	store, err := openDir(path)
	if err != nil {
		return feed{}, err
	}
	m := &mirror{site: site, store: store, issuer: issuer, progress: p, what: path, looks: newLooks(registry)}
	m.looked.Store(time.Now().UnixNano())
	return feed{
		run:   m.run,
		live:  http.HandlerFunc(m.live),
		close: func() { _ = store.Close() }, // it was only read
	}, nil
}

// newLooks counts the looks at a directory.
func newLooks(registry prometheus.Registerer) *prometheus.CounterVec {
	looks := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "oidc_publisher", Name: "dir_looks_total",
		Help: "Looks at --dir by result: ok, or failed where what is in it can't be served."}, []string{"result"})
	looks.WithLabelValues("ok")
	looks.WithLabelValues("failed")
	registry.MustRegister(looks)
	return looks
}

func openDir(path string) (publish.Backend, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	target, err := backends.Open(context.Background(), absolute)
	return target.Backend, err
}

// mirror shows a directory on a site.
type mirror struct {
	site     *serve.Site
	store    publish.Backend
	issuer   discovery.Issuer
	progress *progress
	what     string
	looks    *prometheus.CounterVec
	// looked is when a look was last over, in nanoseconds since 1970.
	looked atomic.Int64
	// served and said are what was told last.
	served bool
	said   string
}

// stillLook is how long a look may take: a file system that hangs heeds no deadline.
const stillLook = time.Minute

// live answers /livez.
func (m *mirror) live(w http.ResponseWriter, _ *http.Request) {
	if still := time.Since(time.Unix(0, m.looked.Load())); still > stillLook {
		http.Error(w, fmt.Sprintf("the look at the directory has stood still for %v", still.Round(time.Second)), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

func (m *mirror) run(ctx context.Context) error {
	tick := time.NewTicker(dirLook)
	defer tick.Stop()
	for {
		m.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look tells what is new: nothing is, mostly.
func (m *mirror) look(ctx context.Context) {
	before := m.site.Keys()
	changed, err := m.site.Load(ctx, m.store, m.issuer)
	m.looked.Store(time.Now().UnixNano())
	m.looks.WithLabelValues(resultOf(err)).Inc()
	switch {
	case ctx.Err() != nil:
	case err != nil && err.Error() == m.said:
	case err != nil && !m.served:
		m.said = err.Error()
		m.progress.Waiting(fmt.Errorf("%s: %w", m.what, err))
	case err != nil:
		m.said = err.Error()
		m.progress.log.Error("what is in the directory can't be served, so what was there before still is", "dir", m.what, "error", err)
	default:
		if m.said != "" && m.served {
			m.progress.log.Info("the directory can be served again", "dir", m.what)
		}
		m.said, m.served = "", true
		if changed {
			m.progress.served(m.site.Issuer(), before, m.site.Keys(), nil)
		}
	}
}

func resultOf(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// newSourceFeed publishes a source's documents to the site: directly or, so
// that a restart forgets nothing, by way of a directory.
func newSourceFeed(c *cli.Context, policy publish.Policy, site *serve.Site, p *progress, registry prometheus.Registerer) (feed, error) {
	nudge := make(chan struct{}, 1)
	source, err := patientSource(c, policy.Issuer, func() { look(nudge) })
	if err != nil {
		return feed{}, err
	}
	follower := &follower{progress: p}
	target := publish.Target{Name: "memory", Backend: site.Open(), Local: true}
	if path := c.String("state-dir"); path != "" {
		store, err := openDir(path)
		if err != nil {
			return feed{}, err
		}
		target.Name, target.Backend = path, store
		follower.mirror = &mirror{site: site, store: store, issuer: policy.Issuer, progress: p, what: path}
	} else if policy.Owner == "" {
		// Nobody else writes to this memory. A cluster that was made anew with
		// the same issuer is followed, and the former keys have their grace.
		policy.Owner = cli.Name + " serve"
	}
	watcher := watch.New(watch.Config{
		Publisher:      &publish.Publisher{Source: source, Targets: []publish.Target{target}, Policy: policy, Timeout: c.Duration("timeout"), Log: p.log},
		Interval:       c.Duration("interval"),
		VerifyInterval: c.Duration("verify-interval"),
		Nudge:          nudge,
		Follower:       follower,
		Log:            p.log,
	}, registry)
	return feed{
		run: func(ctx context.Context) error {
			ctx, stop := heedHangups(ctx, c, nudge)
			defer stop()
			defer follower.farewell()
			follower.begin(ctx)
			return together(ctx, watcher.Run, follower.catchUp)
		},
		live:  watcher.Handler(http.NotFoundHandler()),
		close: func() { _ = target.Backend.Close() }, // every write is durable already
	}, nil
}

// heedHangups lets SIGHUP end a serve that has a terminal, which sends it when
// somebody closes the window, and makes any other look. One that was told to
// ignore it, as by nohup, is not ended.
func heedHangups(ctx context.Context, c *cli.Context, nudge chan<- struct{}) (context.Context, func()) {
	isShown := func(stream any) bool { file, ok := stream.(*os.File); return ok && cli.IsTerminal(file) }
	if (isShown(c.App.Reader) || isShown(c.App.ErrWriter)) && !signal.Ignored(syscall.SIGHUP) {
		return signal.NotifyContext(ctx, syscall.SIGHUP)
	}
	return ctx, onHangup(ctx, nudge)
}

// follower turns what a watcher says into progress.
type follower struct {
	*progress
	mirror *mirror // of --state-dir; nil without

	mu   sync.Mutex
	plan publish.Plan
	// keys are those that were told last.
	keys []string
	// behind is set while the site could not be given what the directory holds.
	behind bool
}

// begin serves at once what an earlier run left.
func (f *follower) begin(ctx context.Context) {
	if f.mirror == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	changed, err := f.mirror.site.Load(ctx, f.mirror.store, f.mirror.issuer)
	f.behind = err != nil && !errors.Is(err, fs.ErrNotExist)
	if err == nil && changed {
		f.tellServed(f.mirror.site.Issuer(), f.mirror.site.Keys())
	}
}

// Published implements watch.Follower.
func (f *follower) Published(t publish.TargetReport) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = t.Plan
	if f.mirror == nil {
		f.tellServed(t.Plan.Issuer, t.Plan.Changes.Published)
		return
	}
	f.show(context.Background())
}

// catchUp tries again what show could not do: nothing else would, before the keys
// change once more. It returns nil when ctx ends.
func (f *follower) catchUp(ctx context.Context) error {
	tick := time.NewTicker(dirLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		f.mu.Lock()
		if f.behind {
			f.show(ctx)
		}
		f.mu.Unlock()
	}
}

// show serves what the directory holds. It must be called with the lock held.
func (f *follower) show(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := f.mirror.site.Load(ctx, f.mirror.store, f.mirror.issuer)
	if err != nil {
		if !f.behind {
			f.log.Error("what is in the directory can't be served yet", "dir", f.mirror.what, "error", err)
		}
		f.behind = true
		return
	}
	f.behind = false
	f.tellServed(f.mirror.site.Issuer(), f.mirror.site.Keys())
}

func (f *follower) tellServed(issuer discovery.Issuer, keys []string) {
	before := f.keys
	f.keys = keys
	f.served(issuer, before, keys, f.plan.GraceEnds)
}

// farewell names the keys that go with this process.
func (f *follower) farewell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mirror == nil && len(f.plan.Changes.Retired) > 0 {
		f.log.Warn("these keys of live tokens are forgotten now, as there is no --state-dir", "keys", f.plan.Changes.Retired)
	}
}

// patientSource is openSource for a cluster that need not exist yet.
func patientSource(c *cli.Context, issuer discovery.Issuer, disconnected func()) (publish.Source, error) {
	if fromFiles(c) {
		return openSource(c, issuer)
	}
	config := clusterConfig(c)
	config.Disconnected = disconnected
	return &patient{config: config}, nil
}

// patient is a cluster that comes and goes. Where it does not answer, the
// kubeconfig is read again: tools that make clusters write it late, and write
// another address, CA and user into it when they make one anew.
type patient struct {
	config  kube.Config
	cluster *kube.Source
}

// Fetch implements publish.Source.
func (p *patient) Fetch(ctx context.Context) (discovery.Snapshot, error) {
	var snapshot discovery.Snapshot
	err := errors.New("no cluster yet")
	if p.cluster != nil {
		if snapshot, err = p.cluster.Fetch(ctx); err == nil {
			return snapshot, nil
		}
	}
	fresh, openErr := kube.New(p.config)
	switch {
	case openErr != nil && p.cluster == nil:
		return snapshot, openErr
	case openErr != nil, p.cluster != nil && p.cluster.Same(fresh):
		return snapshot, err
	}
	p.cluster = fresh
	return fresh.Fetch(ctx)
}
