package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"oidc-publisher/internal/cli"
)

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
