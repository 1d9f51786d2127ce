package serve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/discovery"
	"oidc-publisher/internal/serve"
	"oidc-publisher/publish"
)

// Two keys of the API server's making; the second one only adds bytes.
const (
	keyA = `{"use":"sig","kty":"EC","kid":"a","crv":"P-256","alg":"ES256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`
	keyB = `{"use":"sig","kty":"EC","kid":"b","crv":"P-256","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
)

// pair is what a publisher makes for an issuer.
func pair(t testing.TB, issuer discovery.Issuer, keys ...string) publish.Published {
	t.Helper()
	body := fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`, issuer, issuer.JWKSURI())
	document, err := discovery.ParseDocument([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	set, err := discovery.ParseKeySet([]byte(`{"keys":[` + strings.Join(keys, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return publish.Published{Document: document, Keys: set}
}

func newSite() *serve.Site {
	return serve.NewSite(slog.New(slog.DiscardHandler), newMetrics())
}

func newMetrics() *serve.Metrics { return serve.NewMetrics(prometheus.NewRegistry()) }

func place(t testing.TB, site *serve.Site, documents publish.Published) {
	t.Helper()
	if err := site.Serve(documents); err != nil {
		t.Fatal(err)
	}
}

// TestSuite: memory has no permissions, can't be missing, and has nothing around
// it.
func TestSuite(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{ForbidsNothing: true, CreatesStore: true, Instant: true, NewStore: func(testing.TB) backendtest.Store {
		memory := new(serve.Memory)
		return backendtest.Store{
			Open:      func(testing.TB) publish.Backend { return memory.Open() },
			Place:     func(_ testing.TB, name string, body []byte) { memory.Store(name, body) },
			Remove:    func(_ testing.TB, name string) { memory.Remove(name) },
			Forbidden: func(testing.TB) publish.Backend { return memory.Open() },
			Missing:   func(testing.TB) publish.Backend { return new(serve.Memory).Open() },
			Strays:    func(testing.TB) []string { return nil }, // nothing is outside of a map
		}
	}})
}

// run serves a site on loopback until the test ends, and returns the address.
func run(t testing.TB, site *serve.Site, config *tls.Config) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, listener, &serve.Server{Handler: site, Log: slog.New(slog.DiscardHandler), Metrics: newMetrics()}, config)
	return listener.Addr().String()
}

func serveOn(t testing.TB, listener net.Listener, server *serve.Server, config *tls.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener, config) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

const (
	pathIssuer = discovery.Issuer("https://issuer.example.com/a")
	oddIssuer  = discovery.Issuer("https://issuer.example.com/a%2Fb%20c")
)

// ask makes a request as it stands on the wire, so that no client tidies it up.
func ask(t *testing.T, address, line string, headers ...string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	request := line + " HTTP/1.1\r\nHost: issuer.example.com\r\n" + strings.Join(append(headers, "\r\n"), "\r\n")
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(line, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return resp, string(body)
}

// TestMethods: each document answers with its own headers and body, each other
// path with 404, and each path of a document with 503 until there is one.
func TestMethods(t *testing.T) {
	documents := pair(t, pathIssuer, keyA, keyB)
	full := newSite()
	place(t, full, documents)
	sites := map[string]string{"empty": run(t, newSite(), nil), "full": run(t, full, nil)}
	const allow = "GET, HEAD, OPTIONS"
	for _, path := range []string{"/a/.well-known/openid-configuration", "/a/openid/v1/jwks", "/", "/a"} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"} {
			for site, address := range sites {
				isDocument, read := len(path) > 2, method == "GET" || method == "HEAD"
				want := map[string]string{"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Type": "application/json"}
				status, wantBody := http.StatusOK, ""
				switch {
				case !isDocument:
					status, wantBody = http.StatusNotFound, `"not_found"`
				case method == "OPTIONS":
					status = http.StatusNoContent
					want["Allow"], want["Access-Control-Allow-Methods"], want["Access-Control-Allow-Headers"] = allow, allow, "*"
					want["Access-Control-Max-Age"], want["Cache-Control"], want["Content-Type"] = "86400", "", ""
				case !read:
					status, wantBody = http.StatusMethodNotAllowed, `"method_not_allowed"`
					want["Allow"] = allow
				case site == "empty":
					status, wantBody = http.StatusServiceUnavailable, `"unavailable"`
					want["Retry-After"] = "5"
				default:
					wantBody, want["Cache-Control"] = string(documents.Document.Bytes()), "public, max-age=300"
					if strings.HasSuffix(path, "jwks") {
						wantBody, want["Content-Type"], want["Cache-Control"] = string(documents.Keys.Bytes()), "application/jwk-set+json", "public, max-age=60"
					}
					want["Content-Length"] = fmt.Sprint(len(wantBody))
				}
				if method == "HEAD" {
					wantBody = ""
				}
				resp, body := ask(t, address, method+" "+path)
				if resp.StatusCode != status || !strings.Contains(body, wantBody) || (wantBody == "") != (body == "") {
					t.Errorf("%s: %s %s: status %d, %q, want %d, %q", site, method, path, resp.StatusCode, body, status, wantBody)
				}
				for name, value := range want {
					if got := resp.Header.Get(name); got != value {
						t.Errorf("%s: %s %s: %s is %q, want %q", site, method, path, name, got, value)
					}
				}
			}
		}
	}
}

