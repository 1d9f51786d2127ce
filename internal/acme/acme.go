// Package acme gets the certificate of a serve.Server from an ACME authority
// (RFC 8555) and renews it.
//
// It is golang.org/x/crypto/acme/autocert with two things added: the
// certificate is asked for at the start rather than by the first visitor, and
// what goes wrong is said. autocert rather than certmagic, which is Caddy's and
// has more to offer (other challenges, renewal information of RFC 9773, locks
// between replicas): it is kept by the Go team with the cryptography that this
// program links anyway, so it adds no module where certmagic adds ten, and what
// serve needs of it has long been in use (HTTP-01, TLS-ALPN-01, a folder,
// renewal at two thirds of any lifetime).
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"oidc-publisher/internal/httpx"
)

const (
	// LetsEncrypt is the directory that is used where none is named.
	LetsEncrypt = autocert.DefaultACMEDirectory

	// look lies between two looks at the certificate; autocert forgets a failed
	// order after a minute, and this tries again then.
	look = 5 * time.Second
	// requestTimeout bounds one request to the authority, which may be slow to
	// answer when an order is finalised.
	requestTimeout = time.Minute
)

// Config says which certificate to get, and where.
type Config struct {
	// Host is the only DNS name that a certificate is asked for.
	Host string
	// Email is where the authority may write to; optional.
	Email string
	// Directory is the authority's directory URL; LetsEncrypt if empty.
	Directory string
	// Storage is a folder for the account's and the certificate's private keys. It is created
	// for its owner alone.
	Storage string
	// Expiry is told when the certificate that is served expires.
	Expiry func(time.Time)
	Log    *slog.Logger
}

// Certificate is one that renews itself.
type Certificate struct {
	Config
	manager *autocert.Manager
}

// CheckHost refuses a host that no authority gives a certificate for.
func (c Config) CheckHost() error {
	if c.Host == "" || net.ParseIP(c.Host) != nil || !strings.Contains(c.Host, ".") {
		return fmt.Errorf("ACME: %q is no public DNS name to get a certificate for", c.Host)
	}
	return nil
}

// New checks the configuration and makes no request yet. The terms of service of
// the authority count as accepted.
func New(c Config) (*Certificate, error) {
	if err := c.CheckHost(); err != nil {
		return nil, err
	}
	if c.Storage == "" {
		return nil, errors.New("ACME: no folder to keep the keys in")
	}
	if c.Directory == "" {
		c.Directory = LetsEncrypt
	}
	return &Certificate{Config: c, manager: &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.Storage),
		HostPolicy: autocert.HostWhitelist(c.Host),
		Email:      c.Email,
		Client: &acme.Client{
			DirectoryURL: c.Directory,
			HTTPClient:   httpx.Anonymous(nil, requestTimeout),
			UserAgent:    httpx.UserAgent,
			RetryBackoff: backoff,
		},
	}}, nil
}

// backoff is that of x/crypto/acme, but soon after a nonce was refused, which
// says nothing of the authority's load (RFC 8555 section 6.5).
func backoff(n int, _ *http.Request, resp *http.Response) time.Duration {
	wait := time.Second
	if resp.StatusCode == http.StatusBadRequest {
		wait = 50 * time.Millisecond
	}
	wait = min(wait<<min(max(n-1, 0), 10), 10*time.Second)
	if asked, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		wait = max(wait, time.Duration(min(asked, 3600))*time.Second)
	}
	return wait
}

// TLSConfig serves the certificate, and answers TLS-ALPN-01 (RFC 8737).
func (c *Certificate) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1", acme.ALPNProto},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.manager.GetCertificate(c.visitor(hello.ServerName, hello.SupportedProtos))
		},
	}
}

// visitor asks for the one certificate that there is. Without it, a client that
// says it knows no ECDSA would have a second one ordered, and a client that
// names no host would get none.
func (c *Certificate) visitor(name string, protocols []string) *tls.ClientHelloInfo {
	if name == "" {
		name = c.Host
	}
	return &tls.ClientHelloInfo{
		ServerName:        name,
		SupportedProtos:   protocols,
		SupportedVersions: []uint16{tls.VersionTLS13},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:   []tls.CurveID{tls.CurveP256},
	}
}

// HTTPHandler answers HTTP-01 (RFC 8555 section 8.3), which is only tried once
// this was called; everybody else is sent to https.
func (c *Certificate) HTTPHandler() http.Handler {
	handler := c.manager.HTTPHandler(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// autocert knows the host by its name alone, and a port may be there
		// where another one than 80 leads here.
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			r.Host = host
		}
		handler.ServeHTTP(w, r)
	})
}

// Keep gets the certificate and says when it is another one, or why there is
// none, until ctx ends. It returns nil.
func (c *Certificate) Keep(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	news := news{Config: c.Config}
	for {
		certificate, err := c.obtain(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			news.none(err)
		default:
			news.served(certificate.Leaf, time.Now())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// obtain waits for the certificate no longer than ctx allows: autocert itself
// would go on for minutes with an authority that does not answer.
func (c *Certificate) obtain(ctx context.Context) (*tls.Certificate, error) {
	type outcome struct {
		certificate *tls.Certificate
		err         error
	}
	done := make(chan outcome, 1)
	go func() { // outlives ctx by five minutes at most, which autocert gives an order
		certificate, err := c.manager.GetCertificate(c.visitor("", nil))
		done <- outcome{certificate, err}
	}()
	select {
	case o := <-done:
		return o.certificate, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// news says what each look at the certificate finds, once.
type news struct {
	Config
	failed  string
	expires time.Time
	// late is set once a renewal is overdue, ended once there was none.
	late, ended bool
}

func (n *news) none(err error) {
	text := err.Error()
	if text == n.failed || n.failed != "" && strings.Contains(text, pausing) {
		return
	}
	n.failed = text
	n.Log.Error("there is no certificate from the ACME authority yet, and it is asked again", "host", n.Host, "directory", n.Directory, "error", text+httpx.FailureOf(err).Cure())
}

// pausing is what autocert says for a minute after an order failed.
const pausing = "missing certificate"

func (n *news) served(leaf *x509.Certificate, now time.Time) {
	n.failed = ""
	if !leaf.NotAfter.Equal(n.expires) {
		n.expires, n.late, n.ended = leaf.NotAfter, false, false
		n.Expiry(n.expires)
		n.Log.Info("a certificate of the ACME authority is served", "host", n.Host, "expires", n.expires.Format(time.RFC3339))
	}
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0 && !n.ended:
		n.late, n.ended = true, true
		n.Log.Error("the certificate has expired and relying parties refuse it: the ACME authority gave no other one, and is asked again within the hour", "host", n.Host, "directory", n.Directory, "expires", n.expires.Format(time.RFC3339))
	case left < margin(leaf) && !n.late:
		n.late = true
		n.Log.Error("the certificate was not renewed in time: the ACME authority may not be reached or not reach this server, and is asked again within the hour", "host", n.Host, "directory", n.Directory, "expires", n.expires.Format(time.RFC3339))
	}
}

// margin is half of the time that autocert gives itself for a renewal, whose
// failures it tells nobody.
func margin(leaf *x509.Certificate) time.Duration {
	return min(leaf.NotAfter.Sub(leaf.NotBefore)/3, 30*24*time.Hour) / 2
}
