package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/urfave/cli/v2"

	"oidc-publisher/discovery/kube"
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
  oidc-publisher watch --to s3://my-issuer?region=eu-central-1 --leader-elect`

func watchFlags() []cli.Flag {
	flags := []cli.Flag{
		durationFlag("interval", 10*time.Second, "look at the cluster every `DURATION`, jittered; at least 1s"),
		durationFlag("verify-interval", time.Minute, "read the public issuer every `DURATION`, as a relying party does; 0 never"),
		boolFlag("leader-elect", "let one of several replicas publish, by a Lease"),
		stringFlag("listen", ":8080", "serve /livez, /readyz and /metrics at `ADDRESS`; empty serves nothing"),
		stringFlag("canary", "", "mint tokens for `NAMESPACE/SERVICEACCOUNT` to learn which key signs (default: this program's own, else default/default)"),
	}
	for _, flag := range publishFlags() {
		if names := flag.Names(); names[0] != "dry-run" && names[0] != "output" {
			flags = append(flags, flag)
		}
	}
	return flags
}

func watchAction(c *cli.Context) error {
	log, err := logger(c)
	if err != nil {
		return err
	}
	if c.Duration("interval") < time.Second || c.Duration("verify-interval") < 0 {
		return usagef("--interval must be at least 1s, and --verify-interval not negative")
	}
	nudge := make(chan struct{}, 1)
	publisher, cluster, err := newWatchedPublisher(c, func() {
		select {
		case nudge <- struct{}{}:
		default: // a look is due already
		}
	})
	if err != nil {
		return err
	}
	defer closeTargets(publisher.Targets)
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
	if config.Elector, err = elector(c, cluster, publisher); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	watcher := watch.New(config, registry)
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	stop, err := serveStatus(ctx, c.String("listen"), watcher.Handler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	if err != nil {
		return err
	}
	defer stop()
	defer onHangup(ctx, nudge)()
	log.Info("watching", "targets", strings.Join(list(c, "to"), ","), "interval", config.Interval)
	return watcher.Run(ctx)
}

// newWatchedPublisher is newPublisher with a cluster that says when it goes away.
func newWatchedPublisher(c *cli.Context, disconnected func()) (*publish.Publisher, *kube.Source, error) {
	if fromFiles(c) {
		publisher, err := newPublisher(c)
		return publisher, nil, err
	}
	if err := errors.Join(checkArgs(c), checkSource(c), checkTimeout(c)); err != nil {
		return nil, nil, err
	}
	policy, err := policy(c)
	if err != nil {
		return nil, nil, err
	}
	config := clusterConfig(c)
	config.Canary, config.Disconnected = c.String("canary"), disconnected
	cluster, err := kube.New(config)
	if err != nil {
		return nil, nil, err
	}
	publisher := &publish.Publisher{Source: cluster, Policy: policy, Timeout: c.Duration("timeout")}
	return publisher, cluster, openTargets(c, publisher)
}

// elector competes for a Lease that is named after what is published, so that
// replicas of one Deployment meet and others don't.
func elector(c *cli.Context, cluster *kube.Source, p *publish.Publisher) (*watch.Elector, error) {
	if !c.Bool("leader-elect") {
		return nil, nil
	}
	if cluster == nil {
		return nil, usagef("--leader-elect needs a live cluster for its Lease, not --from or --public-key")
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	return watch.NewElector(cluster.RESTConfig(), cluster.Namespace(), leaseName(p), fmt.Sprintf("%s_%d", host, os.Getpid()))
}

func leaseName(p *publish.Publisher) string {
	what := p.Policy.Owner
	for _, target := range p.Targets {
		what += " " + target.Name
	}
	sum := sha256.Sum256([]byte(what))
	return name + "-" + hex.EncodeToString(sum[:5])
}

// serveStatus serves health and metrics until ctx ends.
func serveStatus(ctx context.Context, address string, handler http.Handler) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
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
			}
			select {
			case nudge <- struct{}{}:
			default: // a look is due already
			}
		}
	}()
	return func() { signal.Stop(hangups) }
}