// TestPaths: each document has one path, spelled one way, and the query does
// not matter. While the issuer is unknown, what could be a document's path gets
// 503.
func TestPaths(t *testing.T) {
	full, odd := newSite(), newSite()
	place(t, full, pair(t, pathIssuer, keyA, keyB))
	place(t, odd, pair(t, oddIssuer, keyA))
	sites := map[string]string{"empty": run(t, newSite(), nil), "full": run(t, full, nil), "odd": run(t, odd, nil)}
	const path = "/a/openid/v1/jwks"
	for _, c := range []struct {
		site   string
		status int
		paths  []string
	}{
		{"full", http.StatusOK, []string{path, path + "?", path + "?x=1&../..", "http://other.example.com" + path, "https://issuer.example.com" + path}},
		{"full", http.StatusNotFound, []string{
			path + "/", "/" + path, "/a//openid/v1/jwks", "/a/./openid/v1/jwks", "/a/x/../openid/v1/jwks", "/../a/openid/v1/jwks",
			"/a/openid/v1/..%2fv1/jwks", "/a/%2e%2e/a/openid/v1/jwks", "/a/openid%2fv1/jwks", "/a/openid/v1/jwk%73", "/%61/openid/v1/jwks", "/a/openid/v1/jwks%00", "/a/openid/v1/jwks%00.json",
			"/a/openid/v1/jwks;x", "/A/openid/v1/jwks", `/a/openid\v1\jwks`, "/openid/v1/jwks", "/.well-known/openid-configuration", "/a/.oidc-publisher.json", "/.oidc-publisher.json",
			"/a/openid/v1", "/livez", "/readyz", "/metrics", "/debug/pprof/", "/favicon.ico", "http://other.example.com/x",
		}},
		{"full", http.StatusBadRequest, []string{"/a/%zz"}},
		{"odd", http.StatusOK, []string{"/a%2Fb%20c/openid/v1/jwks"}},
		{"odd", http.StatusNotFound, []string{"/a/b%20c/openid/v1/jwks", "/a%2fb%20c/openid/v1/jwks", "/a%2Fb+c/openid/v1/jwks"}},
		{"empty", http.StatusServiceUnavailable, []string{"/openid/v1/jwks", "/any/where/.well-known/openid-configuration"}},
		{"empty", http.StatusNotFound, []string{"/x", "/openid/v1/jwks/", "/xopenid/v1/jwks"}},
	} {
		for _, path := range c.paths {
			if resp, _ := ask(t, sites[c.site], "GET "+path); resp.StatusCode != c.status {
				t.Errorf("%s: %s: status %d, want %d", c.site, path, resp.StatusCode, c.status)
			}
		}
	}
}

// TestConditions: a client that has the present bytes gets no body, and a range
// of them where it asks for one.
func TestConditions(t *testing.T) {
	site := newSite()
	place(t, site, pair(t, pathIssuer, keyA, keyB))
	address := run(t, site, nil)
	const get = "GET /a/openid/v1/jwks"
	first, _ := ask(t, address, get)
	tag, modified := first.Header.Get("Etag"), first.Header.Get("Last-Modified")
	for _, c := range []struct {
		header string
		status int
	}{
		{"If-None-Match: " + tag, http.StatusNotModified},
		{`If-None-Match: "x", W/` + tag, http.StatusNotModified},
		{`If-None-Match: "x"`, http.StatusOK},
		{"If-Modified-Since: " + modified, http.StatusNotModified},
		{"If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT", http.StatusOK},
		{"Range: bytes=0-3", http.StatusPartialContent},
	} {
		resp, body := ask(t, address, get, c.header)
		if resp.StatusCode != c.status || (c.status == http.StatusNotModified) != (body == "") {
			t.Errorf("%s: status %d, %q, want %d", c.header, resp.StatusCode, body, c.status)
		}
		if resp.Header.Get("Etag") != tag {
			t.Errorf("%s: the tag is %q, want %q", c.header, resp.Header.Get("Etag"), tag)
		}
	}
}
