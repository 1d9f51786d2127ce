package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/internal/acme"
	"oidc-publisher/internal/httpx"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
	"oidc-publisher/internal/tunnel"
	"oidc-publisher/publish"
)

// Config is the configuration of Run. Events and Log, and either Dir or Source,
// are needed.
type Config struct {
	// Issuer is the public issuer; "" is the document's own or, with a tunnel and
	// a source, the tunnel's public URL.
	Issuer discovery.Issuer

	// Dir is a directory into which another process publishes.
	Dir *publish.Target
	// Source opens the source of documents for an issuer, which may be "".
	Source func(issuer discovery.Issuer) (publish.Source, error)
	// StateDir stores the published documents; nil keeps them in memory.
	StateDir *publish.Target
	Policy   publish.Policy
	// Interval is the time between two polls of the source, VerifyInterval that
	// between two checks of the public issuer; 0 disables the checks.
	Interval, VerifyInterval time.Duration
	Nudge                    <-chan struct{}

	// Listen is the address of the public side.
	Listen string
	// CertFile and KeyFile are a certificate and its key in PEM.
	CertFile, KeyFile string
	// ACME gets a certificate; nil for none. ACMEListen answers HTTP-01, if not "".
	ACME       *acme.Config
	ACMEListen string
	// Tunnel forwards to the public side; nil for none.
	Tunnel *tunnel.Config
	// AdminListen is the address of health and metrics; "" disables them.
	AdminListen string

	// Timeout bounds one pass and the wait for the tunnel's public URL.
	Timeout time.Duration
	Events  *Events
	Log     *slog.Logger
}

// gcPercent makes garbage collections rarer. The live heap is 2 MiB: by default
// there would be one every few hundred requests.
const gcPercent = 400

// Run serves until ctx ends, and then returns nil.
func Run(ctx context.Context, c Config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return service.Run(ctx, c.AdminListen, func(ctx context.Context, registry prometheus.Registerer) (service.Worker, error) {
		return open(ctx, c, registry)
	})
}

// part runs until its context ends and then returns nil.
type part func(context.Context) error

// worker is a service.Worker.
type worker struct {
	Config
	registry prometheus.Registerer
	metrics  *Metrics
	site     *Site
	listener net.Listener
	tls      *tls.Config // nil for plain HTTP
	tunnel   *tunnel.Tunnel
	// keep has the parts that run until the last request is answered: the
	// tunnel, the certificate.
	keep []part
	// live answers /livez once there is a source or a directory.
	live atomic.Pointer[http.Handler]
}

// open listens, so that clients get 503 until there are documents.
func open(ctx context.Context, c Config, registry prometheus.Registerer) (*worker, error) {
	w := &worker{Config: c, registry: registry, metrics: NewMetrics(registry)}
	w.site = NewSite(c.Log, w.metrics)
	scheme, err := w.openCertificate(ctx)
	if err != nil {
		return nil, err
	}
	if w.listener, err = listen(ctx, "listen", c.Listen); err != nil {
		return nil, err
	}
	if c.Tunnel != nil {
		if err := w.openTunnel(*c.Tunnel); err != nil {
			return nil, errors.Join(err, w.listener.Close())
		}
	}
	c.Events.listening(scheme + "://" + w.listener.Addr().String())
	return w, nil
}

func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return listener, nil
}

func (w *worker) openCertificate(ctx context.Context) (scheme string, err error) {
	switch {
	case w.CertFile != "":
		certificate, err := OpenCertificate(w.CertFile, w.KeyFile, w.Log, w.metrics)
		if err != nil {
			return "", err
		}
		w.tls, w.keep = certificate.TLSConfig(), append(w.keep, certificate.Follow)
	case w.ACME != nil:
		config := *w.ACME
		config.Expiry, config.Log = w.metrics.Expiry, w.Log
		certificate, err := acme.New(config)
		if err != nil {
			return "", err
		}
		w.tls, w.keep = certificate.TLSConfig(), append(w.keep, certificate.Keep)
		if w.ACMEListen == "" {
			break
		}
		listener, err := listen(ctx, "acme-http-listen", w.ACMEListen)
		if err != nil {
			return "", err
		}
		// Its metrics are not registered, because it only redirects clients.
		server := &Server{Handler: certificate.HTTPHandler(), Log: w.Log, Metrics: NewMetrics(prometheus.NewRegistry())}
		w.keep = append(w.keep, func(ctx context.Context) error { return server.Serve(ctx, listener, nil) })
	default:
		return "http", nil
	}
	return "https", nil
}

