package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/logtest"
	"oidc-publisher/publish"
)

// fixedSource always has the same documents.
type fixedSource struct{}

func (fixedSource) Fetch(context.Context) (s discovery.Snapshot, err error) {
	if s.Document, err = discovery.ParseDocument([]byte(testDocument(testIssuer, "https://10.0.0.1/openid/v1/jwks"))); err != nil {
		return s, err
	}
	s.Keys, err = discovery.ParseKeySet([]byte(testKeys))
	s.Cluster = []string{"uid:1"}
	return s, err
}

// withStateDir returns a cluster that keeps its documents in store and writes its
// events to stdout.
func withStateDir(t *testing.T, source publish.Source, store publish.Backend, stdout io.Writer, log *slog.Logger) *cluster {
	t.Helper()
	events, err := NewEvents(stdout, true, "", log)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	f, err := newCluster(Config{
		Source:   func(discovery.Issuer) (publish.Source, error) { return source, nil },
		StateDir: &publish.Target{Name: "state", Backend: store, Local: true},
		Interval: 10 * time.Second, Timeout: 30 * time.Second, Events: events, Log: log,
	}, "", NewSite(log, NewMetrics(registry)), registry)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestStateDir: what an earlier run left is served at once or, where it could not
// be read, with the first pass that can. It is reported once.
func TestStateDir(t *testing.T) {
	for name, broken := range map[string]bool{"readable": false, "broken": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, _ := newShelf()
				failure := errors.New("input/output error")
				if broken {
					store.broken.Store(&failure)
				}
				var stdout logtest.Log
				f := withStateDir(t, fixedSource{}, store, &stdout, slog.New(slog.DiscardHandler))
				site := f.site
				during(t, f.run, func() {
					time.Sleep(time.Millisecond)
					if served := site.Issuer() != ""; served == broken {
						t.Errorf("at the start it serves %q", site.Issuer())
					}
					time.Sleep(5 * time.Second)
					store.broken.Store(nil)
					time.Sleep(time.Minute)
					if site.Issuer() != testIssuer || strings.Count(stdout.String(), `"event":"serving"`) != 1 || strings.Contains(stdout.String(), "_changed") {
						t.Errorf("it serves %q and reports %s", site.Issuer(), &stdout)
					}
				})
			})
		})
	}
}

// failingSource is a cluster that is away.
type failingSource struct{}

func (failingSource) Fetch(context.Context) (discovery.Snapshot, error) {
	return discovery.Snapshot{}, errors.New("connection refused")
}

// TestStateDirIsTriedAgain: what could not be read at the start is served soon
// after it can be, although the cluster does not answer.
func TestStateDirIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, _ := newShelf()
		failure := errors.New("input/output error")
		store.broken.Store(&failure)
		var stdout, stderr logtest.Log
		f := withStateDir(t, failingSource{}, store, &stdout, slog.New(slog.NewTextHandler(&stderr, nil)))
		site := f.site
		during(t, f.run, func() {
			time.Sleep(time.Minute)
			if site.Issuer() != "" || strings.Contains(stdout.String(), `"event":"serving"`) {
				t.Errorf("it serves what it can't read: %s", &stdout)
			}
			store.broken.Store(nil)
			time.Sleep(time.Minute)
			if site.Issuer() != testIssuer || strings.Count(stdout.String(), `"event":"serving"`) != 1 || strings.Contains(stdout.String(), "_changed") {
				t.Errorf("it serves %q and reports %s", site.Issuer(), &stdout)
			}
			for _, once := range []string{`msg="load of the last documents failed"`, `msg="load of the last documents recovered"`} {
				if strings.Count(stderr.String(), once) != 1 {
					t.Errorf("the log has not %s once:\n%s", once, &stderr)
				}
			}
		})
	})
}
