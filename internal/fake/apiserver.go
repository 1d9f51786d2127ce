// Package fake holds stand-ins that run inside the process: an API server, the
// services that exchange tokens, an internet on loopback, and a proxy that
// fails on request. It starts no program and needs no particular operating
// system, so that the demo can link it anywhere.
package fake

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Right is something that a user of an APIServer may do.
type Right int

const (
	// RightDiscovery is ClusterRole system:service-account-issuer-discovery.
	RightDiscovery Right = iota
	// RightMint is create on serviceaccounts/token everywhere.
	RightMint
	// RightNamespaces is get on namespaces.
	RightNamespaces
	// RightEndpoints is list on endpointslices.
	RightEndpoints
	// RightAll is what group system:masters may: everything.
	RightAll
)

// APIServerOptions are the settings of an APIServer. The zero value is a
// server like kubeadm's.
type APIServerOptions struct {
	// Issuer is --service-account-issuer, https://issuer.example.com if empty.
	Issuer string
	// Algorithm is that of the first signing key: RS256 (default), ES256,
	// ES384 or ES512.
	Algorithm string
	// SameCluster makes this server another one of that cluster: they share
	// CA, users, service accounts and endpoints, and each has its own keys.
	SameCluster *APIServer
	// Listen is the address, a free port of 127.0.0.1 if empty.
	Listen string
	// Names are those in the serving certificate, DNS names and addresses. If
	// empty they are like kubeadm's.
	Names []string
	// NotBefore and NotAfter bound the serving certificate's life, one hour
	// ago and in one hour if zero.
	NotBefore, NotAfter time.Time
}

// APIServer answers as much of the Kubernetes API as oidc-publisher uses:
// discovery, TokenRequest, the kube-system namespace and the endpoints of the
// service default/kubernetes, with TLS and RBAC. A test compares its answers
// with those of the real kube-apiserver. Its methods may be called from several
// goroutines.
type APIServer struct {
	cluster     *cluster
	certificate tls.Certificate
	address     string

	mu     sync.Mutex
	server *http.Server  // nil while stopped
	served chan struct{} // closed when server has closed its port
	issuer string
	keys   []SigningKey
	signer SigningKey
	faults map[string]Fault
}

// cluster is what the servers of one cluster share.
type cluster struct {
	ca  Authority
	uid string

	mu        sync.Mutex
	tokens    map[string]string // by user
	rights    map[string][]Right
	accounts  map[string]string // UID by namespace/name
	endpoints []string
}

// StartAPIServer is NewAPIServer for tests, which it ends with the test.
func StartAPIServer(t testing.TB, options APIServerOptions) *APIServer {
	t.Helper()
	e, err := NewAPIServer(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

// NewAPIServer starts a server. The caller must Stop it.
func NewAPIServer(options APIServerOptions) (*APIServer, error) {
	e := &APIServer{issuer: options.Issuer, address: options.Listen, faults: map[string]Fault{}}
	if e.issuer == "" {
		e.issuer = "https://issuer.example.com"
	}
	if e.address == "" {
		e.address = "127.0.0.1:0"
	}
	if err := e.join(options.SameCluster); err != nil {
		return nil, err
	}
	var err error
	if e.certificate, err = e.cluster.ca.servingBetween(options.NotBefore, options.NotAfter, options.Names...); err != nil {
		return nil, err
	}
	if e.signer, err = NewSigningKey(options.Algorithm); err != nil {
		return nil, err
	}
	e.keys = []SigningKey{e.signer}
	if err := e.Start(); err != nil {
		return nil, err
	}
	e.cluster.enter(e.address)
	return e, nil
}

func (e *APIServer) join(other *APIServer) error {
	if other != nil {
		e.cluster = other.cluster
		return nil
	}
	ca, err := NewAuthority()
	if err != nil {
		return err
	}
	e.cluster = &cluster{
		ca: ca, uid: newUID(),
		tokens: map[string]string{}, rights: map[string][]Right{},
		accounts: map[string]string{"default/default": newUID(), "kube-system/default": newUID()},
	}
	return nil
}

// Start serves again after Stop, at the same address.
func (e *APIServer) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		return nil
	}
	listener, err := listen(e.address)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	if strings.HasSuffix(e.address, ":0") {
		e.address = listener.Addr().String()
	}
	server := &http.Server{
		Handler:           e.handler(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{e.certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	served := make(chan struct{})
	e.server, e.served = server, served
	go func() {
		defer close(served)
		server.ServeTLS(listener, "", "")
	}()
	return nil
}

// Stop closes the port and all connections. It may be called more than once.
func (e *APIServer) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		e.server.Close()
		<-e.served // a server that was closed before it began closes its listener by itself
		e.server = nil
	}
}

// Address is the host and port.
func (e *APIServer) Address() string { return e.address }

// URL is the server as a kubeconfig names it.
func (e *APIServer) URL() string { return "https://" + e.address }

// UID is that of the kube-system namespace.
func (e *APIServer) UID() string { return e.cluster.uid }

// CA is the cluster's CA certificate in PEM.
func (e *APIServer) CA() []byte { return e.cluster.ca.PEM }

// Token is the user's bearer token. A user that is asked for exists from then
// on, without rights.
func (e *APIServer) Token(user string) string {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	if e.cluster.tokens[user] == "" {
		e.cluster.tokens[user] = newUID()
	}
	return e.cluster.tokens[user]
}

// SetToken replaces the user's bearer token: the old one is refused from now on.
func (e *APIServer) SetToken(user, token string) {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	e.cluster.tokens[user] = token
}

// Grant adds to the user's rights.
func (e *APIServer) Grant(user string, rights ...Right) {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	e.cluster.rights[user] = append(e.cluster.rights[user], rights...)
}

// Revoke takes all rights of the user away.
func (e *APIServer) Revoke(user string) {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	delete(e.cluster.rights, user)
}

// AddServiceAccount creates a service account, and its namespace.
func (e *APIServer) AddServiceAccount(namespace, name string) {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	e.cluster.accounts[namespace+"/"+name] = newUID()
}

// Leave removes this server from the endpoints, as a server does that ends in
// an orderly way.
func (e *APIServer) Leave() { e.cluster.leave(e.address) }

// Enter adds this server to the endpoints again.
func (e *APIServer) Enter() { e.cluster.enter(e.address) }

// SetIssuer is a restart with another --service-account-issuer.
func (e *APIServer) SetIssuer(issuer string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.issuer = issuer
}

// Issuer is the present issuer.
func (e *APIServer) Issuer() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.issuer
}

// WriteKubeconfig writes the file by which the user reaches this server.
func (e *APIServer) WriteKubeconfig(path, user string) error {
	return e.Kubeconfig(user).Write(path)
}

// Kubeconfig is what WriteKubeconfig writes, to be changed first.
func (e *APIServer) Kubeconfig(user string) Kubeconfig {
	return Kubeconfig{Server: e.URL(), CA: e.CA(), Token: e.Token(user)}
}

func (c *cluster) enter(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.endpoints, address) {
		c.endpoints = append(c.endpoints, address)
	}
}

func (c *cluster) leave(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endpoints = slices.DeleteFunc(c.endpoints, func(other string) bool { return other == address })
}

// userOf returns the owner of a bearer token.
func (c *cluster) userOf(token string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, user := range slices.Sorted(maps.Keys(c.tokens)) {
		if token != "" && c.tokens[user] == token {
			return user, true
		}
	}
	return "", false
}

func (c *cluster) may(user string, right Right) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.rights[user], right) || slices.Contains(c.rights[user], RightAll)
}
