package pullsecret

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/pullsecret/lease/leasetest"
	"oidc-publisher/internal/kubeerr"
	"oidc-publisher/internal/logtest"
)

// TestHangingElectionOfALeader: the process is alive while attempts end, and again
// once the plugin returns.
func TestHangingElectionOfALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := new(leasetest.Server).Connect().Config()
		plugin := &leasetest.Plugin{Next: config.Transport, Returns: make(chan struct{}), From: time.Now().Add(time.Hour)}
		config.Transport = plugin
		c := candidacy(t, config)
		pass(time.Hour - time.Minute)
		c.lives(http.StatusOK, "after an hour")
		c.leads(true)
		pass(5 * time.Minute)
		c.lives(http.StatusOK, "4 minutes after it began to hang")
		c.leads(false)
		pass(2 * time.Minute)
		c.lives(http.StatusServiceUnavailable, "6 minutes after it began to hang")
		close(plugin.Returns)
		pass(time.Minute)
		c.lives(http.StatusOK, "once the plugin returned")
		c.leads(true)
	})
}

// TestFailingElection is no reason for a restart: each attempt ends.
func TestFailingElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(leasetest.Server)
		server.Fail(errors.New("leases.coordination.k8s.io is forbidden"))
		c := candidacy(t, server.Connect().Config())
		pass(time.Hour)
		c.lives(http.StatusOK, "after an hour of refusals")
		c.leads(false)
		if n := strings.Count(c.log.String(), `msg="leader election failed"`); n != 1 {
			t.Errorf("one lasting failure is logged %d times:\n%s", n, &c.log)
		}
	})
}

// candidate is a keeper that runs on a fake clock and has no namespaces.
type candidate struct {
	t      *testing.T
	keeper *Keeper
	log    logtest.Log
}

func candidacy(t *testing.T, leases *rest.Config) *candidate {
	t.Helper()
	cluster := connected(t, &rest.Config{Host: "https://kubernetes.example.com", Transport: emptyCluster{}})
	c := &candidate{t: t}
	c.keeper = NewKeeper(KeeperConfig{
		Job: Job{Cluster: cluster, Secret: Secret{Name: "regcred"}, Exchange: func(context.Context) (exchange.Credential, error) {
			return exchange.Credential{Username: "token", Password: discovery.NewSecret(password), Expiry: time.Now().Add(time.Hour)}, nil
		}},
		Timeout: 30 * time.Second,
		Elector: connected(t, leases).Elector("default", "lease", "a"), Log: slog.New(slog.NewTextHandler(&c.log, nil)),
	}, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.keeper.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return c
}

// connected is a connection whose errors are left as they are.
func connected(t *testing.T, config *rest.Config) *Cluster {
	t.Helper()
	cluster, err := Connect(config, func(_ context.Context, _ kubeerr.Request, err error) error { return err })
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

func (c *candidate) lives(want int, when string) {
	c.t.Helper()
	got := httptest.NewRecorder()
	c.keeper.Handler(http.NotFoundHandler()).ServeHTTP(got, httptest.NewRequest(http.MethodGet, "/livez", nil))
	if got.Code != want {
		c.t.Errorf("%s /livez answers %d %q, want %d", when, got.Code, got.Body, want)
	}
}

func (c *candidate) leads(want bool) {
	c.t.Helper()
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	if got := c.keeper.queue != nil; got != want {
		c.t.Errorf("that it leads is %t:\n%s", got, &c.log)
	}
}

// emptyCluster has no namespace, and never will.
type emptyCluster struct{}

func (emptyCluster) RoundTrip(r *http.Request) (*http.Response, error) {
	body := io.NopCloser(strings.NewReader(`{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"}}`))
	if r.URL.Query().Has("watch") {
		events, end := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = end.Close() })
		body = events
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: r}, nil
}
