package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

const acmeIssuer = "https://issuer.example.com"

// acmeArgs serve the keys of an API server with a certificate of pebble's.
func acmeArgs(l *lab, p *testserver.PebbleServer, dir string) (env, args []string) {
	_, kubeconfig := l.embedded(watched(acmeIssuer))
	return []string{"SSL_CERT_FILE=" + p.CAFile}, []string{
		"--kubeconfig", kubeconfig, "--issuer", acmeIssuer, "--verify-interval", "0",
		"--acme", "--acme-email", "admin@example.com", "--acme-dir", dir, "--acme-directory", p.Directory,
	}
}

// visit connects as a relying party does, asks for the keys, and returns the
// certificate, which must be valid now.
func visit(port int, roots *x509.CertPool) (*x509.Certificate, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "issuer.example.com"},
	}}
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/%s", port, discovery.JWKSPath))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Proto != "HTTP/2.0" {
		return nil, errors.New(resp.Proto + " " + resp.Status)
	}
	return resp.TLS.PeerCertificates[0], nil
}

func firstCertificate(t *testing.T, port int, roots *x509.CertPool) (certificate *x509.Certificate) {
	t.Helper()
	poll(t, 100*time.Millisecond, time.Minute, "a certificate", func() (err error) {
		certificate, err = visit(port, roots)
		return err
	})
	return certificate
}

// TestServeACMERenews: the certificate comes by TLS-ALPN-01, and another one
// before it ends; no connection fails meanwhile.
func TestServeACMERenews(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := testserver.Pebble(t, testserver.PebbleOptions{Validity: 20 * time.Second})
	roots := p.Roots(t)
	env, args := acmeArgs(l, p, filepath.Join(l.dir, "acme"))
	s := l.serveAt(p.TLSPort, env, args...)
	s.awaitEvent("serving", 1)
	first := firstCertificate(t, p.TLSPort, roots)
	renewed := 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for serial := first.SerialNumber; renewed < 2; <-tick.C {
		now, err := visit(p.TLSPort, roots)
		if err != nil {
			t.Fatalf("after %d renewals: %v\n%s", renewed, err, s.Output())
		}
		if now.SerialNumber.Cmp(serial) != 0 {
			renewed++
			serial = now.SerialNumber
		}
		if time.Since(first.NotBefore) > 90*time.Second {
			t.Fatalf("%d renewals in 90 s of certificates that last 20 s:\n%s", renewed, s.Output())
		}
	}
	if metrics := s.adminAnswers("/metrics", http.StatusOK); strings.Contains(metrics, "oidc_publisher_certificate_expiry_timestamp_seconds 0\n") {
		t.Error("the expiry of the certificate is not in the metrics")
	}
}

// TestServeACMEFails in the middle: the authority goes away before the renewal.
// Documents are served all the same, and that the certificate gets old is logged
// before relying parties find out.
func TestServeACMEFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := testserver.Pebble(t, testserver.PebbleOptions{Validity: time.Minute})
	roots := p.Roots(t)
	env, args := acmeArgs(l, p, filepath.Join(l.dir, "acme"))
	s := l.serveAt(p.TLSPort, env, args...)
	first := firstCertificate(t, p.TLSPort, roots)
	p.Stop()
	for _, says := range []string{"certificate was not renewed in time", "certificate has expired"} {
		eventually(t, 2*time.Minute, says, func() error {
			if !strings.Contains(s.Output(), says) {
				return errors.New(s.Output())
			}
			return nil
		})
		if says == "certificate was not renewed in time" && time.Now().Before(first.NotAfter) {
			if _, err := visit(p.TLSPort, roots); err != nil && time.Now().Before(first.NotAfter) {
				t.Errorf("while it is valid: %v", err)
			}
		}
	}
	if _, err := visit(p.TLSPort, roots); err == nil {
		t.Error("a certificate that has expired is accepted")
	}
	s.adminAnswers("/livez", http.StatusOK)
	for _, says := range []string{"was not renewed in time", "has expired"} {
		if got := strings.Count(s.Output(), says); got != 1 {
			t.Errorf("it logs %d times that it %s", got, says)
		}
	}
}

// TestServeACMEOverHTTP: where only port 80 leads here, HTTP-01 does, also with an
// authority that refuses many nonces. What was got is kept for the next
// start, when the authority may be down.
func TestServeACMEOverHTTP(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := testserver.Pebble(t, testserver.PebbleOptions{Validity: time.Hour, RejectNonces: 30})
	roots, dir := p.Roots(t), filepath.Join(l.dir, "acme")
	env, args := acmeArgs(l, p, dir)
	args = append(args, "--acme-http-listen", fmt.Sprintf("127.0.0.1:%d", p.HTTPPort))
	port := testserver.FreePort(t)
	s := l.serveAt(port, env, args...)
	s.awaitEvent("serving", 1)
	first := firstCertificate(t, port, roots)

	plain := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := plain.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", p.HTTPPort, discovery.JWKSPath))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound || !strings.HasPrefix(resp.Header.Get("Location"), "https://") {
		t.Errorf("plain HTTP: %s to %q", resp.Status, resp.Header.Get("Location"))
	}
	onlyForOwner(t, dir)

	s.Stop()
	p.Stop()
	l.serveAt(port, env, args...)
	if again := firstCertificate(t, port, roots); again.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("a restart lost the certificate")
	}
}

func onlyForOwner(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestServeACMERefuses what no certificate can be had for.
func TestServeACMERefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, tc := range []struct {
		name string
		args []string
		says string
	}{
		{"no issuer", nil, "--acme needs --issuer"},
		{"an address", []string{"--issuer", "https://192.0.2.1"}, "not a public DNS name"},
		{"a local name", []string{"--issuer", "https://localhost"}, "not a public DNS name"},
		{"two certificates", []string{"--issuer", acmeIssuer, "--tls-cert", "c", "--tls-key", "k"}, "--acme and --tls-cert"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := l.run(append([]string{"serve", "--listen", "127.0.0.1:0", "--acme"}, tc.args...)...)
			if got.code != cli.ExitUsage || !strings.Contains(got.stderr, tc.says) {
				t.Errorf("exit code %d: %s", got.code, got.stderr)
			}
		})
	}
}
