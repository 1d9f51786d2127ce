package serve

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
	"oidc-publisher/publish"
	"oidc-publisher/publish/watch"
)

// cluster publishes a source's documents into memory or a directory, and serves
// what it published.
type cluster struct {
	site    *Site
	events  *Events
	log     *slog.Logger
	target  publish.Target
	watcher *watch.Watcher
	// saved reads the documents of an earlier run; its store is nil without
	// --state-dir.
	saved loader
	// serving is held while the site is filled.
	serving sync.Mutex
}

// newCluster opens the source. Its target is the memory of this process unless
// there is a directory.
func newCluster(c Config, issuer discovery.Issuer, site *Site, registry prometheus.Registerer) (*cluster, error) {
	source, err := c.Source(issuer)
	if err != nil {
		return nil, err
	}
	policy := c.Policy
	policy.Issuer = issuer
	f := &cluster{site: site, events: c.Events, log: c.Log, target: publish.Target{Name: "memory", Backend: new(Memory).Open(), Local: true}}
	if c.StateDir != nil {
		f.target = *c.StateDir
		f.saved = loader{store: f.target.Backend, issuer: issuer}
	} else if policy.Owner == "" {
		// No other process writes to this memory. A new cluster with the same
		// issuer takes over, and the keys of the old one get their grace period.
		policy.Owner = "oidc-publisher serve"
	}
	f.watcher = watch.New(watch.Config{
		Publisher:      &publish.Publisher{Source: source, Targets: []publish.Target{f.target}, Policy: policy, Timeout: c.Timeout, Log: c.Log},
		Interval:       c.Interval,
		VerifyInterval: c.VerifyInterval,
		Nudge:          c.Nudge,
		Follower:       f,
		Log:            c.Log,
	}, registry)
	return f, nil
}

func (f *cluster) live() http.Handler { return f.watcher.Handler(http.NotFoundHandler()) }

func (f *cluster) run(ctx context.Context) error {
	defer func() { _ = f.target.Backend.Close() }() // every write is durable already
	ctx, stop := context.WithCancel(ctx)
	var loading sync.WaitGroup
	defer loading.Wait()
	defer stop()
	if err := f.serveSaved(ctx); err != nil {
		loading.Go(func() { f.retrySaved(ctx, err) })
	}
	err := f.watcher.Run(ctx)
	f.warnOfForgotten()
	return err
}

// serveSaved serves what an earlier run left, if there is something and nothing
// newer is served.
func (f *cluster) serveSaved(ctx context.Context) error {
	if f.saved.store == nil || f.site.Issuer() != "" {
		return nil
	}
	saved, _, err := f.saved.load(ctx)
	if errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	f.serving.Lock()
	defer f.serving.Unlock()
	if f.site.Issuer() != "" {
		return nil
	}
	return f.events.serve(f.site, saved)
}

// retrySaved goes on after the first failure: the cluster may be away for long.
func (f *cluster) retrySaved(ctx context.Context, err error) {
	failures := service.NewFailures(f.log)
	report := func(err error) { failures.Report("load of the last documents", err, "dir", f.target.Name) }
	report(err)
	never := func(error) bool { return false }
	if err := retry.Do(ctx, func() error { return f.serveSaved(ctx) }, never, report); err == nil && ctx.Err() == nil {
		report(nil)
	}
}

// warnOfForgotten lists the retired keys that are lost when this process ends.
func (f *cluster) warnOfForgotten() {
	if retired := f.site.Published().GraceEnds; f.saved.store == nil && len(retired) > 0 {
		f.log.Warn("retired keys that live tokens need are lost now, because --state-dir is not set", "keys", sortedKeys(retired))
	}
}

// Waiting implements watch.Follower.
func (f *cluster) Waiting(reason error) { f.events.Waiting(reason) }

// Found implements watch.Follower.
func (f *cluster) Found(snapshot discovery.Snapshot) { f.events.found(snapshot) }

// Published implements watch.Follower.
func (f *cluster) Published(now publish.Published) {
	f.serving.Lock()
	defer f.serving.Unlock()
	if err := f.events.serve(f.site, now); err != nil {
		f.log.Error("serve failed", "error", err)
	}
}

// Reopening is a source for a cluster that may be created, deleted and created
// again. When the cluster does not answer, it reads the kubeconfig again: tools
// that create clusters write it late, with another address, CA and user for
// each new cluster.
type Reopening struct {
	// Config names the cluster.
	Config kube.Config
	source *kube.Source
}

// Fetch implements publish.Source.
func (r *Reopening) Fetch(ctx context.Context) (discovery.Snapshot, error) {
	var snapshot discovery.Snapshot
	var err error
	if r.source != nil {
		if snapshot, err = r.source.Fetch(ctx); err == nil {
			return snapshot, nil
		}
	}
	fresh, openErr := kube.New(r.Config)
	switch {
	case openErr != nil && r.source == nil:
		return snapshot, openErr
	case openErr != nil, r.source != nil && r.source.Same(fresh):
		return snapshot, err
	}
	r.source = fresh
	return fresh.Fetch(ctx)
}
