package watch

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/klog/v2"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/discovery"
	"oidc-publisher/internal/logtest"
	"oidc-publisher/publish"
)

const (
	issuer = "https://issuer.example.com"
	every  = 10 * time.Second
	grace  = time.Hour
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // as the program does
	m.Run()
}

// world is a cluster, a store and the log of a watcher of both.
type world struct {
	t        *testing.T
	mu       sync.Mutex
	keys     map[string]json.RawMessage
	snapshot discovery.Snapshot
	down     error
	store    *backendtest.Memory
	log      logtest.Log
	registry *prometheus.Registry
	*Watcher
}

func newWorld(t *testing.T, change func(*Config)) *world {
	w := &world{t: t, keys: map[string]json.RawMessage{}, store: new(backendtest.Memory), registry: prometheus.NewRegistry()}
	w.lists("a")
	config := Config{
		Publisher: &publish.Publisher{
			Source:  w,
			Targets: []publish.Target{{Name: "store", Backend: w.store.Open()}},
			Policy:  publish.Policy{Grace: grace},
			Timeout: 30 * time.Second,
		},
		Interval: every,
		Log:      slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	if change != nil {
		change(&config)
	}
	w.Watcher = New(config, w.registry)
	return w
}

// Fetch implements publish.Source.
func (w *world) Fetch(context.Context) (discovery.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.snapshot, w.down
}

func (w *world) fails(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = err
}

// lists makes the cluster list these keys.
func (w *world) lists(ids ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for _, id := range ids {
		if w.keys[id] == nil {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				w.t.Fatal(err)
			}
			jwk := jose.JSONWebKey{Key: private.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"}
			if w.keys[id], err = jwk.MarshalJSON(); err != nil {
				w.t.Fatal(err)
			}
		}
		set.Keys = append(set.Keys, w.keys[id])
	}
	body, err := json.Marshal(set)
	if err != nil {
		w.t.Fatal(err)
	}
	keys, err := discovery.ParseKeySet(body)
	if err != nil {
		w.t.Fatal(err)
	}
	document, err := discovery.ParseDocument([]byte(`{"issuer":"` + issuer + `","jwks_uri":"https://10.0.0.1/openid/v1/jwks",
		"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`))
	if err != nil {
		w.t.Fatal(err)
	}
	w.snapshot = discovery.Snapshot{Document: document, Keys: keys, Cluster: []string{"uid:one"}}
}

// begin runs the watcher on the test's fake clock until end is called, or the
// test ends.
func (w *world) begin() (end func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// after lets fake time pass, with everything that happens in it.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) said(what string) int { return strings.Count(w.log.String(), what) }

func (w *world) wantLog(what string, times int) {
	w.t.Helper()
	if got := w.said(what); got != times {
		w.t.Errorf("the log says %q %d times, want %d:\n%s", what, got, times, w.log.String())
	}
}

func (w *world) want(metric string, value float64) {
	w.t.Helper()
	answer := httptest.NewRecorder()
	w.Handler(promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{})).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	line := fmt.Sprintf("\n%s %v\n", metric, value)
	if !strings.Contains(answer.Body.String(), line) {
		name, _, _ := strings.Cut(metric, "{")
		for text := range strings.Lines(answer.Body.String()) {
			if strings.HasPrefix(text, name) {
				w.t.Log(strings.TrimSpace(text))
			}
		}
		w.t.Errorf("there is no line %q", strings.TrimSpace(line))
	}
}

// ago returns the time since an event, according to the store's metric.
func (w *world) ago(what string) time.Duration {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "oidc_publisher_"+what+"_timestamp_seconds" {
			return time.Since(time.UnixMicro(int64(family.GetMetric()[0].GetGauge().GetValue() * 1e6))).Round(time.Millisecond)
		}
	}
	w.t.Fatalf("there is no metric %s", what)
	return 0
}

func (w *world) status(path string) int {
	answer := httptest.NewRecorder()
	w.Handler(http.NotFoundHandler()).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer.Code
}

