package serve

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
	"oidc-publisher/publish"
)

const (
	// dirInterval is the time between two polls of a directory. Reading two
	// small files costs little, and works where file events don't: network file
	// systems and bind mounts.
	dirInterval = time.Second
	// dirStuck is how long a poll may take: a file system that hangs ignores
	// every deadline.
	dirStuck = time.Minute
)

// directory serves what another process publishes into a directory.
type directory struct {
	loader
	site     *Site
	events   *Events
	path     string
	failures *service.Failures
	polls    *prometheus.CounterVec
	// polled is the time at which the last poll ended, in nanoseconds since
	// 1970.
	polled atomic.Int64
}

func newDirectory(path string, l loader, site *Site, events *Events, log *slog.Logger, registry prometheus.Registerer) *directory {
	polls := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "oidc_publisher", Name: "dir_polls_total",
		Help: "Polls of --dir by result: ok, or failed where its documents can't be served."}, []string{"result"})
	polls.WithLabelValues("ok")
	polls.WithLabelValues("failed")
	registry.MustRegister(polls)
	d := &directory{loader: l, site: site, events: events, path: path, failures: service.NewFailures(log), polls: polls}
	d.polled.Store(time.Now().UnixNano())
	return d
}

// dead returns why the process should be restarted, or "".
func (d *directory) dead() string {
	if since := time.Since(time.Unix(0, d.polled.Load())); since > dirStuck {
		return fmt.Sprintf("the poll of the directory has made no progress for %v", since.Round(time.Second))
	}
	return ""
}

func (d *directory) run(ctx context.Context) error {
	for {
		d.poll(ctx)
		if !retry.Sleep(ctx, dirInterval) {
			return nil
		}
	}
}

func (d *directory) poll(ctx context.Context) {
	wasServed := d.site.Issuer() != ""
	now, changed, err := d.load(ctx)
	if err == nil && changed {
		err = d.events.serve(d.site, now)
	}
	d.polled.Store(time.Now().UnixNano())
	if ctx.Err() != nil {
		return
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	d.polls.WithLabelValues(result).Inc()
	const act = "load of the directory"
	switch {
	case wasServed:
		d.failures.Report(act, err, "dir", d.path)
	case err == nil:
		d.failures.Forget(act, "dir", d.path)
	case d.failures.IsNew(act, err, "dir", d.path):
		d.events.Waiting(fmt.Errorf("%s: %w", d.path, err))
	}
}

// loader reads documents from a store, and parses them if they changed.
type loader struct {
	store publish.Backend
	// issuer, if not "", is the issuer that the document must name.
	issuer discovery.Issuer

	versions [2]string // versions versions versions versions versions of the document and the keys that were parsed last
	parsed   publish.Published
	err      error
}

// load returns what the store holds, and whether that changed since the last
// load.
//
// The document is read first: a publisher writes it last, so the keys that are
// read after it are never older than it.
func (l *loader) load(ctx context.Context) (now publish.Published, changed bool, err error) {
	document, err := l.store.Get(ctx, discovery.ConfigurationPath)
	if err != nil {
		return now, false, err
	}
	keys, err := l.store.Get(ctx, discovery.JWKSPath)
	if err != nil {
		return now, false, err
	}
	versions := [2]string{document.Version, keys.Version}
	if versions == l.versions {
		return l.parsed, false, l.err
	}
	l.parsed, l.err = l.parse(document.Body, keys.Body)
	l.versions = versions
	return l.parsed, true, l.err
}

func (l *loader) parse(document, keys []byte) (now publish.Published, err error) {
	if now.Document, err = discovery.ParseDocument(document); err != nil {
		return now, fmt.Errorf("%s: %w", discovery.ConfigurationPath, err)
	}
	if now.Keys, err = discovery.ParseKeySet(keys); err != nil {
		return now, fmt.Errorf("%s: %w", discovery.JWKSPath, err)
	}
	switch issuer := now.Document.Issuer(); {
	case l.issuer != "" && l.issuer != issuer:
		return now, fmt.Errorf("%s has the issuer %q and not %q: relying parties compare them byte for byte", discovery.ConfigurationPath, issuer, l.issuer)
	case now.Document.JWKSURI() != issuer.JWKSURI():
		return now, fmt.Errorf("%s: its jwks_uri is %q and not %q: it was not published by this tool, so give it to --from", discovery.ConfigurationPath, now.Document.JWKSURI(), issuer.JWKSURI())
	}
	return now, nil
}
