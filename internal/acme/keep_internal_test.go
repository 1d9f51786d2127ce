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

// TestNews: what lasts is said once, and a certificate that gets too old is
// news, as autocert does not tell that it could not renew it.
func TestNews(t *testing.T) {
	const day = 24 * time.Hour
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := func(from, lasts time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: began.Add(from), NotAfter: began.Add(from + lasts)}
	}
	first, second := leaf(0, 90*day), leaf(80*day, 90*day)
	refused, pausing := errors.New("refused"), errors.New("acme/autocert: missing certificate")
	var said strings.Builder
	var expiry time.Time
	n := news{Config: Config{Host: "issuer.example.com", Log: slog.New(slog.NewTextHandler(&said, nil)), Expiry: func(at time.Time) { expiry = at }}}
	for i, step := range []struct {
		leaf *x509.Certificate
		err  error
		now  time.Duration
		says string
	}{
		{nil, refused, 0, "no certificate"},
		{nil, pausing, 0, ""},
		{nil, refused, 0, ""},
		{nil, errors.New("other"), 0, "error=other"},
		{first, nil, 0, "is served"},
		{first, nil, 74 * day, ""},
		{first, nil, 76 * day, "not renewed"},
		{first, nil, 77 * day, ""},
		{second, nil, 80 * day, "is served"},
		{second, nil, 160 * day, "not renewed"},
		{second, nil, 170 * day, "has expired"},
		{second, nil, 171 * day, ""},
		{leaf(0, 365*day), nil, 340 * day, "is served"},
		{nil, pausing, 0, "no certificate"},
	} {
		said.Reset()
		if step.err != nil {
			n.none(step.err)
		} else {
			n.served(step.leaf, began.Add(step.now))
		}
		if got := said.String(); (got == "") != (step.says == "") || !strings.Contains(got, step.says) || strings.Count(got, "\n") > 1 {
			t.Errorf("step %d says %q, want %q", i, got, step.says)
		}
		if step.leaf != nil && !expiry.Equal(step.leaf.NotAfter) {
			t.Errorf("step %d: the expiry is told as %v", i, expiry)
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

// TestUntrusted: an authority behind a certificate that nobody vouches for.
func TestUntrusted(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	var said strings.Builder
	c, err := New(Config{Host: "issuer.example.com", Directory: server.URL, Storage: t.TempDir(), Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.obtain(t.Context())
	if err == nil {
		t.Fatal("it gave a certificate")
	}
	n := news{Config: c.Config}
	if n.none(err); !strings.Contains(said.String(), "SSL_CERT_FILE") || !strings.Contains(said.String(), "SSL_CERT_DIR") {
		t.Errorf("it says %q", &said)
	}
}
