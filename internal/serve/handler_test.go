package serve_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/serve"
	"oidc-publisher/publish"
)

// reused is a ResponseWriter that costs nothing.
type reused struct {
	header http.Header
	status int
	body   []byte
}

func (w *reused) Header() http.Header         { return w.header }
func (w *reused) WriteHeader(status int)      { w.status = status }
func (w *reused) Write(p []byte) (int, error) { w.body = p; return len(p), nil }

// TestNoAllocation: whatever is asked, answering costs no memory of ours.
func TestNoAllocation(t *testing.T) {
	site := newSite()
	document, keys := pair(pathIssuer, keyA, keyB)
	place(t, site, document, keys)
	first := httptest.NewRecorder()
	site.ServeHTTP(first, httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil))
	for _, c := range []struct {
		name, method, path string
		header             http.Header
		status             int
	}{
		{"keys", "GET", "/a/openid/v1/jwks", nil, 200},
		{"keys with gzip", "GET", "/a/openid/v1/jwks", http.Header{"Accept-Encoding": {"deflate, gzip;q=0.9, br"}}, 200},
		{"document", "GET", "/a/.well-known/openid-configuration", nil, 200},
		{"head", "HEAD", "/a/openid/v1/jwks", nil, 200},
		{"unchanged", "GET", "/a/openid/v1/jwks", http.Header{"If-None-Match": {`"x", W/` + first.Header().Get("Etag")}}, 304},
		{"not since", "GET", "/a/openid/v1/jwks", http.Header{"If-Modified-Since": {first.Header().Get("Last-Modified")}}, 304},
		{"preflight", "OPTIONS", "/a/openid/v1/jwks", nil, 204},
		{"other", "GET", "/x", nil, 404},
		{"method", "POST", "/a/openid/v1/jwks", nil, 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &reused{header: http.Header{}}
			r := httptest.NewRequest(c.method, c.path, nil)
			for name, values := range c.header {
				r.Header[name] = values
			}
			if got := testing.AllocsPerRun(100, func() { site.ServeHTTP(w, r) }); got != 0 || w.status != c.status {
				t.Errorf("%v allocations, status %d, want 0 and %d", got, w.status, c.status)
			}
		})
	}
}

func BenchmarkKeys(b *testing.B) {
	site := newSite()
	document, keys := pair(pathIssuer, keyA, keyB)
	place(b, site, document, keys)
	w, r := &reused{header: http.Header{}}, httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil)
	b.ReportAllocs()
	for b.Loop() {
		site.ServeHTTP(w, r)
	}
}

// FuzzHandler: whatever is asked, a reader gets one of the two bodies, an error
// of ours, or nothing, and is told its right length.
func FuzzHandler(f *testing.F) {
	site := newSite()
	document, keys := pair(pathIssuer, keyA, keyB)
	place(f, site, document, keys)
	known := [][]byte{document.Body, keys.Body}
	f.Add("GET", "/a/openid/v1/jwks", "", "gzip", "")
	f.Add("HEAD", "/a/.well-known/openid-configuration?x", `W/"x", *`, "gzip;q=0.001, *;q=0", "Mon, 01 Jan 2001 00:00:00 GMT")
	f.Add("OPTIONS", "*", `"`, ";;q=,", "")
	f.Add("POST", "/../a/openid%2fv1/jwks\x00", `W/W/""`, "identity;q=1.0001", "9")
	f.Add("\x00", "http://host/a/openid/v1/jwks", "", "", "")
	f.Fuzz(func(t *testing.T, method, target, match, encoding, since string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			u = &url.URL{Path: target} // HTTP/2 lets other things through
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{"If-None-Match": {match}, "Accept-Encoding": {encoding}, "If-Modified-Since": {since}}}
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		body := w.Body.Bytes()
		switch {
		case !slices.Contains([]int{200, 204, 304, 404, 405}, w.Code):
			t.Errorf("status %d", w.Code)
		case method == http.MethodHead || w.Code == 204 || w.Code == 304:
			if len(body) > 0 {
				t.Errorf("status %d with a body", w.Code)
			}
		default:
			if got := w.Header().Get("Content-Length"); got != strconv.Itoa(len(body)) {
				t.Errorf("Content-Length %s, and %d bytes", got, len(body))
			}
		}
		if w.Code != 200 || method == http.MethodHead {
			if slices.ContainsFunc(known, func(k []byte) bool { return bytes.Equal(k, body) }) {
				t.Errorf("status %d with a document", w.Code)
			}
			return
		}
		if w.Header().Get("Content-Encoding") != "" {
			body = unpack(t, body)
		}
		if !slices.ContainsFunc(known, func(k []byte) bool { return bytes.Equal(k, body) }) {
			t.Errorf("%q serves %q", target, body)
		}
	})
}

