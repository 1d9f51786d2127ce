package serve_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"oidc-publisher/internal/serve"
)

// TestEntityTags: other bytes have another tag, and the same bytes have the same
// tag wherever they are served.
func TestEntityTags(t *testing.T) {
	ask := func(site *serve.Site) string {
		w := httptest.NewRecorder()
		site.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil))
		return w.Header().Get("Etag")
	}
	one, two := newSite(), newSite()
	documents := pair(t, pathIssuer, keyA, keyB)
	place(t, one, documents)
	place(t, two, documents)
	before := ask(one)
	if before != ask(two) {
		t.Errorf("tag %s, elsewhere %s", before, ask(two))
	}
	place(t, one, pair(t, pathIssuer, keyB, keyA))
	if ask(one) == before {
		t.Error("other bytes have the same tag")
	}
	place(t, one, documents)
	if ask(one) != before {
		t.Error("the same bytes have another tag")
	}
}

// TestAccesses are counted, and logged at debug level alone.
func TestAccesses(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 4} {
		var logged strings.Builder
		registry := prometheus.NewRegistry()
		site := serve.NewSite(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level})), serve.NewMetrics(registry))
		place(t, site, pair(t, pathIssuer, keyA))
		for _, request := range [][2]string{{"GET", "/a/openid/v1/jwks?secret"}, {"HEAD", "/a/openid/v1/jwks"}, {"POST", "/a/.well-known/openid-configuration"}, {"GET", "/x\n"}} {
			r := httptest.NewRequest(request[0], "/", nil)
			path, query, _ := strings.Cut(request[1], "?")
			r.URL.Path, r.URL.RawQuery = path, query
			site.ServeHTTP(httptest.NewRecorder(), r)
		}
		if got := strings.Count(logged.String(), "\n"); got != want || strings.Contains(logged.String(), "secret") {
			t.Errorf("at level %v %d lines:\n%s", level, got, &logged)
		}
		if want > 0 && !strings.Contains(logged.String(), "msg=access method=POST path=/a/.well-known/openid-configuration status=405 from=192.0.2.1:1234") {
			t.Errorf("the log is:\n%s", &logged)
		}
		text, err := testutil.CollectAndFormat(registry, expfmt.TypeTextPlain, "oidc_publisher_http_requests_total")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{`{code="200",resource="keys"} 2`, `{code="405",resource="configuration"} 1`, `{code="404",resource="other"} 1`, `{code="200",resource="configuration"} 0`} {
			if !strings.Contains(string(text), line) {
				t.Errorf("not counted as %s:\n%s", line, text)
			}
		}
	}
}

// TestLastModified: it moves with the body alone, and never stands still for two
// bodies in one second.
func TestLastModified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := newSite()
		ask := func(path string) string {
			w := httptest.NewRecorder()
			site.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			return w.Header().Get("Last-Modified")
		}
		documents := pair(t, pathIssuer, keyA)
		place(t, site, documents)
		began := time.Now().UTC().Truncate(time.Second)
		want := func(path string, at time.Time) {
			t.Helper()
			if got := ask(path); got != at.Format(http.TimeFormat) {
				t.Errorf("%s: %s, want %s", path, got, at.Format(http.TimeFormat))
			}
		}
		want("/a/openid/v1/jwks", began)
		place(t, site, pair(t, pathIssuer, keyA, keyB))
		want("/a/openid/v1/jwks", began.Add(time.Second))
		want("/a/.well-known/openid-configuration", began)
		time.Sleep(time.Hour)
		place(t, site, documents)
		want("/a/openid/v1/jwks", began.Add(time.Hour))
		time.Sleep(time.Minute)
		for _, c := range []struct {
			since  time.Time
			status int
		}{
			{began.Add(time.Hour - time.Second), 200}, {began.Add(time.Hour), 304}, {began.Add(time.Hour + time.Second), 304},
		} {
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil)
			r.Header.Set("If-Modified-Since", strings.Replace(c.since.Format(time.RFC850), "UTC", "GMT", 1)) // a form that is never sent
			if site.ServeHTTP(w, r); w.Code != c.status {
				t.Errorf("since %v: %d, want %d", c.since, w.Code, c.status)
			}
		}
	})
}
