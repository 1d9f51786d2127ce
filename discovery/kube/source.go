// Package kube fetches the discovery documents from live API servers.
//
// It sends plain HTTP requests through client-go's connection, because the two
// documents are not Kubernetes objects and typed clients would more than double
// the program's size.
package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/kubeerr"
)

const (
	defaultTimeout = 10 * time.Second
	// internalName is the name of the API server that every distribution puts
	// into its serving certificate, because pods may connect by it.
	internalName = "kubernetes.default.svc"
)

// Config selects a cluster and how to reach it.
type Config struct {
	// Kubeconfig is the file to use. If empty, client-go's rules apply:
	// $KUBECONFIG, ~/.kube/config, else the pod's own service account.
	Kubeconfig string
	// Context is the kubeconfig's context to use instead of the current one.
	Context string
	// AllAPIServers fetches from every ready endpoint of the service
	// default/kubernetes and not just from the kubeconfig's server.
	AllAPIServers bool
	// Canary is the service account, as NAMESPACE/NAME, for which a token is
	// minted to learn the signing key. If empty, it is the service account
	// whose token this client uses, else default/default. With NoCanary no
	// token is minted.
	Canary string
	// Disconnected, if not nil, is called whenever an API server ends a
	// connection: it may come back with other keys. It must not block.
	Disconnected func()
	// UserAgent identifies this client in the logs of API servers;
	// "oidc-publisher" if empty.
	UserAgent string
	// Timeout bounds each single request, 10 seconds if zero. The context
	// given to Fetch bounds the whole.
	Timeout time.Duration
}

// Source reads one cluster's documents. It is safe for concurrent use.
type Source struct {
	config    *rest.Config
	namespace string
	home      server
	// direct are clients for endpoints that are addressed by IP, one for each
	// name that the certificate may have.
	direct  []*http.Client
	all     bool
	timeout time.Duration
	// tokenFile holds the bearer token, "" if it is not in a file.
	tokenFile string
	// mints is set if tokens are minted to learn the signing key: for account
	// or, if that is empty, for this client's own service account.
	mints   bool
	account account
	// reconnects counts the connections that API servers ended.
	reconnects atomic.Int64
	now        func() time.Time

	mu sync.Mutex
	// views are the API servers' latest answers by address.
	views map[string]view
	// uid names the cluster, "" where it could not be read at uidRead.
	uid     string
	uidRead time.Time
}

// New loads the configuration and prepares the connection. It makes no request.
func New(c Config) (*Source, error) {
	mints := c.Canary != NoCanary
	if !mints {
		c.Canary = ""
	}
	account, err := parseAccount(c.Canary)
	if err != nil {
		return nil, err
	}
	config, namespace, err := load(c)
	if err != nil {
		return nil, err
	}
	followCA(config)
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("server of the kubeconfig: %w", err)
	}
	s := &Source{
		config: config, namespace: namespace, all: c.AllAPIServers, mints: mints, account: account,
		timeout: cmp.Or(c.Timeout, defaultTimeout), now: time.Now, views: map[string]view{},
	}
	if c.Disconnected != nil {
		config.Dial = reportEnds(func() { s.reconnects.Add(1); c.Disconnected() })
	}
	s.tokenFile = useTokenFile(config)
	client, err := newClient(config)
	if err != nil {
		return nil, err
	}
	s.home = s.server(base, client)
	if s.all {
		s.direct, err = directClients(config, base)
	}
	return s, err
}

// RESTConfig returns the configuration of the connection, for clients of the
// cluster's other APIs.
func (s *Source) RESTConfig() *rest.Config { return rest.CopyConfig(s.config) }

// Same reports whether another source uses the same server and credentials. It
// does not after the kubeconfig changed.
func (s *Source) Same(other *Source) bool {
	return s.config.Host == other.config.Host && s.config.BearerToken == other.config.BearerToken && s.tokenFile == other.tokenFile &&
		s.config.Username == other.config.Username && s.config.Password == other.config.Password &&
		reflect.DeepEqual(s.config.TLSClientConfig, other.config.TLSClientConfig) && reflect.DeepEqual(s.config.ExecProvider, other.config.ExecProvider)
}

// Explain explains an error of another client that was made of RESTConfig, as
// Fetch does its own.
func (s *Source) Explain(ctx context.Context, r kubeerr.Request, err error) error {
	return s.home.Explain(ctx, r, err)
}

// Namespace returns the namespace of the kubeconfig's context, or the pod's
// own.
func (s *Source) Namespace() string { return s.namespace }

// Fetch reads and validates both documents of the API server, or of all of them.
// It returns all or nothing.
//
// Its errors name the server and what to do.
func (s *Source) Fetch(ctx context.Context) (discovery.Snapshot, error) {
	var views []view
	var warnings []string
	var err error
	if s.all {
		views, warnings, err = s.fetchFromAll(ctx)
	} else {
		views = make([]view, 1)
		views[0], err = s.fetchFrom(ctx, s.home)
	}
	if err != nil {
		return discovery.Snapshot{}, err
	}
	snapshot, err := merge(views)
	if err != nil {
		return discovery.Snapshot{}, err
	}
	if snapshot.Cluster, err = s.cluster(ctx); err != nil {
		return discovery.Snapshot{}, err
	}
	snapshot.Warnings = append(warnings, snapshot.Warnings...)
	return snapshot, nil
}

func (s *Source) server(base *url.URL, clients ...*http.Client) server {
	return server{Server: kubeerr.Server{URL: base, Proxy: s.proxy(base), User: s.user}, clients: clients, timeout: s.timeout}
}

// proxy returns the proxy that client-go goes through to reach the URL, for
// messages: host and port only.
func (s *Source) proxy(base *url.URL) string {
	choose := s.config.Proxy
	if choose == nil {
		choose = http.ProxyFromEnvironment
	}
	if u, err := choose(&http.Request{URL: base}); err == nil && u != nil {
		return u.Host
	}
	return ""
}

// user returns the subject of this client's bearer token, "" if it is not the
// token of a service account.
func (s *Source) user() string {
	token := s.config.BearerToken
	if s.tokenFile != "" {
		token, _ = readToken(s.tokenFile) // the request itself reports the error
	}
	claims, _ := discovery.NewToken(token).Claims()
	return claims.Subject
}

// newClient returns client-go's HTTP client, which re-reads certificate files by
// itself, without following redirects, which would send the credentials to
// another host.
func newClient(config *rest.Config) (*http.Client, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("credentials of the kubeconfig: %w", err)
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own, nil
}

// directClients returns the clients for endpoints addressed by IP. kubeadm,
// k3s, Talos and EKS all certify kubernetes.default.svc; after it come the
// address itself and the name that the kubeconfig knows.
func directClients(config *rest.Config, base *url.URL) ([]*http.Client, error) {
	if base.Scheme != "https" || config.Insecure {
		return nil, errors.New("--all-api-servers needs TLS with the cluster's CA, so that credentials can't reach another host: " +
			"use a kubeconfig with an https server and certificate-authority-data")
	}
	var clients []*http.Client
	for _, name := range []string{internalName, "", cmp.Or(config.ServerName, base.Hostname())} {
		named := rest.CopyConfig(config)
		named.ServerName = name
		client, err := newClient(named)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}
