package kube_test

import (
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
)

// recorder lists what an API server is asked for, by the last part of the path.
type recorder struct {
	mu       sync.Mutex
	requests []string
	before   func(what string) // nil, or called before each answer
}

func (r *recorder) fault(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		what := path.Base(req.URL.Path)
		r.mu.Lock()
		r.requests = append(r.requests, what)
		before := r.before
		r.mu.Unlock()
		if before != nil {
			before(what)
		}
		next.ServeHTTP(w, req)
	})
}

func (r *recorder) setBefore(before func(what string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = before
}

// take returns the requests since the last call.
func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := strings.Join(r.requests, " ")
	r.requests = nil
	return taken
}

// clock advances by a microsecond at each reading, and by more on demand.
type clock struct{ nanoseconds atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1e9, c.nanoseconds.Add(1000))
}

func (c *clock) advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

const (
	document  = "openid-configuration"
	keys      = "jwks"
	token     = "token"
	uid       = "kube-system"
	unchanged = document + " " + keys
	due       = document + " " + token + " " + keys
	changed   = document + " " + keys + " " + token + " " + keys
)

type recorded struct {
	*fake.APIServer
	*recorder
	*clock
	source *kube.Source
}

func recording(t *testing.T, config kube.Config) recorded {
	t.Helper()
	r := recorded{embedded(t, fake.APIServerOptions{}), &recorder{}, &clock{}, nil}
	r.Break("", r.fault)
	r.source = source(t, r.Kubeconfig("publisher"), config)
	r.source.SetNow(r.now)
	return r
}

// want fetches and compares the requests, and the canary with the signing key.
func (r recorded) want(t *testing.T, want string) {
	t.Helper()
	got := fetch(t, r.source)
	if requests := r.take(); requests != want {
		t.Errorf("requests %q, want %q", requests, want)
	}
	if got.Canary == nil || got.Canary.KeyID != r.SigningKeyID() {
		t.Errorf("canary %+v, want %q, warnings %q", got.Canary, r.SigningKeyID(), got.Warnings)
	}
}

// wantNoCanary compares the requests of a Fetch without a canary.
func (r recorded) wantNoCanary(t *testing.T, want string) {
	t.Helper()
	got := fetch(t, r.source)
	if requests := r.take(); requests != want {
		t.Errorf("requests %q, want %q", requests, want)
	}
	if got.Canary != nil {
		t.Errorf("canary %+v, want none", got.Canary)
	}
}

// TestRequestsOfAPoll: a token is minted at first, on a change of the keys and
// every five minutes, and the UID is read once.
func TestRequestsOfAPoll(t *testing.T) {
	r := recording(t, kube.Config{})
	r.want(t, due+" "+uid)
	for range 20 {
		r.advance(10 * time.Second)
		r.want(t, unchanged)
	}
	r.advance(100 * time.Second)
	r.want(t, due)
	r.advance(10 * time.Second)
	r.want(t, unchanged)
	if _, err := r.Rotate("ES256"); err != nil {
		t.Fatal(err)
	}
	r.want(t, changed)
	r.advance(10 * time.Second)
	r.want(t, unchanged)
}

func TestNoCanary(t *testing.T) {
	r := recording(t, kube.Config{Canary: kube.NoCanary})
	r.wantNoCanary(t, unchanged+" "+uid)
	r.advance(time.Hour)
	if _, err := r.Rotate("ES256"); err != nil {
		t.Fatal(err)
	}
	r.wantNoCanary(t, unchanged)
}

// TestTokenAfterAReconnect: an API server that ended the connection may sign
// with another key. A gateway that ends every connection causes few tokens.
func TestTokenAfterAReconnect(t *testing.T) {
	ended := make(chan struct{}, 10)
	r := recording(t, kube.Config{Disconnected: func() { ended <- struct{}{} }})
	r.want(t, due+" "+uid)
	restart := func() {
		r.Stop()
		<-ended
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		restart()
		r.want(t, due)
		r.want(t, unchanged)
	}
	restart()
	r.want(t, unchanged)
	r.advance(5 * time.Minute)
	r.want(t, due)
}

