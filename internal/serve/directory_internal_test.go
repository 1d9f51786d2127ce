package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/logtest"
	"oidc-publisher/publish"
)

const (
	testIssuer = discovery.Issuer("https://issuer.example.com/a")
	testKey    = `{"kty":"EC","kid":"a","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`
	testKeys   = `{"keys":[` + testKey + `]}`
)

func testDocument(issuer discovery.Issuer, jwksURI string) string {
	return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`, issuer, jwksURI)
}

// shelf is a store that a test can break.
type shelf struct {
	publish.Backend
	broken atomic.Pointer[error]
	// hangs blocks until it is closed, if there is one.
	hangs atomic.Pointer[chan struct{}]
}

func (s *shelf) Get(ctx context.Context, name string) (publish.Object, error) {
	if hangs := s.hangs.Load(); hangs != nil {
		<-*hangs
	}
	if err := s.broken.Load(); err != nil {
		return publish.Object{}, *err
	}
	return s.Backend.Get(ctx, name)
}

func newShelf() (*shelf, *Memory) {
	m := new(Memory)
	m.Store(discovery.ConfigurationPath, []byte(testDocument(testIssuer, testIssuer.JWKSURI())))
	m.Store(discovery.JWKSPath, []byte(testKeys))
	return &shelf{Backend: m.Open()}, m
}

func newTestDirectory(t *testing.T, store publish.Backend, stdout, stderr io.Writer) *directory {
	t.Helper()
	log := slog.New(slog.NewTextHandler(stderr, nil))
	events, err := NewEvents(stdout, true, "", log)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	return newDirectory("public", loader{store: store}, NewSite(log, NewMetrics(registry)), events, log, registry)
}

func during(t *testing.T, run part, work func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- run(ctx) }()
	work()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestDirectoryRecovers: what could not be read is served as soon as it can be;
// until then it is reported once, and what was served before stays.
func TestDirectoryRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, memory := newShelf()
		broken := errors.New("input/output error")
		store.broken.Store(&broken)
		var stdout, stderr logtest.Log
		d := newTestDirectory(t, store, &stdout, &stderr)
		during(t, d.run, func() {
			time.Sleep(3 * dirInterval)
			if d.site.Issuer() != "" || strings.Contains(stdout.String(), "serving") || strings.Count(stdout.String(), `"event":"waiting"`) != 1 {
				t.Errorf("it serves what it can't read: %s", &stdout)
			}
			store.broken.Store(nil)
			time.Sleep(2 * dirInterval)
			if d.site.Issuer() != testIssuer || strings.Count(stdout.String(), `"event":"serving"`) != 1 || strings.Contains(stdout.String(), "_changed") {
				t.Errorf("it serves %q and reports %s", d.site.Issuer(), &stdout)
			}
			memory.Store(discovery.JWKSPath, []byte(testKeys[:40]))
			time.Sleep(3 * dirInterval)
			if d.site.Published().Keys.Len() != 1 || strings.Count(stderr.String(), `msg="load of the directory failed"`) != 1 {
				t.Errorf("half a file: %d keys\n%s", d.site.Published().Keys.Len(), &stderr)
			}
			memory.Store(discovery.JWKSPath, []byte(testKeys))
			time.Sleep(3 * dirInterval)
			if strings.Count(stderr.String(), `msg="load of the directory recovered"`) != 1 {
				t.Errorf("the log is\n%s", &stderr)
			}
		})
	})
}

// TestDirectoryIsDead once a poll does not end.
func TestDirectoryIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, _ := newShelf()
		d := newTestDirectory(t, store, io.Discard, io.Discard)
		during(t, d.run, func() {
			time.Sleep(time.Hour + dirInterval/2)
			if reason := d.dead(); reason != "" {
				t.Errorf("it polls, and is dead: %s", reason)
			}
			hangs := make(chan struct{})
			store.hangs.Store(&hangs)
			time.Sleep(2 * dirStuck)
			if d.dead() == "" {
				t.Error("it hangs, and is alive")
			}
			close(hangs)
			time.Sleep(2 * dirInterval)
			if reason := d.dead(); reason != "" {
				t.Errorf("it polls again, and is dead: %s", reason)
			}
		})
	})
}

// TestLoad: what is not fit to be served is an error, and unchanged bytes are
// parsed once.
func TestLoad(t *testing.T) {
	document := testDocument(testIssuer, testIssuer.JWKSURI())
	for _, c := range []struct{ name, document, keys, says string }{
		{"another issuer", testDocument("https://issuer.example.com/b", "https://issuer.example.com/b/openid/v1/jwks"), testKeys, "byte for byte"},
		{"not rewritten", testDocument(testIssuer, "https://10.0.0.1/openid/v1/jwks"), testKeys, "--from"},
		{"no keys", document, `{"keys":[]}`, "jwks"},
		{"private key", document, strings.Replace(testKeys, `"x":`, `"d":"AAAA","x":`, 1), "private"},
		{"half a document", document[:40], testKeys, discovery.ConfigurationPath},
	} {
		memory := new(Memory)
		memory.Store(discovery.ConfigurationPath, []byte(c.document))
		memory.Store(discovery.JWKSPath, []byte(c.keys))
		l := loader{store: memory.Open(), issuer: testIssuer}
		for i := range 2 {
			if _, changed, err := l.load(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) || changed != (i == 0) {
				t.Errorf("%s: %v, changed %v, want %q", c.name, err, changed, c.says)
			}
		}
	}
	store, memory := newShelf()
	l := loader{store: store, issuer: testIssuer}
	for i, want := range []bool{true, false, true, false} {
		if i == 2 {
			memory.Store(discovery.JWKSPath, []byte(testKeys))
		}
		if d, changed, err := l.load(t.Context()); err != nil || changed != want || d.Document.Issuer() != testIssuer {
			t.Errorf("load %d: changed %v, %v", i, changed, err)
		}
	}
}