func (w *worker) openTunnel(config tunnel.Config) (err error) {
	config.Target, config.Check, config.Log = localTarget(w.listener.Addr()), w.checkPublic, w.Log
	if w.tunnel, err = tunnel.New(config); err != nil {
		return fmt.Errorf("--tunnel: %w", err)
	}
	w.Events.throughTunnel = true
	w.keep = append(w.keep, func(ctx context.Context) error {
		if err := w.tunnel.Run(ctx); err != nil {
			return fmt.Errorf("--tunnel: %w", err)
		}
		return nil
	})
	return nil
}

// localTarget returns the address at which this machine reaches a listener.
func localTarget(address net.Addr) string {
	host, port, err := net.SplitHostPort(address.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return address.String()
}

// sitePoll is the time between two polls for the first documents.
const sitePoll = 200 * time.Millisecond

// checkPublic waits until there are documents, reads them at the public issuer,
// and returns nil if they are the documents of this server.
func (w *worker) checkPublic(ctx context.Context) error {
	for w.site.Issuer() == "" {
		if !retry.Sleep(ctx, sitePoll) {
			return ctx.Err()
		}
	}
	now := w.site.Published()
	err := verify.Published(ctx, httpx.Anonymous(nil, w.Timeout), now.Document.Issuer(), now.Document.Bytes(), now.Keys.Bytes())
	if err == nil {
		w.Events.public()
	}
	return err
}

// Handler implements service.Worker. It is alive while the source or directory
// is polled. It is ready while documents are served and, if there is a tunnel,
// can be read through it.
func (w *worker) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /readyz", service.StatusHandler(nil, w.unready, metrics))
	mux.HandleFunc("GET /livez", func(rw http.ResponseWriter, r *http.Request) {
		if live := w.live.Load(); live != nil {
			(*live).ServeHTTP(rw, r)
		}
	})
	return mux
}

func (w *worker) unready() string {
	var reasons []string
	if w.site.Issuer() == "" {
		reasons = append(reasons, "there are no documents yet")
	}
	if w.tunnel != nil {
		if reason := w.tunnel.Unready(); reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return strings.Join(reasons, "\n")
}

// Run implements service.Worker.
func (w *worker) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	kept, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var keepers, workers sync.WaitGroup
	run := func(all *sync.WaitGroup, ctx context.Context, work part) {
		all.Go(func() {
			if err := work(ctx); err != nil {
				fail(err)
			}
		})
	}
	for _, keep := range w.keep {
		run(&keepers, kept, keep)
	}
	run(&workers, ctx, w.servePublic)
	run(&workers, ctx, w.fill)
	workers.Wait()
	stop()
	keepers.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (w *worker) servePublic(ctx context.Context) error {
	server := &Server{Handler: w.site, Log: w.Log, Metrics: w.metrics}
	return server.Serve(ctx, w.listener, w.tls)
}

// fill keeps the site filled, once the issuer is known.
func (w *worker) fill(ctx context.Context) error {
	issuer, err := w.issuer(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	w.Events.publicURL(string(issuer))
	if w.Dir != nil {
		d := newDirectory(w.Dir.Name, loader{store: w.Dir.Backend, issuer: issuer}, w.site, w.Events, w.Log, w.registry)
		w.setLive(service.StatusHandler(d.dead, d.dead, http.NotFoundHandler()))
		return d.run(ctx)
	}
	f, err := newCluster(w.Config, issuer, w.site, w.registry)
	if err != nil {
		return err
	}
	w.setLive(f.live())
	return f.run(ctx)
}

func (w *worker) setLive(h http.Handler) { w.live.Store(&h) }

// urlSoon is the time within which tunnel services announce the public URL.
const urlSoon = 2 * time.Second

// issuer waits for the tunnel's public URL where that becomes the issuer.
func (w *worker) issuer(ctx context.Context) (discovery.Issuer, error) {
	if w.Issuer != "" || w.tunnel == nil || w.Dir != nil {
		return w.Issuer, nil
	}
	defer time.AfterFunc(urlSoon, func() {
		w.Events.Waiting(fmt.Errorf("%s announced no public URL yet: if it is your own server and not a tunnel service, stop this and name the URL with --issuer", w.Tunnel.Server))
	}).Stop()
	limited, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	url, err := w.tunnel.URL(limited)
	if err != nil {
		return "", fmt.Errorf("--tunnel: %w", err)
	}
	return discovery.ParseIssuer(url)
}
