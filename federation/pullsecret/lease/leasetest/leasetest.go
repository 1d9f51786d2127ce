// Package leasetest keeps Leases in memory, as an API server does, for tests
// with synctest, which have no network.
package leasetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Server has one Lease, whatever its name.
type Server struct {
	mu      sync.Mutex
	lease   *coordination.Lease
	version int
	down    error
}

// Link is one candidate's connection to the Server.
type Link struct {
	server *Server
	cut    error
}

// Connect makes a connection that can be cut.
func (s *Server) Connect() *Link { return &Link{server: s} }

// Fail makes every request fail until it is called with nil.
func (s *Server) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

// Holder returns the holder of the Lease, "" for none.
func (s *Server) Holder() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil || s.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *s.lease.Spec.HolderIdentity
}

// Give makes another candidate the holder.
func (s *Server) Give(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := metav1.NowMicro()
	s.lease = s.lease.DeepCopy()
	s.lease.Spec.HolderIdentity, s.lease.Spec.AcquireTime, s.lease.Spec.RenewTime = &holder, &now, &now
	s.version++
	s.lease.ResourceVersion = strconv.Itoa(s.version)
}

// Cut makes every request over this connection fail until it is called with nil.
func (l *Link) Cut(err error) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.cut = err
}

// Config returns the configuration of a client that uses this connection.
func (l *Link) Config() *rest.Config {
	return &rest.Config{Host: "https://kubernetes.example.com", Transport: l}
}

// RoundTrip implements http.RoundTripper.
func (l *Link) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent coordination.Lease
	if r.Method != http.MethodGet {
		defer func() { _ = r.Body.Close() }()
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			return nil, err
		}
	}
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if err := errors.Join(l.server.down, l.cut); err != nil {
		return nil, err
	}
	code, body := l.server.answer(r.Method, &sent)
	encoded, err := json.Marshal(body)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(encoded)), Request: r,
	}, err
}

func (s *Server) answer(method string, sent *coordination.Lease) (code int, body any) {
	leases := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	refused := func(err *apierrors.StatusError) (int, any) { return int(err.ErrStatus.Code), err.ErrStatus }
	switch {
	case method == http.MethodPost && s.lease != nil:
		return refused(apierrors.NewAlreadyExists(leases, sent.Name))
	case method != http.MethodPost && s.lease == nil:
		return refused(apierrors.NewNotFound(leases, sent.Name))
	case method == http.MethodGet:
		return http.StatusOK, s.lease
	case method == http.MethodPut && sent.ResourceVersion != strconv.Itoa(s.version):
		return refused(apierrors.NewConflict(leases, sent.Name, errors.New("changed")))
	}
	s.version++
	sent.ResourceVersion = strconv.Itoa(s.version)
	sent.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	s.lease = sent
	return http.StatusOK, sent
}

// Plugin is a credential plugin in front of a transport, and hangs from the
// time From on: requests then wait until Returns is closed, even past their
// deadlines.
type Plugin struct {
	Next    http.RoundTripper
	From    time.Time
	Returns chan struct{}
}

// RoundTrip implements http.RoundTripper.
func (p *Plugin) RoundTrip(r *http.Request) (*http.Response, error) {
	if !time.Now().Before(p.From) {
		<-p.Returns
	}
	return p.Next.RoundTrip(r)
}
