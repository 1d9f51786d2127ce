package serve_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/discovery"
	"oidc-publisher/internal/serve"
	"oidc-publisher/publish"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// Two keys of the API server's making; the second one only adds bytes.
const (
	keyA = `{"use":"sig","kty":"EC","kid":"a","crv":"P-256","alg":"ES256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`
	keyB = `{"use":"sig","kty":"EC","kid":"b","crv":"P-256","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
)

// pair is what a publisher makes for an issuer.
func pair(issuer discovery.Issuer, keys ...string) (document, set publish.Object) {
	body := fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`, issuer, issuer.JWKSURI())
	return publish.Object{Name: discovery.ConfigurationPath, Body: []byte(body), ContentType: "application/json", CacheControl: "public, max-age=300"},
		publish.Object{Name: discovery.JWKSPath, Body: []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`), ContentType: "application/jwk-set+json", CacheControl: "public, max-age=60"}
}

func newSite() *serve.Site {
	return serve.NewSite(slog.New(slog.DiscardHandler), newMetrics())
}

func newMetrics() *serve.Metrics { return serve.NewMetrics(prometheus.NewRegistry()) }

func place(t testing.TB, site *serve.Site, document, keys publish.Object) {
	t.Helper()
	if _, err := site.Place(document, keys); err != nil {
		t.Fatal(err)
	}
}

// TestSuite: memory has no permissions, can't be missing, and has nothing around
// it, so the hooks for those are left out.
func TestSuite(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{NewStore: func(testing.TB) backendtest.Store {
		site := newSite()
		return backendtest.Store{
			Open:   func(testing.TB) publish.Backend { return site.Open() },
			Place:  func(_ testing.TB, name string, body []byte) { site.Smuggle(name, body) },
			Remove: func(_ testing.TB, name string) { site.Remove(name) },
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

// TestAnswers compares whole answers, as they are on the wire, to whatever can be
// asked for.
func TestAnswers(t *testing.T) {
	empty, full, odd := newSite(), newSite(), newSite()
	document, keys := pair(pathIssuer, keyA, keyB)
	place(t, full, document, keys)
	oddDocument, oddKeys := pair(oddIssuer, keyA)
	place(t, odd, oddDocument, oddKeys)
	sites := map[string]string{"empty": run(t, empty, nil), "full": run(t, full, nil), "odd": run(t, odd, nil)}

	var out strings.Builder
	known := tags(t, sites["full"])
	for _, c := range cases(known) {
		request := strings.ReplaceAll(fmt.Sprintf("%q", c.request), known.modified, "TIME")
		fmt.Fprintf(&out, "== %s\n%s\n", c.site, strings.ReplaceAll(request, `\r\n`, "\n"))
		out.WriteString(exchange(t, sites[c.site], c.request))
	}
	golden := filepath.Join("testdata", "answers.txt")
	if *updateGolden {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", golden, diff)
	}
}

type wireCase struct{ site, request string }

// validators are what a first answer gave to come back with.
type validators struct{ plain, packed, modified string }

func tags(t *testing.T, address string) (v validators) {
	t.Helper()
	for _, encoding := range []string{"", "gzip"} {
		resp := send(t, address, "GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\nAccept-Encoding: "+encoding+"\r\n\r\n")
		v.modified = resp.Header.Get("Last-Modified")
		if encoding == "" {
			v.plain = resp.Header.Get("Etag")
		} else {
			v.packed = resp.Header.Get("Etag")
		}
	}
	return v
}

func cases(v validators) (all []wireCase) {
	add := func(site, line string, headers ...string) {
		request := line + " HTTP/1.1\r\nHost: issuer.example.com\r\n"
		for _, h := range headers {
			request += h + "\r\n"
		}
		all = append(all, wireCase{site, request + "\r\n"})
	}
	const document, keys = "/a/.well-known/openid-configuration", "/a/openid/v1/jwks"
	for _, path := range []string{document, keys, "/", "/a"} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"} {
			add("full", method+" "+path)
			if path != "/a" && path != "/" {
				add("empty", method+" "+path)
			}
		}
	}
	for _, value := range []string{
		v.plain, "W/" + v.plain, `"x", ` + v.plain, `"x,` + v.plain, `"x" , , W/` + v.plain, "*", `"x"`, v.packed,
		strings.Trim(v.plain, `"`), `"` + v.plain, "", `W/`, `""`,
	} {
		add("full", "GET "+keys, "If-None-Match: "+value)
	}
	add("full", "HEAD "+keys, "If-None-Match: "+v.plain)
	add("full", "GET "+keys, `If-None-Match: "x"`, "If-None-Match: "+v.plain)
	add("full", "GET "+keys, "Accept-Encoding: gzip", "If-None-Match: "+v.packed)
	add("full", "GET "+keys, "Accept-Encoding: gzip", "If-None-Match: "+v.plain)
	for _, value := range []string{v.modified, "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 31 Dec 9999 00:00:00 GMT", "yesterday", ""} {
		add("full", "GET "+keys, "If-Modified-Since: "+value)
	}
	add("full", "GET "+keys, `If-None-Match: "x"`, "If-Modified-Since: "+v.modified)
	for _, value := range []string{
		"gzip", "GZIP", "gzip, deflate, br", "deflate, gzip;q=1.0, *;q=0.5", "*", "br", "identity", "gzip;q=0", "gzip;q=0.000", "*;q=0", "gzip;q=0.5, identity;q=0.6",
		"gzip;q=0.6, identity;q=0.5", "gzip;q=2", "gzip;level=9", "gzip;q=", "x-gzip", "", ",", "gzipped",
	} {
		add("full", "GET "+keys, "Accept-Encoding: "+value)
	}
	add("full", "HEAD "+keys, "Accept-Encoding: gzip")
	add("full", "GET "+keys, "Accept-Encoding: br", "Accept-Encoding: gzip")
	add("full", "OPTIONS "+keys, "Origin: https://example.com", "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-y")
	add("full", "OPTIONS *")
	for _, target := range []string{keys, "issuer.example.com:443"} {
		add("full", "CONNECT "+target)
	}
	add("full", "POST "+keys, "Content-Length: 3", "Connection: close", "", "abc")
	add("full", "GET "+keys, "Range: bytes=0-3")
	// One spelling of each path exists.
	for _, path := range []string{
		keys + "?", keys + "?x=1&../..", keys + "/", "/" + keys, "/a//openid/v1/jwks", "/a/./openid/v1/jwks", "/a/x/../openid/v1/jwks", "/../a/openid/v1/jwks",
		"/a/openid/v1/..%2fv1/jwks", "/a/%2e%2e/a/openid/v1/jwks", "/a/openid%2fv1/jwks", "/a/openid/v1/jwk%73", "/%61/openid/v1/jwks", "/a/openid/v1/jwks%00", "/a/openid/v1/jwks%00.json",
		"/a/openid/v1/jwks;x", "/A/openid/v1/jwks", `/a/openid\v1\jwks`, "/openid/v1/jwks", "/.well-known/openid-configuration", "/a/.oidc-publisher.json", "/.oidc-publisher.json",
		"/a/openid/v1", "/livez", "/readyz", "/metrics", "/debug/pprof/", "/favicon.ico", "http://other.example.com" + keys, "https://issuer.example.com" + keys, "http://other.example.com/x",
	} {
		add("full", "GET "+path)
	}
	for _, path := range []string{"/a%2Fb%20c/openid/v1/jwks", "/a/b%20c/openid/v1/jwks", "/a%2fb%20c/openid/v1/jwks", "/a%2Fb+c/openid/v1/jwks"} {
		add("odd", "GET "+path)
	}
	for _, path := range []string{"/x", "/openid/v1/jwks", "/any/where/.well-known/openid-configuration", "/openid/v1/jwks/", "/xopenid/v1/jwks"} {
		add("empty", "GET "+path)
	}
	// What is no HTTP, or too much of it, net/http answers by itself.
	all = append(all,
		wireCase{"full", "GET " + keys + "\x00 HTTP/1.1\r\nHost: x\r\n\r\n"},
		wireCase{"full", "GET /a/%zz HTTP/1.1\r\nHost: x\r\n\r\n"},
		wireCase{"full", "GET " + keys + " HTTP/1.1\r\n\r\n"},
		wireCase{"full", "GET " + keys + " HTTP/1.0\r\n\r\n"},
		wireCase{"full", "GET " + keys + " HTTP/3.0\r\n\r\n"},
		wireCase{"full", "hello\r\n\r\n"},
	)
	return all
}

