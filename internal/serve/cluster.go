package serve

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
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
	f.serveSaved(ctx)
	err := f.watcher.Run(ctx)
	f.warnOfForgotten()
	return err
}

// serveSaved serves the documents of an earlier run at once.
func (f *cluster) serveSaved(ctx context.Context) {
	if f.saved.store == nil {
		return
	}
	saved, _, err := f.saved.load(ctx)
	if err == nil {
		err = f.events.serve(f.site, saved)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		f.log.Error("load of the last documents failed", "dir", f.target.Name, "error", err)
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
