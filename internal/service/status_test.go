package service_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/internal/service"
)

// worker answers as its Health does, and runs until ctx ends.
type worker struct {
	*service.Health
	running chan struct{}
}

func (w worker) Run(ctx context.Context) error {
	close(w.running)
	<-ctx.Done()
	return nil
}

// TestRun: alive and not ready while the worker is being made, and then as the
// worker says, with the metrics of both.
func TestRun(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(body))
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := worker{service.NewHealth(1<<40, notYet), make(chan struct{})}
	opened, done := make(chan struct{}), make(chan error)
	go func() {
		done <- service.Run(ctx, address, func(_ context.Context, registry prometheus.Registerer) (service.Worker, error) {
			if live, ready := get("/livez"), get("/readyz"); !strings.HasPrefix(live, "200") || ready != "503 starting\n" {
				t.Errorf("while it starts, /livez answers %q and /readyz %q", live, ready)
			}
			count := prometheus.NewCounter(prometheus.CounterOpts{Name: "own_total"})
			registry.MustRegister(count)
			close(opened)
			return w, nil
		})
	}()
	<-opened
	<-w.running
	if live, ready := get("/livez"), get("/readyz"); live != "200 ok\n" || ready != "503 "+notYet+"\n" {
		t.Errorf("/livez answers %q and /readyz %q", live, ready)
	}
	if got := get("/metrics"); !strings.Contains(got, "\nown_total 0\n") || !strings.Contains(got, "\ngo_goroutines ") {
		t.Errorf("/metrics answers %.400s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRunFails where it can't listen, and where there is no worker.
func TestRunFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	want := errors.New("no target")
	open := func(context.Context, prometheus.Registerer) (service.Worker, error) { return nil, want }
	if err := service.Run(t.Context(), listener.Addr().String(), open); err == nil || errors.Is(err, want) {
		t.Errorf("on an address in use: %v", err)
	}
	if err := service.Run(t.Context(), "", open); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
}
