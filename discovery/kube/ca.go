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
	ca   []byte // the CA that next trusts, if it was read here
}

func (t *caTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	next := t.next
	t.mu.Unlock()
	resp, err := next.RoundTrip(req)
	if unknown := new(x509.UnknownAuthorityError); errors.As(err, unknown) {
		t.reload() // so that the next request uses it
	}
	return resp, err
}

func (t *caTransport) reload() {
	t.mu.Lock()
	defer t.mu.Unlock()
	data, err := httpx.ReadFile(t.file, maxCA)
	if err != nil || bytes.Equal(data, t.ca) {
		return
	}
	next := t.next
	for wrapper, ok := next.(net.RoundTripperWrapper); ok; wrapper, ok = next.(net.RoundTripperWrapper) {
		next = wrapper.WrappedRoundTripper()
	}
	roots := x509.NewCertPool()
	base, ok := next.(*http.Transport)
	if !ok || !roots.AppendCertsFromPEM(data) {
		return
	}
	fresh := base.Clone()
	fresh.TLSClientConfig.RootCAs = roots
	base.CloseIdleConnections()
	t.next, t.ca = fresh, data
}
