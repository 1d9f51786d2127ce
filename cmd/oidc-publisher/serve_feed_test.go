package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/serve"
	"oidc-publisher/publish"
)

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

// newShelf holds a pair of documents.
func newShelf(t *testing.T) *shelf {
	t.Helper()
	const issuer = discovery.Issuer("https://issuer.example.com")
	store := newTestSite().Open()
	for _, object := range []publish.Object{
		{Name: discovery.JWKSPath, Body: []byte(`{"keys":[{"kty":"EC","kid":"a","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`)},
		{Name: discovery.ConfigurationPath, Body: []byte(`{"issuer":"https://issuer.example.com","jwks_uri":"` + issuer.JWKSURI() + `","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`)},
	} {
		if err := store.Put(t.Context(), object, publish.IfAbsent()); err != nil {
			t.Fatal(err)
		}
	}
	return &shelf{Backend: store}
}

func newTestSite() *serve.Site {
	return serve.NewSite(slog.New(slog.DiscardHandler), serve.NewMetrics(prometheus.NewRegistry()))
}

func newTestProgress(out io.Writer) *progress {
	return &progress{log: slog.New(slog.DiscardHandler), stdout: out, json: true}
}

// TestStateDirIsTriedAgain: what could not be read back once is served soon after,
// and not only when the keys change for the next time.
func TestStateDirIsTriedAgain(t *testing.T) {
	for name, meet := range map[string]func(f *follower){
		"at the start":  func(f *follower) { f.begin(t.Context()) },
		"after a write": func(f *follower) { f.Published(publish.TargetReport{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				site, store := newTestSite(), newShelf(t)
				var told strings.Builder
				p := newTestProgress(&told)
				f := &follower{progress: p, mirror: &mirror{site: site, store: store, progress: p, what: "state"}}
				broken := errors.New("input/output error")
				store.broken.Store(&broken)
				meet(f)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- f.catchUp(ctx) }()
				time.Sleep(3 * dirLook)
				if site.Issuer() != "" || strings.Contains(told.String(), "serving") {
					t.Errorf("it serves what it can't read: %s", &told)
				}
				store.broken.Store(nil)
				time.Sleep(2 * dirLook)
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if site.Issuer() == "" || strings.Count(told.String(), `"event":"serving"`) != 1 || strings.Contains(told.String(), "_changed") {
					t.Errorf("it serves %q and tells %s", site.Issuer(), &told)
				}
			})
		})
	}
}

// TestDirIsDead once a look at it does not come back.
func TestDirIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t)
		m := &mirror{site: newTestSite(), store: store, progress: newTestProgress(io.Discard), looks: newLooks(prometheus.NewRegistry())}
		live := func() int {
			w := httptest.NewRecorder()
			m.live(w, httptest.NewRequest(http.MethodGet, "/livez", nil))
			return w.Code
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.run(ctx) }()
		time.Sleep(time.Hour + dirLook/2)
		if got := live(); got != http.StatusOK {
			t.Errorf("it looks, and lives not: %d", got)
		}
		hangs := make(chan struct{})
		store.hangs.Store(&hangs)
		time.Sleep(2 * stillLook)
		if got := live(); got != http.StatusServiceUnavailable {
			t.Errorf("it hangs, and lives: %d", got)
		}
		close(hangs)
		time.Sleep(2 * dirLook)
		if got := live(); got != http.StatusOK {
			t.Errorf("it looks again, and lives not: %d", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