func send(t *testing.T, address, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp
}

// exchange shows an answer with its times, and the length of what was
// compressed, replaced by what they are.
func exchange(t *testing.T, address, request string) string {
	t.Helper()
	resp := send(t, address, request)
	body, _ := io.ReadAll(resp.Body)
	if want := resp.Header.Get("Content-Length"); want != "" && resp.StatusCode != http.StatusNotModified && !strings.HasPrefix(request, "HEAD") && want != fmt.Sprint(len(body)) {
		t.Errorf("%q: Content-Length %s, and %d bytes", request, want, len(body))
	}
	if resp.Header.Get("Content-Encoding") == "gzip" {
		resp.Header.Set("Content-Length", "SMALL")
		body = unpack(t, body)
	}
	for _, name := range []string{"Date", "Last-Modified"} {
		if value := resp.Header.Get(name); value != "" {
			if _, err := http.ParseTime(value); err != nil {
				t.Errorf("%q: %s: %v", request, name, err)
			}
			resp.Header.Set(name, "TIME")
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "-- %s %s\n", resp.Proto, resp.Status)
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		fmt.Fprintf(&out, "%s: %s\n", name, strings.Join(resp.Header[name], " | "))
	}
	if len(body) > 0 {
		fmt.Fprintf(&out, "\n%s\n", strings.TrimSuffix(string(body), "\n"))
	}
	return out.String()
}

func unpack(t testing.TB, body []byte) []byte {
	t.Helper()
	if len(body) == 0 {
		return nil // HEAD
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