func (w *world) wantHealth(live, ready int) {
	w.t.Helper()
	if got := [2]int{w.status("/livez"), w.status("/readyz")}; got != [2]int{live, ready} {
		w.t.Errorf("/livez and /readyz answer %v, want %d and %d", got, live, ready)
	}
}

// TestOneLineForEachChange and none otherwise.
func TestOneLineForEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		defer w.begin()()
		after(10 * time.Minute)
		w.wantLog("level=", 1)
		w.lists("a", "b")
		after(10 * time.Minute)
		w.wantLog("level=", 2)
		w.wantLog("msg=published target=store written=.oidc-publisher.json,openid/v1/jwks added=b", 1)
		w.lists("b")
		after(10 * time.Minute)
		w.wantLog("retired=a", 1)
		w.wantLog("level=", 3)
		after(grace)
		w.wantLog("dropped=a", 1)
		w.wantLog("level=", 4)
	})
}

// TestAnHourWithoutTheAPIServer: two lines, alive and ready all the time, and
// the keys that came meanwhile are public after.
func TestAnHourWithoutTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		defer w.begin()()
		after(time.Second)
		w.wantHealth(200, 200)
		w.lists("b")
		w.fails(errors.New("read tcp 10.0.0.7:40000->10.0.0.1:443: connection reset"))
		for i := range 60 {
			after(time.Minute)
			w.fails(fmt.Errorf("read tcp 10.0.0.7:%d->10.0.0.1:443: connection reset", 40001+i))
			w.wantHealth(200, 200)
		}
		w.wantLog("msg=\"fetch failed\"", 1)
		w.fails(nil)
		after(2 * every)
		w.wantLog("msg=\"fetch recovered\"", 1)
		w.wantLog("added=b retired=a", 1)
		w.wantLog("level=", 4)
		w.want(`oidc_publisher_rotations_total`, 1)
		w.want(`oidc_publisher_published_keys{state="retired",target="store"}`, 1)
		w.want(`oidc_publisher_key_grace_end_timestamp_seconds{kid="a",target="store"}`, seconds(w.published().GraceEnds["a"]))
	})
}

// published is what the store holds by the last pass.
func (w *world) published() publish.Published { return w.Publisher.Published()[0] }

// TestRotationToPublic: the clock of a key starts when the cluster first shows
// it, however long it takes to reach the target.
func TestRotationToPublic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		var broken error
		var mu sync.Mutex
		w.store.BeforePut = func(publish.Object) error {
			mu.Lock()
			defer mu.Unlock()
			return broken
		}
		set := func(err error) { mu.Lock(); defer mu.Unlock(); broken = err }
		defer w.begin()()
		after(time.Minute)
		w.want("oidc_publisher_key_publication_seconds_count", 0) // what was there at the start took no time
		set(errors.New("503 RequestID: A1"))
		w.lists("a", "b")
		after(30 * time.Second)
		set(errors.New("503 RequestID: B2"))
		after(30 * time.Second)
		w.want("oidc_publisher_unpublished_keys", 1)
		w.wantLog(`msg="publish failed" target=store`, 1)
		if good, last := w.ago("last_success"), w.ago("last_attempt"); good < time.Minute || good > time.Minute+every*11/10 || last > every*11/10 {
			t.Errorf("the last success was %v ago, and the last attempt %v", good, last)
		}
		set(nil)
		after(30 * time.Second)
		w.want("oidc_publisher_unpublished_keys", 0)
		w.want("oidc_publisher_key_publication_seconds_count", 1)
		w.want(`oidc_publisher_key_publication_seconds_bucket{le="30"}`, 0)
		w.want(`oidc_publisher_key_publication_seconds_bucket{le="300"}`, 1)
		w.want("oidc_publisher_rotations_total", 1)
		w.wantLog("level=", 4)
	})
}

// TestAKeyThatSignsAndIsNotListed counts as not public.
func TestAKeyThatSignsAndIsNotListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		defer w.begin()()
		after(time.Second)
		w.mu.Lock()
		w.snapshot.Canary = &discovery.Canary{KeyID: "x", Algorithm: "ES256", Issuer: issuer}
		w.mu.Unlock()
		after(time.Minute)
		w.want("oidc_publisher_unpublished_keys", 1)
		w.wantLog(`msg="publish failed" target=store`, 1)
		w.wantLog("--service-account-key-file", 1)
		w.wantHealth(200, 200)
		w.lists("a")
		after(time.Minute)
		w.want("oidc_publisher_unpublished_keys", 0)
	})
}

