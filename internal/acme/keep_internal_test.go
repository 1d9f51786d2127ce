package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestCertificateLog: a lasting failure is logged once. A certificate that gets
// too old is logged, because autocert does not report a failed renewal.
func TestCertificateLog(t *testing.T) {
	const day = 24 * time.Hour
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := func(from, lasts time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: began.Add(from), NotAfter: began.Add(from + lasts)}
	}
	first, second := leaf(0, 90*day), leaf(80*day, 90*day)
	refused, pausing := errors.New("refused"), errors.New("acme/autocert: missing certificate")
	var logged strings.Builder
	var expiry time.Time
	n := newCertificateLog(Config{Host: "issuer.example.com", Log: slog.New(slog.NewTextHandler(&logged, nil)), Expiry: func(at time.Time) { expiry = at }})
	for i, step := range []struct {
		leaf *x509.Certificate
		err  error
		now  time.Duration
		logs string
	}{
		{nil, refused, 0, "certificate order failed"},
		{nil, pausing, 0, ""},
		{nil, refused, 0, ""},
		{nil, errors.New("other"), 0, "error=other"},
		{first, nil, 0, "new certificate served"},
		{first, nil, 74 * day, ""},
		{first, nil, 76 * day, "not renewed"},
		{first, nil, 77 * day, ""},
		{second, nil, 80 * day, "new certificate served"},
		{second, nil, 160 * day, "not renewed"},
		{second, nil, 170 * day, "has expired"},
		{second, nil, 171 * day, ""},
		{leaf(0, 365*day), nil, 340 * day, "new certificate served"},
		{nil, pausing, 0, "certificate order failed"},
	} {
		logged.Reset()
		if step.err != nil {
			n.failed(step.err)
		} else {
			n.served(step.leaf, began.Add(step.now))
		}
		if got := logged.String(); (got == "") != (step.logs == "") || !strings.Contains(got, step.logs) || strings.Count(got, "\n") > 1 {
			t.Errorf("step %d logs %q, want %q", i, got, step.logs)
		}
		if step.leaf != nil && !expiry.Equal(step.leaf.NotAfter) {
			t.Errorf("step %d: the expiry is reported as %v", i, expiry)
		}
	}
}

// TestKeepEnds although the authority never answers.
func TestKeepEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := New(Config{Host: "issuer.example.com", Directory: "https://" + silent.Addr().String() + "/dir", Storage: t.TempDir(),
		Expiry: func(time.Time) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Keep(ctx) }()
	asked, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it goes on waiting for the authority")
	}
}

// TestUntrusted: an authority whose own certificate is not trusted.
func TestUntrusted(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	var logged strings.Builder
	c, err := New(Config{Host: "issuer.example.com", Directory: server.URL, Storage: t.TempDir(), Log: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.obtain(t.Context())
	if err == nil {
		t.Fatal("it gave a certificate")
	}
	n := newCertificateLog(c.Config)
	if n.failed(err); !strings.Contains(logged.String(), "SSL_CERT_FILE") || !strings.Contains(logged.String(), "SSL_CERT_DIR") {
		t.Errorf("it logs %q", &logged)
	}
}
