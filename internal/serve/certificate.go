package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"oidc-publisher/internal/httpx"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
)

// maxPEM bounds a certificate file in bytes; a chain is a few kilobytes.
const maxPEM = 1 << 20

// reloadInterval is the time between two polls of the files. Reading two small
// files each second costs little, and works where file events don't: network
// file systems, bind mounts, the links of Kubernetes secrets.
const reloadInterval = time.Second

// Certificate is a pair of files that may be replaced at any time.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	failures          *service.Failures
	metrics           *Metrics
	current           atomic.Pointer[tls.Certificate]
	// last is the pair that was read last, and err the reason why it can't be
	// served.
	last pair
	err  error
}

type pair struct{ cert, key []byte }

// OpenCertificate reads a certificate chain and its private key, both PEM.
func OpenCertificate(certFile, keyFile string, log *slog.Logger, m *Metrics) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, failures: service.NewFailures(log), metrics: m}
	read, err := c.read()
	if err != nil {
		return nil, err
	}
	return c, c.use(read)
}

// TLSConfig uses the current certificate at each handshake.
func (c *Certificate) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// Follow loads a changed pair of files once they match, until ctx ends. Open
// connections keep the old certificate. It returns nil.
func (c *Certificate) Follow(ctx context.Context) error {
	const act = "certificate reload"
	for retry.Sleep(ctx, reloadInterval) {
		switch changed, err := c.reload(); {
		case err != nil && c.failures.IsNew(act, err):
			c.metrics.reloads.WithLabelValues("failed").Inc()
			c.log.Error(act+" failed, the previous certificate is still served", "error", err)
		case err == nil && changed:
			c.metrics.reloads.WithLabelValues("ok").Inc()
			c.log.Info("new certificate served", "expires", c.current.Load().Leaf.NotAfter.Format(time.RFC3339))
			fallthrough
		case err == nil:
			c.failures.Forget(act)
		}
	}
	return nil
}

// reload returns the same error while the cause lasts.
func (c *Certificate) reload() (changed bool, err error) {
	read, err := c.read()
	if err != nil {
		return false, err
	}
	if bytes.Equal(read.cert, c.last.cert) && bytes.Equal(read.key, c.last.key) {
		return false, c.err
	}
	return true, c.use(read)
}

func (c *Certificate) use(read pair) error {
	c.last = read
	certificate, err := tls.X509KeyPair(read.cert, read.key)
	if err != nil {
		c.err = fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
		return c.err
	}
	c.err = nil
	c.current.Store(&certificate)
	c.metrics.Expiry(certificate.Leaf.NotAfter)
	return nil
}

func (c *Certificate) read() (read pair, err error) {
	if read.cert, err = httpx.ReadFile(c.certFile, maxPEM); err != nil {
		return pair{}, fmt.Errorf("certificate: %w", err)
	}
	if read.key, err = httpx.ReadFile(c.keyFile, maxPEM); err != nil {
		return pair{}, fmt.Errorf("certificate's key: %w", err)
	}
	return read, nil
}
