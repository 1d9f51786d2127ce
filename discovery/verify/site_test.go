package verify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
)

// page is one answer of a site; tests modify it.
type page struct {
	status int
	header http.Header
	body   []byte
	// serve takes over the whole answer.
	serve http.HandlerFunc
	// fresh is served instead to requests that ask caches to revalidate.
	fresh *page
}

func (p *page) set(name, value string) { p.header.Set(name, value) }

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.fresh != nil && r.Header.Get("Cache-Control") == "no-cache":
		p.fresh.ServeHTTP(w, r)
	case p.serve != nil:
		p.serve(w, r)
	default:
		for name, values := range p.header {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(p.body)))
		w.WriteHeader(p.status)
		_, _ = w.Write(p.body)
	}
}

// site is a public issuer on loopback that is valid in every respect until a
// test modifies it.
type site struct {
	server   *httptest.Server
	issuer   string
	document *page
	keys     *page
	signer   *signer

	mu       sync.Mutex
	requests []*http.Request
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{signer: newRSA(t, "key-1")}
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.server.Config.ErrorLog = quiet()
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	s.at(s.server.URL)
	return s
}

// at publishes correct documents for an issuer.
func (s *site) at(issuer string) {
	s.issuer = issuer
	s.document = okPage("application/json", documentFor(issuer, nil))
	s.keys = okPage("application/jwk-set+json", jwks(s.signer))
}

func okPage(contentType string, body []byte) *page {
	return &page{status: http.StatusOK, body: body, header: http.Header{
		"Content-Type":  {contentType},
		"Cache-Control": {"public, max-age=60"},
	}}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	switch r.URL.Path {
	case "/" + discovery.ConfigurationPath:
		s.document.ServeHTTP(w, r)
	case "/" + discovery.JWKSPath:
		s.keys.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

// quiet keeps the servers' log of hostile clients out of the output.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func (s *site) client() *http.Client { return s.server.Client() }

// transport leads every host name to the site's server.
func (s *site) transport() http.RoundTripper {
	t := s.server.Client().Transport.(*http.Transport).Clone()
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.server.Listener.Addr().String())
	}
	if t.TLSClientConfig != nil {
		// The certificate is for example.com and its subdomains.
		t.TLSClientConfig.ServerName = "example.com"
	}
	t.DisableKeepAlives = true
	return t
}

func newPlainSite(t testing.TB) *site {
	t.Helper()
	s := &site{signer: newRSA(t, "key-1")}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.server.Close)
	s.at(s.server.URL)
	return s
}

func gzipped(body []byte) http.HandlerFunc {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(body)
	_ = z.Close()
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}
}

func documentFor(issuer string, change map[string]any) []byte {
	members := map[string]any{
		"issuer":                                issuer,
		"jwks_uri":                              discovery.Issuer(issuer).JWKSURI(),
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	}
	for name, value := range change {
		if value == nil {
			delete(members, name)
			continue
		}
		members[name] = value
	}
	return marshal(members)
}

func marshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}

// signer is a key pair with the JWK that is published for it.
type signer struct {
	private any
	alg     jose.SignatureAlgorithm
	jwk     map[string]any
}

// rsaKeys keeps generated keys by key ID: making one takes a quarter of a second.
var rsaKeys sync.Map

func newRSA(t testing.TB, kid string) *signer {
	t.Helper()
	made := sync.OnceValue(func() *rsa.PrivateKey {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return private
	})
	once, _ := rsaKeys.LoadOrStore(kid, made)
	private := once.(func() *rsa.PrivateKey)()
	return newSigner(t, kid, private, private.Public(), jose.RS256)
}

func newEC(t testing.TB, kid string) *signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, kid, private, private.Public(), jose.ES256)
}

func newSigner(t testing.TB, kid string, private, public any, alg jose.SignatureAlgorithm) *signer {
	t.Helper()
	body, err := jose.JSONWebKey{Key: public, KeyID: kid, Algorithm: string(alg), Use: "sig"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{private: private, alg: alg}
	if err := json.Unmarshal(body, &s.jwk); err != nil {
		t.Fatal(err)
	}
	return s
}

// with returns the JWK with one member changed.
func (s *signer) with(name string, value any) map[string]any {
	jwk := map[string]any{}
	for n, v := range s.jwk {
		jwk[n] = v
	}
	jwk[name] = value
	return jwk
}

func jwks(signers ...*signer) []byte {
	keys := []map[string]any{}
	for _, s := range signers {
		keys = append(keys, s.jwk)
	}
	return jwksOf(keys...)
}

func jwksOf(keys ...map[string]any) []byte {
	return marshal(map[string]any{"keys": append([]map[string]any{}, keys...)})
}
