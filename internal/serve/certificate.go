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
)

// maxPEM bounds a certificate file in bytes; a chain is a few kilobytes.
const maxPEM = 1 << 20

// certificateLook lies between two looks at the files. Reading two small files
// each second costs nothing, and works where file events don't: network file
// systems, bind mounts, the links of Kubernetes secrets.
const certificateLook = time.Second

// Certificate is a pair of files that may be replaced at any time.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	metrics           *Metrics
	current           atomic.Pointer[tls.Certificate]
	// tried is what was last read, fit or not.
	tried pair
}

type pair struct{ cert, key []byte }

// OpenCertificate reads a certificate chain and its private key, both PEM.
func OpenCertificate(certFile, keyFile string, log *slog.Logger, m *Metrics) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, metrics: m}
	read, err := c.read()
	if err != nil {
		return nil, err
	}
	return c, c.take(read)
}

// TLSConfig serves the certificate as it is at each handshake.
func (c *Certificate) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// Follow takes over a new pair of files as soon as they fit together, until ctx
// ends. Connections that are open keep theirs. It returns nil.
func (c *Certificate) Follow(ctx context.Context) error {
	tick := time.NewTicker(certificateLook)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := c.look()
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			c.metrics.reloads.WithLabelValues("failed").Inc()
			c.log.Error("the certificate was not taken over, the one before is still served", "error", err)
		case err == nil:
			said = "" // the next fault is news, if it is the same again
			if !changed {
				continue
			}
			c.metrics.reloads.WithLabelValues("ok").Inc()
			c.log.Info("a new certificate is served", "expires", c.current.Load().Leaf.NotAfter.Format(time.RFC3339))
		}
	}
}

// look returns the error of files that can't be read for as long as it lasts,
// and that of a pair that is unfit once.
func (c *Certificate) look() (changed bool, err error) {
	read, err := c.read()
	if err != nil {
		return false, err
	}
	if bytes.Equal(read.cert, c.tried.cert) && bytes.Equal(read.key, c.tried.key) {
		return false, nil
	}
	return true, c.take(read)
}

func (c *Certificate) take(read pair) error {
	c.tried = read
	certificate, err := tls.X509KeyPair(read.cert, read.key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
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
