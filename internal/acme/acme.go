// Package acme obtains the certificate of a server from an ACME authority
// (RFC 8555) and renews it.
//
// It adds two things to golang.org/x/crypto/acme/autocert: it orders the
// certificate at the start and not at the first connection, and it logs
// failures. certmagic, which is Caddy's, has more features (other challenges,
// renewal information of RFC 9773, locks between replicas) but adds ten modules.
// autocert comes with the cryptography that this program links anyway, and has
// what serve needs: HTTP-01, TLS-ALPN-01, storage in a directory, and renewal
// after two thirds of any lifetime.
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
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
)

const (
	// LetsEncrypt is the default directory.
	LetsEncrypt = autocert.DefaultACMEDirectory

	// checkInterval is the time between two checks of the certificate; autocert
	// forgets a failed order after a minute, and the next check orders again.
	checkInterval = 5 * time.Second
	// requestTimeout bounds one request to the authority, which may be slow to
	// answer when an order is finalised.
	requestTimeout = time.Minute
)

// Config is the configuration of a Certificate.
type Config struct {
	// Host is the only DNS name of the certificate.
	Host string
	// Email is a contact address for the authority; optional.
	Email string
	// Directory is the authority's directory URL; LetsEncrypt if empty.
	Directory string
	// Storage is a directory for the private keys of the account and the
	// certificate. It is created so that only its owner can read it.
	Storage string
	// Expiry is called with the time at which the certificate expires.
	Expiry func(time.Time)
	Log    *slog.Logger
}

// Certificate is a certificate that renews itself.
type Certificate struct {
	Config
	manager *autocert.Manager
}

// CheckHost refuses a host for which no authority issues a certificate.
func (c Config) CheckHost() error {
	if c.Host == "" || net.ParseIP(c.Host) != nil || !strings.Contains(c.Host, ".") {
		return fmt.Errorf("ACME: %q is not a public DNS name, so it can't get a certificate", c.Host)
	}
	return nil
}

// New checks the configuration and makes no request yet. It accepts the terms
// of service of the authority.
func New(c Config) (*Certificate, error) {
	if err := c.CheckHost(); err != nil {
		return nil, err
	}
	if c.Storage == "" {
		return nil, errors.New("ACME: no directory for the private keys")
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

// backoff waits like x/crypto/acme, but less after a refused nonce, which is
// not a sign of load (RFC 8555 section 6.5).
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
			return c.manager.GetCertificate(c.hello(hello.ServerName, hello.SupportedProtos))
		},
	}
}

// hello is a request for the one certificate. Without it, a client without
// ECDSA would make autocert order a second certificate, and a client that names
// no host would get none.
func (c *Certificate) hello(name string, protocols []string) *tls.ClientHelloInfo {
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

// HTTPHandler answers HTTP-01 (RFC 8555 section 8.3) and redirects everything
// else to https. autocert uses HTTP-01 only after a call of HTTPHandler.
func (c *Certificate) HTTPHandler() http.Handler {
	handler := c.manager.HTTPHandler(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// autocert expects a host without a port, but there is one if a port
		// other than 80 is forwarded to this server.
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			r.Host = host
		}
		handler.ServeHTTP(w, r)
	})
}

// Keep obtains and renews the certificate until ctx ends, and then returns nil.
func (c *Certificate) Keep(ctx context.Context) error {
	log := newCertificateLog(c.Config)
	for ctx.Err() == nil {
		certificate, err := c.obtain(ctx)
		switch {
		case err == nil:
			log.served(certificate.Leaf, time.Now())
		case ctx.Err() == nil:
			log.failed(err)
		}
		retry.Sleep(ctx, checkInterval)
	}
	return nil
}

// obtain waits for the certificate until ctx ends: autocert itself would wait for
// minutes for an authority that does not answer.
func (c *Certificate) obtain(ctx context.Context) (*tls.Certificate, error) {
	type outcome struct {
		certificate *tls.Certificate
		err         error
	}
	done := make(chan outcome, 1)
	go func() { // outlives ctx by at most five minutes, autocert's limit for an order
		certificate, err := c.manager.GetCertificate(c.hello("", nil))
		done <- outcome{certificate, err}
	}()
	select {
	case o := <-done:
		return o.certificate, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// certificateLog logs each change of the certificate once.
type certificateLog struct {
	Config
	failures *service.Failures
	failing  bool
	expires  time.Time
	// late is set once a renewal is overdue, ended once the certificate has
	// expired.
	late, ended bool
}

func newCertificateLog(c Config) *certificateLog {
	return &certificateLog{Config: c, failures: service.NewFailures(c.Log)}
}

const order = "certificate order"

// paused is autocert's error for a minute after an order failed.
const paused = "missing certificate"

func (l *certificateLog) failed(err error) {
	if l.failing && strings.Contains(err.Error(), paused) {
		return
	}
	l.failing = true
	err = errors.New(err.Error() + httpx.FailureOf(err).Cure())
	l.failures.Report(order, err, "host", l.Host, "directory", l.Directory)
}

func (l *certificateLog) served(leaf *x509.Certificate, now time.Time) {
	l.failing = false
	l.failures.Forget(order, "host", l.Host, "directory", l.Directory)
	if !leaf.NotAfter.Equal(l.expires) {
		l.expires, l.late, l.ended = leaf.NotAfter, false, false
		l.Expiry(l.expires)
		l.Log.Info("new certificate served", "host", l.Host, "expires", l.expires.Format(time.RFC3339))
	}
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0 && !l.ended:
		l.late, l.ended = true, true
		l.Log.Error("certificate has expired and relying parties refuse it; the next attempt is within the hour", "host", l.Host, "directory", l.Directory, "expires", l.expires.Format(time.RFC3339))
	case left < margin(leaf) && !l.late:
		l.late = true
		l.Log.Error("certificate was not renewed in time: this server and the ACME authority may not reach each other; the next attempt is within the hour", "host", l.Host, "directory", l.Directory, "expires", l.expires.Format(time.RFC3339))
	}
}

// margin returns half of the time that autocert has for a renewal. autocert
// does not report a renewal that fails.
func margin(leaf *x509.Certificate) time.Duration {
	return min(leaf.NotAfter.Sub(leaf.NotBefore)/3, 30*24*time.Hour) / 2
}