// TestEntityTags: other bytes have another tag, in each encoding, and the same
// bytes have the same one wherever they are served.
func TestEntityTags(t *testing.T) {
	ask := func(site *serve.Site, encoding string) string {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil)
		r.Header.Set("Accept-Encoding", encoding)
		site.ServeHTTP(w, r)
		return w.Header().Get("Etag")
	}
	one, two := newSite(), newSite()
	document, keys := pair(pathIssuer, keyA, keyB)
	_, other := pair(pathIssuer, keyB, keyA)
	place(t, one, document, keys)
	place(t, two, document, keys)
	before := []string{ask(one, ""), ask(one, "gzip")}
	if before[0] == before[1] || before[0] != ask(two, "") || before[1] != ask(two, "gzip") {
		t.Errorf("tags %v, elsewhere %s and %s", before, ask(two, ""), ask(two, "gzip"))
	}
	place(t, one, document, other)
	if slices.Contains(before, ask(one, "")) || slices.Contains(before, ask(one, "gzip")) {
		t.Error("other bytes have the same tag")
	}
	place(t, one, document, keys)
	if ask(one, "") != before[0] {
		t.Error("the same bytes have another tag")
	}
}

// TestAccesses are counted, and logged at debug level alone.
func TestAccesses(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 4} {
		var said strings.Builder
		registry := prometheus.NewRegistry()
		site := serve.NewSite(slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: level})), serve.NewMetrics(registry))
		document, keys := pair(pathIssuer, keyA)
		place(t, site, document, keys)
		for _, request := range [][2]string{{"GET", "/a/openid/v1/jwks?secret"}, {"HEAD", "/a/openid/v1/jwks"}, {"POST", "/a/.well-known/openid-configuration"}, {"GET", "/x\n"}} {
			r := httptest.NewRequest(request[0], "/", nil)
			path, query, _ := strings.Cut(request[1], "?")
			r.URL.Path, r.URL.RawQuery = path, query
			site.ServeHTTP(httptest.NewRecorder(), r)
		}
		if got := strings.Count(said.String(), "\n"); got != want || strings.Contains(said.String(), "secret") {
			t.Errorf("at level %v %d lines:\n%s", level, got, &said)
		}
		if want > 0 && !strings.Contains(said.String(), "msg=access method=POST path=/a/.well-known/openid-configuration status=405 from=192.0.2.1:1234") {
			t.Errorf("it says:\n%s", &said)
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
		document, keys := pair(pathIssuer, keyA)
		_, more := pair(pathIssuer, keyA, keyB)
		place(t, site, document, keys)
		began := time.Now().UTC().Truncate(time.Second)
		want := func(path string, at time.Time) {
			t.Helper()
			if got := ask(path); got != at.Format(http.TimeFormat) {
				t.Errorf("%s: %s, want %s", path, got, at.Format(http.TimeFormat))
			}
		}
		want("/a/openid/v1/jwks", began)
		place(t, site, document, more)
		want("/a/openid/v1/jwks", began.Add(time.Second))
		want("/a/.well-known/openid-configuration", began)
		time.Sleep(time.Hour)
		place(t, site, document, keys)
		want("/a/openid/v1/jwks", began.Add(time.Hour))
		time.Sleep(time.Minute)
		for _, c := range []struct {
			since  time.Time
			status int
		}{
			{began.Add(time.Hour - time.Second), 200}, {began.Add(time.Hour), 304}, {began.Add(time.Hour + time.Second), 304},
			{began.Add(time.Hour + time.Minute + time.Second), 200}, // in the future, which says nothing
		} {
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil)
			r.Header.Set("If-Modified-Since", strings.Replace(c.since.Format(time.RFC850), "UTC", "GMT", 1)) // a form that is never sent
			if site.ServeHTTP(w, r); w.Code != c.status {
				t.Errorf("since %v: %d, want %d", c.since, w.Code, c.status)
			}
		}
	})
}

