package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/util/validation"
	"oidc-publisher/internal/cli"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/lease"
	"oidc-publisher/publish"
	"oidc-publisher/publish/watch"
)

func watchCommand() *cli.Command {
	return &cli.Command{
		Name:        "watch",
		Usage:       "publish again whenever the cluster's keys change, and keep the public issuer right",
		Description: watchDescription,
		Flags:       watchFlags(),
		Action:      watchAction,
	}
}

const watchDescription = `Does what publish does at every --interval, and at once when an API server ends
its connection, when a newly minted token names a key that is not public, and
on SIGHUP. What fails is tried again for ever, and the last good stays public.

SIGTERM ends it once the write in hand is done. /livez, /readyz and /metrics are
served at --listen.

Examples:
  oidc-publisher watch --to gs://my-issuer
  oidc-publisher watch --to 's3://my-issuer?region=eu-central-1' --leader-elect`

func watchFlags() []cli.Flag {
	flags := []cli.Flag{
		cli.Duration("interval", 10*time.Second, "look at the cluster every `DURATION`, jittered; at least 1s"),
		cli.Duration("verify-interval", time.Minute, "read the public issuer every `DURATION`, as a relying party does; 0 never"),
		cli.Bool("leader-elect", "let one of several replicas publish, by a Lease"),
		cli.String("lease", "", "let those compete that name the same Lease, `NAME` (default: named after owner and targets)"),
		cli.String("listen", ":8080", "serve /livez, /readyz and /metrics at `ADDRESS`; empty serves nothing"),
		cli.String("canary", "", "mint tokens for `NAMESPACE/SERVICEACCOUNT` to learn which key signs (default: this program's own, else default/default)"),
	}
	for _, flag := range publishFlags() {
		switch flag.Names()[0] {
		case "dry-run", "output", "log-level", "log-format":
		default:
			flags = append(flags, flag)
		}
	}
	return append(flags, cli.LogFlags(cli.LogOfService)...)
}

func watchAction(c *cli.Context) error {
	log, err := cli.ServiceLogger(c)
	if err != nil {
		return err
	}
	if c.Duration("interval") < time.Second || c.Duration("verify-interval") < 0 {
		return cli.Usagef("--interval must be at least 1s, and --verify-interval not negative")
	}
	if name := c.String("lease"); name != "" && (!c.Bool("leader-elect") || len(validation.IsDNS1123Subdomain(name)) > 0) {
		return cli.Usagef("--lease %q must be a name such as my-issuer, and goes with --leader-elect", name)
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	nudge := make(chan struct{}, 1)
	defer onHangup(ctx, nudge)()
	status := new(statusHandler)
	publisher, cluster, err := newPublisher(c, func() { look(nudge) })
	if err != nil {
		return err
	}
	publisher.Log = log
	config := watch.Config{
		Publisher:      publisher,
		Interval:       c.Duration("interval"),
		VerifyInterval: c.Duration("verify-interval"),
		Nudge:          nudge,
		Log:            log,
	}
	if c.Bool("no-verify") {
		config.VerifyInterval = 0
	}
	stop, err := serveStatus(ctx, c, "listen", status)
	if err != nil {
		return err
	}
	defer stop()
	if err := openTargetsInTime(ctx, c, publisher, log); err != nil || ctx.Err() != nil {
		return err
	}
	defer closeTargets(publisher.Targets)
	var targets []string
	for _, target := range publisher.Targets {
		targets = append(targets, target.Name)
	}
	election := cmp.Or(c.String("lease"), leaseName("", append([]string{publisher.Policy.Owner}, targets...)...))
	if config.Elector, err = elector(c, cluster, election); err != nil {
		return err
	}
	registry := newRegistry()
	watcher := watch.New(config, registry)
	status.use(watcher.Handler(metricsOf(registry)))
	log.Info("watching", "targets", strings.Join(targets, ","), "interval", config.Interval)
	return watcher.Run(ctx)
}

// newRegistry has the numbers of the process itself.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

func metricsOf(registry *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// look asks for a pass without delay.
func look(nudge chan<- struct{}) {
	select {
	case nudge <- struct{}{}:
	default: // a look is due already
	}
}

// Waits between two tries to learn the issuer from a cluster that does not
// answer; they double from the first to the longest.
const (
	firstOpening   = time.Second
	longestOpening = 15 * time.Second
)

// openTargetsInTime is openTargets that waits for an API server that has to be
// asked first and does not answer yet.
func openTargetsInTime(ctx context.Context, c *cli.Context, p *publish.Publisher, log *slog.Logger) error {
	if len(cli.Values(c, "to")) > 0 {
		return openTargets(c, p)
	}
	return inTime(ctx, log, func() error { return openTargets(c, p) })
}

// inTime tries until nothing is wrong or what is can't pass, and returns nil
// when ctx ends.
func inTime(ctx context.Context, log *slog.Logger, open func() error) error {
	told := ""
	for wait := firstOpening; ; wait = min(2*wait, longestOpening) {
		err := open()
		if usage := new(cli.UsageError); err == nil || errors.As(err, &usage) || errors.Is(err, publish.ErrRefused) {
			return err
		}
		if face := watch.Face(err); face != told {
			told = face
			log.Error("the issuer, which names the target, is not known yet", "error", err)
		}
		// Jittered, as the replicas of a Deployment start together.
		jittered := wait/2 + rand.N(wait/2)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(jittered, publish.RetryAfter(err))):
		}
	}
}

// elector competes for a Lease, if it is asked for.
func elector(c *cli.Context, cluster *kube.Source, named string) (*lease.Elector, error) {
	if !c.Bool("leader-elect") {
		return nil, nil
	}
	if cluster == nil {
		return nil, cli.Usagef("--leader-elect needs a live cluster for its Lease, not --from or --public-key")
	}
	identity, err := lease.Identity()
	if err != nil {
		return nil, err
	}
	return lease.New(cluster.RESTConfig(), cluster.Namespace(), named, identity)
}

// leaseName names a Lease after what its holder writes, so that replicas of one
// Deployment meet and others don't.
func leaseName(kind string, what ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(what, " ")))
	return cli.Name + kind + "-" + hex.EncodeToString(sum[:5])
}

// statusHandler answers before there is a watcher: it lives, and is not ready.
type statusHandler struct{ watcher atomic.Pointer[http.Handler] }

func (s *statusHandler) use(h http.Handler) { s.watcher.Store(&h) }

func (s *statusHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.watcher.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	if r.URL.Path != "/livez" {
		http.Error(w, "starting", http.StatusServiceUnavailable)
	}
}

// serveStatus serves health and metrics at the address that a flag names, if
// it names one.
func serveStatus(ctx context.Context, c *cli.Context, flag string, handler http.Handler) (stop func(), err error) {
	if c.String(flag) == "" {
		return func() {}, nil
	}
	listener, err := listen(ctx, c, flag)
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	go func() { _ = server.Serve(listener) }() // returns once closed
	return func() { _ = server.Close() }, nil
}

func listen(ctx context.Context, c *cli.Context, flag string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.String(flag))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return listener, nil
}

// onHangup nudges on SIGHUP.
func onHangup(ctx context.Context, nudge chan<- struct{}) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				look(nudge)
			}
		}
	}()
	return func() { signal.Stop(hangups) }
}