// TestTokenOlderThanTheKeys is not compared with them: a server that replaced
// its key in between signed it with the old one.
func TestTokenOlderThanTheKeys(t *testing.T) {
	r := recording(t, kube.Config{})
	r.want(t, due+" "+uid)
	// replaceAt replaces the key before the nth answer of that kind.
	replaceAt := func(n int, kind string) {
		r.setBefore(func(what string) {
			if what != kind {
				return
			}
			if n--; n == 0 {
				if _, err := r.Replace("ES256"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	r.advance(5 * time.Minute)
	replaceAt(1, keys) // after the token
	r.want(t, document+" "+token+" "+keys+" "+token+" "+keys)

	if _, err := r.Rotate("ES256"); err != nil {
		t.Fatal(err)
	}
	replaceAt(2, keys) // after the second token
	r.wantNoCanary(t, changed)
	r.setBefore(nil)
	r.want(t, due)
}

// TestTokenThatContradictsTheKeys is replaced soon, since a load balancer's
// servers differ during a rotation, but not at each poll.
func TestTokenThatContradictsTheKeys(t *testing.T) {
	r := recording(t, kube.Config{})
	if _, err := r.AddKey("ES256"); err != nil {
		t.Fatal(err)
	}
	r.RemoveKey(r.SigningKeyID())
	r.want(t, due+" "+uid)
	for range 4 {
		r.want(t, due)
	}
	for range 20 {
		r.want(t, unchanged)
	}
	if err := r.SignWith(r.KeyIDs()[0]); err != nil {
		t.Fatal(err)
	}
	r.advance(5 * time.Minute)
	r.want(t, due)
	r.want(t, unchanged)
}

// TestTokenThatCannotBeMinted: the source tries again every five minutes where
// RBAC forbids it, and sooner where the server failed.
func TestTokenThatCannotBeMinted(t *testing.T) {
	r := recording(t, kube.Config{})
	const path = "/api/v1/namespaces/default/serviceaccounts/default/token"
	failing := func(code int) fake.Fault {
		return func(next http.Handler) http.Handler { return r.fault(fake.FaultStatus(code)(next)) }
	}
	r.Break(path, failing(http.StatusForbidden))
	r.wantNoCanary(t, due+" "+uid)
	for range 3 {
		r.advance(time.Minute)
		r.wantNoCanary(t, unchanged)
		if warnings := fetch(t, r.source).Warnings; len(warnings) != 1 || !strings.Contains(warnings[0], "signing key could not be checked") {
			t.Errorf("warnings %q", warnings)
		}
		r.take()
	}
	r.advance(2 * time.Minute)
	r.Break(path, failing(http.StatusServiceUnavailable))
	r.wantNoCanary(t, due)
	r.Break(path, r.fault)
	r.want(t, due)
	r.want(t, unchanged)
}

// TestClusterUIDThatMayNotBeRead: the source tries again every five minutes.
func TestClusterUIDThatMayNotBeRead(t *testing.T) {
	r := recording(t, kube.Config{Canary: kube.NoCanary})
	r.Revoke("publisher")
	r.Grant("publisher", fake.RightDiscovery)
	r.wantNoCanary(t, unchanged+" "+uid)
	r.wantNoCanary(t, unchanged)
	r.Grant("publisher", fake.RightDiscovery, fake.RightNamespaces)
	r.advance(5 * time.Minute)
	r.wantNoCanary(t, unchanged+" "+uid)
	r.wantNoCanary(t, unchanged)
	if got := fetch(t, r.source).Cluster; !slices.Contains(got, "uid:"+r.UID()) {
		t.Errorf("cluster %q", got)
	}
}
