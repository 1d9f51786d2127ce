package verify_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery/verify"
)

// certificate is one made for a test, with its key.
type certificate struct {
	x509 *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate for publicHost, modified by the test. Without a
// parent it signs itself.
func issue(t testing.TB, parent *certificate, bend func(*x509.Certificate)) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "test"},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(90 * 24 * time.Hour),
		DNSNames:     []string{"issuer.example.com"},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	bend(template)
	signer := &certificate{template, key}
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.x509, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &certificate{made, key}
}

func authority(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid = name, true, true
		c.KeyUsage, c.DNSNames = x509.KeyUsageCertSign, nil
	}
}

// serveTLS puts the site behind other certificates, the leaf first, and returns
// a transport that trusts root.
func (s *site) serveTLS(t testing.TB, root *certificate, chain ...*certificate) http.RoundTripper {
	t.Helper()
	own := tls.Certificate{PrivateKey: chain[0].key}
	for _, c := range chain {
		own.Certificate = append(own.Certificate, c.x509.Raw)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	server.Config.ErrorLog = quiet()
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(root.x509)
	return &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
}

func TestCertificates(t *testing.T) {
	root := issue(t, nil, authority("root"))
	middle := issue(t, root, authority("middle"))
	stranger := issue(t, nil, authority("stranger"))
	leaf := func(parent *certificate, bend func(*x509.Certificate)) *certificate { return issue(t, parent, bend) }
	asIs := func(*x509.Certificate) {}
	until := func(left time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(left) }
	}
	for _, tc := range []struct {
		name   string
		chain  []*certificate
		status verify.Status
		cause  string
	}{
		{"good", []*certificate{leaf(root, asIs)}, verify.Pass, ""},
		{"good with an intermediate", []*certificate{leaf(middle, asIs), middle}, verify.Pass, ""},
		{"expires soon", []*certificate{leaf(root, until(7*24*time.Hour))}, verify.Warn, "expires on"},
		{"expired", []*certificate{leaf(root, until(-time.Hour))}, verify.Fail, "has expired"},
		{"not valid yet", []*certificate{leaf(root, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })}, verify.Fail, "not valid yet"},
		{"other name", []*certificate{leaf(root, func(c *x509.Certificate) { c.DNSNames = []string{"other.example.com"} })}, verify.Fail, "another host name"},
		{"self-signed", []*certificate{leaf(nil, asIs)}, verify.Fail, "self-signed"},
		{"intermediate not sent", []*certificate{leaf(middle, asIs)}, verify.Fail, "no intermediate"},
		{"private authority", []*certificate{leaf(stranger, asIs), stranger}, verify.Fail, "not among the trusted"},
		{"for clients only", []*certificate{leaf(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, verify.Fail, "not valid for this use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := quietSite(t, publicHost)
			transport := s.serveTLS(t, root, tc.chain...)
			r, err := verify.Run(t.Context(), verify.Options{Issuer: publicHost, Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			c := find(t, r, "document-tls")
			if c.Status != tc.status || !strings.Contains(c.Cause, tc.cause) {
				t.Errorf("%+v, want %s with %q", c, tc.status, tc.cause)
			}
			if untrusted := slices.Contains([]string{"self-signed", "no intermediate", "not among the trusted"}, tc.cause); untrusted != (strings.Contains(c.Cure, "SSL_CERT_FILE") && strings.Contains(c.Cure, "SSL_CERT_DIR")) {
				t.Errorf("cure %q", c.Cure)
			}
			if tc.status == verify.Fail {
				only(t, r, "document-tls", verify.Fail, tc.cause)
			}
		})
	}
}

func TestCertificateByTheInjectedClock(t *testing.T) {
	root := issue(t, nil, authority("root"))
	s := quietSite(t, publicHost)
	transport := s.serveTLS(t, root, issue(t, root, func(*x509.Certificate) {}))
	r, err := verify.Run(t.Context(), verify.Options{Issuer: publicHost, Transport: transport,
		Now: func() time.Time { return time.Now().Add(100 * 24 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	if c := find(t, r, "document-tls"); c.Status != verify.Fail || !strings.Contains(c.Cause, "expired") {
		t.Errorf("%+v", c)
	}
}

// byHost sends each host's requests somewhere else.
type byHost map[string]http.RoundTripper

func (b byHost) RoundTrip(r *http.Request) (*http.Response, error) { return b[r.URL.Host].RoundTrip(r) }

func TestReachability(t *testing.T) {
	notFound := &net.DNSError{Err: "no such host", IsNotFound: true}
	refused := &net.OpError{Op: "dial", Err: errors.New("x")}
	plain := newPlainSite(t)
	plainPort := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, plain.server.Listener.Addr().String())
	}}
	for _, tc := range []struct {
		name      string
		transport http.RoundTripper
		id        string
		status    verify.Status
		cause     string
	}{
		{"no such host", failing{notFound}, "document-reachable", verify.Error, "does not exist in DNS"},
		{"resolver broken", failing{&net.DNSError{Err: "server misbehaving"}}, "document-reachable", verify.Error, "could not be looked up"},
		{"resolver silent", failing{&net.DNSError{Err: "i/o timeout", IsTimeout: true}}, "document-reachable", verify.Error, "in time"},
		{"silent", failing{context.DeadlineExceeded}, "document-reachable", verify.Error, "in time"},
		{"broken", failing{refused}, "document-reachable", verify.Error, "connection broke"},
		{"plain http on the port", plainPort, "document-tls", verify.Fail, "handshake failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := verify.Run(t.Context(), verify.Options{Issuer: publicHost, Transport: tc.transport})
			if err != nil {
				t.Fatal(err)
			}
			only(t, r, tc.id, tc.status, tc.cause)
		})
	}
}

func TestJWKSURIIsUnreachable(t *testing.T) {
	for _, tc := range []struct {
		err    error
		status verify.Status
	}{
		{&net.DNSError{Err: "no such host", IsNotFound: true}, verify.Fail},
		{context.DeadlineExceeded, verify.Error},
	} {
		s := newSite(t)
		s.at(publicHost)
		s.document.body = documentFor(publicHost, map[string]any{"jwks_uri": "https://issuer.example.com:444/openid/v1/jwks"})
		r := s.run(t, func(o *verify.Options) {
			o.Transport = byHost{"issuer.example.com": s.transport(), "issuer.example.com:444": failing{tc.err}}
		})
		if c := find(t, r, "jwks-reachable"); c.Status != tc.status {
			t.Errorf("%v: %+v", tc.err, c)
		}
	}
}

func TestConnectionRefused(t *testing.T) {
	s := newSite(t)
	s.server.Close()
	r := s.run(t, nil)
	if c := find(t, r, "document-reachable"); c.Status != verify.Error || !strings.Contains(c.Cause, "refused") {
		t.Errorf("%+v", c)
	}
}

func TestCuresNameTheStore(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://storage.googleapis.com/bucket":               "allUsers",
		"https://bucket.s3.eu-central-1.amazonaws.com/prefix": "s3:GetObject",
		publicHost: "GCS: ",
	} {
		s := quietSite(t, issuer)
		r, err := verify.Run(t.Context(), verify.Options{Issuer: issuer, Transport: inMemory{handler: http.HandlerFunc(forbidden)}})
		if err != nil {
			t.Fatal(err)
		}
		if c := find(t, r, "document-status"); !strings.Contains(c.Cure, want) || c.Status != verify.Fail {
			t.Errorf("%s: %+v", s.issuer, c)
		}
	}
}

func forbidden(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