func TestMetricsFollowTheConventions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.want(`oidc_publisher_last_success_timestamp_seconds{target="store"}`, 0) // so that an alert also fires if it never happens
		end := w.begin()
		w.lists("a", "b")
		after(time.Minute)
		w.lists("b")
		after(time.Minute)
		w.want(`oidc_publisher_fetches_total{result="failed"}`, 0)
		w.want(`oidc_publisher_writes_total{result="refused",target="store"}`, 0)
		end()
		problems, err := testutil.GatherAndLint(w.registry)
		if err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
		families, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetHelp() == "" || !strings.HasPrefix(family.GetName(), "oidc_publisher_") {
				t.Errorf("%s: help %q", family.GetName(), family.GetHelp())
			}
		}
	})
}

// TestHealth: not ready before the first success, and dead only if the loop
// hangs, whatever the state of the API server.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.fails(errors.New("connection refused"))
		stand, standing := make(chan struct{}), false
		w.store.BeforeGet = func(string) error {
			if standing {
				<-stand
			}
			return nil
		}
		w.wantHealth(200, 503)
		defer w.begin()()
		after(time.Hour)
		w.wantHealth(200, 503)
		w.fails(nil)
		after(2 * every)
		w.wantHealth(200, 200)
		w.fails(errors.New("connection refused"))
		after(time.Hour)
		w.wantHealth(200, 200)
		standing = true
		w.fails(nil)
		after(3 * time.Minute)
		w.wantHealth(200, 200)
		after(time.Hour)
		w.wantHealth(503, 200)
		standing = false
		close(stand)
		after(time.Minute)
		w.wantHealth(200, 200)
	})
}

// TestRepairs: what another writer changed is repaired within an interval, and
// is not taken for a change of the cluster.
func TestRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		defer w.begin()()
		after(time.Second)
		w.store.Place(publish.Object{Name: discovery.JWKSPath, Body: []byte(`{"keys":[]}`)})
		after(2 * every)
		w.wantLog("msg=\"repaired what another writer changed or deleted\" target=store written=openid/v1/jwks", 1)
		w.store.Remove(discovery.ConfigurationPath)
		after(2 * every)
		w.want(`oidc_publisher_repairs_total{target="store"}`, 2)
		for _, name := range []string{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath} {
			w.store.Remove(name)
		}
		after(2 * every)
		w.want(`oidc_publisher_repairs_total{target="store"}`, 3)
		w.wantLog("msg=published", 1)
		w.wantLog("level=", 6) // the first damage is a warning of its own
	})
}

// TestWarningsAreLoggedOnce, also if fetches fail in between.
func TestWarningsAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.snapshot.Warnings = []string{"the signing key could not be checked"}
		defer w.begin()()
		after(time.Minute)
		w.fails(errors.New("connection refused"))
		after(time.Minute)
		w.fails(nil)
		after(time.Minute)
		w.wantLog("could not be checked", 1)
		w.lists("a")
		after(time.Minute)
		w.mu.Lock()
		w.snapshot.Warnings = []string{"the signing key could not be checked"}
		w.mu.Unlock()
		after(time.Minute)
		w.wantLog("could not be checked", 2)
	})
}

// TestTakeOverAppliesOnce: two publishers with --take-over do not keep taking
// over from each other.
func TestTakeOverAppliesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Publisher.Policy.TakeOver = true })
		other := newWorld(t, func(c *Config) { c.Publisher.Policy.TakeOver = true })
		other.snapshot.Cluster = []string{"uid:two"}
		other.Publisher.Targets[0].Backend = w.store.Open()
		defer w.begin()()
		after(time.Minute)
		defer other.begin()()
		after(time.Hour)
		w.wantLog("target belongs to another cluster", 1)
		other.wantLog("level=", 1)
	})
}
