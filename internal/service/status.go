package service

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// StatusHandler serves /livez, /readyz and /metrics. dead and unready return the
// reason of a 503, or "".
func StatusHandler(dead, unready func() string, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", answer(dead))
	mux.Handle("GET /readyz", answer(unready))
	mux.Handle("GET /metrics", metrics)
	return mux
}

func answer(reason func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if text := reason(); text != "" {
			http.Error(w, text, http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}

// Worker is the work of a long-running command.
type Worker interface {
	// Run works until ctx ends, and then returns nil.
	Run(ctx context.Context) error
	// Handler serves /livez, /readyz and, from the given handler, /metrics.
	Handler(metrics http.Handler) http.Handler
}

// Run runs the worker that open returns until ctx ends. It serves health and
// metrics at address, unless that is "". Until there is a worker the process is
// alive and not ready: open may take long, and returns nil if ctx ended first.
func Run(ctx context.Context, address string, open func(context.Context, prometheus.Registerer) (Worker, error)) error {
	registry := newRegistry()
	status := new(status)
	stop, err := status.serve(ctx, address)
	if err != nil {
		return err
	}
	defer stop()
	worker, err := open(ctx, registry)
	if err != nil || worker == nil {
		return err
	}
	status.use(worker.Handler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	return worker.Run(ctx)
}

// newRegistry returns a registry with the metrics of the process itself.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// status answers before there is a worker: alive, and not ready.
type status struct{ worker atomic.Pointer[http.Handler] }

func (s *status) use(h http.Handler) { s.worker.Store(&h) }

func (s *status) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.worker.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	if r.URL.Path != "/livez" {
		http.Error(w, "starting", http.StatusServiceUnavailable)
	}
}

func (s *status) serve(ctx context.Context, address string) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--admin-listen: %w", err)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	go func() { _ = server.Serve(listener) }() // returns when the server is closed
	return func() { _ = server.Close() }, nil
}
