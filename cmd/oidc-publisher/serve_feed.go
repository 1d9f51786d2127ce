package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"oidc-publisher/backends"
	"oidc-publisher/backends/web"
	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
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
func newFeed(c *cli.Context, url string, site *web.Site, p *progress, registry prometheus.Registerer) (feed, error) {
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
		return newDirFeed(path, policy.Issuer, site, p)
	}
	return newSourceFeed(c, policy, site, p, registry)
}

// newDirFeed serves a directory that somebody else publishes into.
func newDirFeed(path string, issuer discovery.Issuer, site *web.Site, p *progress) (feed, error) {
	store, err := openDir(path)
	if err != nil {
		return feed{}, err
	}
	m := &mirror{site: site, store: store, issuer: issuer, progress: p, what: path}
	return feed{
		run:   m.run,
		live:  http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		close: func() { _ = store.Close() }, // it was only read
	}, nil
}

func openDir(path string) (publish.Backend, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	target, err := backends.Parse(absolute)
	if err != nil {
		return nil, err
	}
	return target.Open(context.Background())
}

// mirror shows a directory on a site.
type mirror struct {
	site     *web.Site
	store    publish.Backend
	issuer   discovery.Issuer
	progress *progress
	what     string
	// served and said are what was told last.
	served bool
	said   string
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

// newSourceFeed publishes a source's documents to the site: directly or, so
// that a restart forgets nothing, by way of a directory.
func newSourceFeed(c *cli.Context, policy publish.Policy, site *web.Site, p *progress, registry prometheus.Registerer) (feed, error) {
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
		policy.Owner = name + " serve"
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
			defer onHangup(ctx, nudge)()
			defer follower.farewell()
			follower.begin(ctx)
			return watcher.Run(ctx)
		},
		live:  watcher.Handler(http.NotFoundHandler()),
		close: func() { _ = target.Backend.Close() }, // every write is durable already
	}, nil
}

// follower turns what a watcher says into progress.
type follower struct {
	*progress
	mirror *mirror // of --state-dir; nil without
	plan   publish.Plan
}

// begin serves at once what an earlier run left.
func (f *follower) begin(ctx context.Context) {
	if f.mirror == nil {
		return
	}
	before := f.mirror.site.Keys()
	if changed, err := f.mirror.site.Load(ctx, f.mirror.store, f.mirror.issuer); err == nil && changed {
		f.served(f.mirror.site.Issuer(), before, f.mirror.site.Keys(), nil)
	}
}

// Published implements watch.Follower.
func (f *follower) Published(t publish.TargetReport) {
	if f.mirror != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := f.mirror.site.Load(ctx, f.mirror.store, f.mirror.issuer); err != nil {
			f.log.Error("what was published can't be served", "dir", f.mirror.what, "error", err)
			return
		}
	}
	before := f.plan.Changes.Published
	f.plan = t.Plan
	f.served(t.Plan.Issuer, before, t.Plan.Changes.Published, t.Plan.GraceEnds)
}

// farewell names the keys that go with this process.
func (f *follower) farewell() {
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
