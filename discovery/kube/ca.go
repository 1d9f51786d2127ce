package kube

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"oidc-publisher/internal/httpx"
)

// maxCA bounds a file of CA certificates in bytes.
const maxCA = 1 << 20

// followCA makes clients read the CA file again when a certificate is refused.
// client-go itself reads it every five minutes.
func followCA(config *rest.Config) {
	file := config.CAFile
	if file == "" || len(config.CAData) > 0 {
		return
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &caTransport{file: file, next: next} })
}

type caTransport struct {
	file string

	mu   sync.Mutex
	next http.RoundTripper
	ca   []byte // that next trusts, where it was read here
}

func (t *caTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.current().RoundTrip(req)
	if unknown := new(x509.UnknownAuthorityError); errors.As(err, unknown) {
		t.reload() // for the next request
	}
	return resp, err
}

func (t *caTransport) current() http.RoundTripper {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

func (t *caTransport) reload() {
	t.mu.Lock()
	defer t.mu.Unlock()
	data, err := httpx.ReadFile(t.file, maxCA)
	if err != nil || bytes.Equal(data, t.ca) {
		return
	}
	roots, base := x509.NewCertPool(), baseOf(t.next)
	if base == nil || !roots.AppendCertsFromPEM(data) {
		return
	}
	fresh := base.Clone()
	fresh.TLSClientConfig.RootCAs = roots
	base.CloseIdleConnections()
	t.next, t.ca = fresh, data
}

// baseOf finds what client-go wraps.
func baseOf(transport http.RoundTripper) *http.Transport {
	for {
		switch t := transport.(type) {
		case *http.Transport:
			return t
		case net.RoundTripperWrapper:
			transport = t.WrappedRoundTripper()
		default:
			return nil
		}
	}
}