// TestPairsAreWhole: nothing is served before both documents are there, and what
// can't be served changes nothing.
func TestPairsAreWhole(t *testing.T) {
	site := newSite()
	store := site.Open()
	status := func() int {
		w := httptest.NewRecorder()
		site.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/a/openid/v1/jwks", nil))
		return w.Code
	}
	document, keys := pair(pathIssuer, keyA)
	if err := store.Put(t.Context(), keys, publish.IfAbsent()); err != nil || status() != 503 {
		t.Errorf("with the keys alone: %d, %v", status(), err)
	}
	broken := document
	broken.Body = []byte(`{"issuer":`)
	if err := store.Put(t.Context(), broken, publish.IfAbsent()); err != nil || status() != 503 {
		t.Errorf("with half a document: %d, %v", status(), err)
	}
	held, err := store.Get(t.Context(), document.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), document, publish.IfVersion(held.Version)); err != nil || status() != 200 {
		t.Errorf("with both: %d, %v", status(), err)
	}
	if _, err := site.Place(broken, keys); err == nil || status() != 200 {
		t.Errorf("half a document is served: %d, %v", status(), err)
	}
	if err := store.Put(t.Context(), publish.Object{Name: publish.StateName, Body: []byte("{}")}, publish.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/" + publish.StateName, "/a/" + publish.StateName} {
		w := httptest.NewRecorder()
		site.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// TestNoTornPair: while the pair goes back and forth between two issuers with
// one path, each read shows documents that belong together as of one moment.
func TestNoTornPair(t *testing.T) {
	site := newSite()
	type generation struct{ document, keys publish.Object }
	one, two := generation{}, generation{}
	one.document, one.keys = pair("https://one.example.com/a", keyA)
	two.document, two.keys = pair("https://two.example.com/a", keyB)
	place(t, site, one.document, one.keys)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				document, keys := site.Both()
				if bytes.Contains(document, []byte("one.example.com")) != bytes.Contains(keys, []byte(`"kid":"a"`)) {
					t.Error("a torn pair")
					return
				}
			}
		})
	}
	for range 100 {
		place(t, site, two.document, two.keys)
		place(t, site, one.document, one.keys)
	}
	close(stop)
	all.Wait()
}

func TestLoadJudges(t *testing.T) {
	document, keys := pair(pathIssuer, keyA)
	elsewhere, _ := pair("https://issuer.example.com/b", keyA)
	raw := document
	raw.Body = bytes.Replace(document.Body, []byte("https://issuer.example.com/a/openid"), []byte("https://10.0.0.1/openid"), 1)
	private := keys
	private.Body = []byte(`{"keys":[` + strings.Replace(keyA, `"x":`, `"d":"AAAA","x":`, 1) + `]}`)
	for _, c := range []struct {
		name           string
		document, keys publish.Object
		says           string
	}{
		{"another issuer", elsewhere, keys, "byte for byte"},
		{"not rewritten", raw, keys, "--from"},
		{"no keys", document, publish.Object{Name: keys.Name, Body: []byte(`{"keys":[]}`)}, "jwks"},
		{"private key", document, private, "private"},
		{"half a document", publish.Object{Name: document.Name, Body: document.Body[:40]}, keys, discovery.ConfigurationPath},
	} {
		t.Run(c.name, func(t *testing.T) {
			site, store := newSite(), newSite()
			store.Smuggle(c.document.Name, c.document.Body)
			store.Smuggle(c.keys.Name, c.keys.Body)
			if _, err := site.Load(t.Context(), store.Open(), pathIssuer); err == nil || !strings.Contains(err.Error(), c.says) || site.Issuer() != "" {
				t.Errorf("error %v, want one with %q; it serves %q", err, c.says, site.Issuer())
			}
		})
	}
}
