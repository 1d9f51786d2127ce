package kube_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
)

// embedded starts a server with a quick key and a user who may do everything
// that the source ever asks for.
func embedded(t *testing.T, options fake.APIServerOptions) *fake.APIServer {
	t.Helper()
	if options.Algorithm == "" {
		options.Algorithm = "ES256"
	}
	e := fake.StartAPIServer(t, options)
	e.Grant("publisher", fake.RightDiscovery, fake.RightMint, fake.RightNamespaces, fake.RightEndpoints)
	return e
}

// source connects to a server as a kubeconfig says.
func source(t *testing.T, k fake.Kubeconfig, config kube.Config) *kube.Source {
	t.Helper()
	config.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := k.Write(config.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	s, err := kube.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fetch(t *testing.T, s *kube.Source) discovery.Snapshot {
	t.Helper()
	snapshot, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func TestFetch(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{Issuer: "https://storage.googleapis.com/bucket/cluster"})
	got := fetch(t, source(t, e.Kubeconfig("publisher"), kube.Config{}))
	if got.Document.Issuer() != "https://storage.googleapis.com/bucket/cluster" {
		t.Errorf("issuer %q", got.Document.Issuer())
	}
	if !slices.Equal(got.Keys.IDs(), e.KeyIDs()) {
		t.Errorf("keys %v, want %v", got.Keys.IDs(), e.KeyIDs())
	}
	want := discovery.Canary{KeyID: e.SigningKeyID(), Algorithm: "ES256", Issuer: e.Issuer()}
	if got.Canary == nil || *got.Canary != want {
		t.Errorf("canary %+v, want %+v", got.Canary, want)
	}
	if got.MaxAge != time.Hour {
		t.Errorf("max-age %v", got.MaxAge)
	}
	if len(got.Cluster) != 2 || got.Cluster[0] != "uid:"+e.UID() || !strings.HasPrefix(got.Cluster[1], "ca:") || len(got.Cluster[1]) != len("ca:")+64 {
		t.Errorf("cluster %q", got.Cluster)
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings %q", got.Warnings)
	}
}

// newPlainServer serves without TLS and returns the address.
func newPlainServer(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestKeysOfUnknownTypeAreLeftOutWithAWarning(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	e.Break("/openid/v1/jwks", fake.FaultBody(http.StatusOK, "application/jwk-set+json",
		`{"keys":[{"kty":"EC","crv":"P-256","kid":"good","x":"Nky5AuxudCiU0BntKHs1udTqqMRFqrgKssJO0tPPTwo","y":"YTrp2dtsf5gxRoaSfPxiPEtJBTwWKaPbop-8kQvpv5M"},{"kty":"XYZ","kid":"odd"}]}`))
	got := fetch(t, source(t, e.Kubeconfig("publisher"), kube.Config{}))
	if !slices.Equal(got.Keys.IDs(), []string{"good"}) {
		t.Errorf("keys %q", got.Keys.IDs())
	}
	if got.MaxAge != 0 {
		t.Errorf("max-age %v of a server that named none", got.MaxAge)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], `"odd"`) || !strings.Contains(got.Warnings[0], e.Address()) {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestClusterWithoutTheRightToItsUID(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	e.Grant("reader", fake.RightDiscovery, fake.RightMint)
	both := fetch(t, source(t, e.Kubeconfig("publisher"), kube.Config{})).Cluster
	got := fetch(t, source(t, e.Kubeconfig("reader"), kube.Config{}))
	if !slices.Equal(got.Cluster, both[1:]) || len(got.Warnings) != 0 {
		t.Errorf("cluster %q, want %q; warnings %q", got.Cluster, both[1:], got.Warnings)
	}
}

func TestClusterNameDoesNotDependOnTheBundlesOrder(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	other := fake.StartAPIServer(t, fake.APIServerOptions{Algorithm: "ES256"}).CA()
	name := func(bundle ...[]byte) string {
		k := e.Kubeconfig("publisher")
		k.CA = bytes.Join(bundle, []byte("# a comment\n"))
		return fetch(t, source(t, k, kube.Config{})).Cluster[1]
	}
	if a, b := name(e.CA(), other), name(other, e.CA(), other); a != b {
		t.Errorf("%s and %s", a, b)
	}
	if name(e.CA()) == name(e.CA(), other) {
		t.Error("another bundle, the same name")
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		writeFile(t, file, []byte(token))
	}
	write(e.Token("publisher"))
	s := source(t, fake.Kubeconfig{Server: e.URL(), CA: e.CA(), TokenFile: file}, kube.Config{})
	fetch(t, s)
	e.SetToken("publisher", "renewed")
	write("renewed")
	fetch(t, s)
	write("")
	wantError(t, s, "token file "+file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantError(t, s, "token file", file)
}

func TestProxyOfTheKubeconfig(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	var tunnels atomic.Int32
	proxy := newPlainServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnels.Add(1)
		tunnel(w, r)
	}))
	k := e.Kubeconfig("publisher")
	k.ProxyURL = "http://user:secret@" + proxy
	s := source(t, k, kube.Config{})
	fetch(t, s)
	if tunnels.Load() == 0 {
		t.Error("the proxy was not used")
	}
	e.Stop()
	_, err := s.Fetch(t.Context())
	if err == nil || !strings.Contains(err.Error(), "API server "+e.Address()+" (through proxy "+proxy+")") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// tunnel is a proxy's CONNECT.
func tunnel(w http.ResponseWriter, r *http.Request) {
	upstream, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, "no upstream", http.StatusBadGateway)
		return
	}
	defer upstream.Close()
	// The answer comes after the hijack: before it, the server would read the
	// first byte of what the client sends next.
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go io.Copy(upstream, conn)
	io.Copy(conn, upstream)
}

// kubectl proxy speaks plain HTTP on the loopback address and adds the
// credentials itself.
func TestKubectlProxy(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	target, err := url.Parse(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(e.CA())
	address := newPlainServer(t, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer "+e.Token("publisher"))
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	})
	got := fetch(t, source(t, fake.Kubeconfig{Server: "http://" + address}, kube.Config{}))
	if !slices.Equal(got.Cluster, []string{"uid:" + e.UID()}) || got.Canary == nil {
		t.Errorf("cluster %q, canary %v", got.Cluster, got.Canary)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestExecPluginKeepsTheDeadline: client-go runs credential plugins without a
// context.
func TestExecPluginKeepsTheDeadline(t *testing.T) {
	server := fake.StartAPIServer(t, fake.APIServerOptions{Issuer: "https://issuer.example.com"})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],
		"users":[{"name":"u","user":{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"sh","args":["-c",%q],"interactiveMode":"Never"}}}],
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, server.URL(), base64.StdEncoding.EncodeToString(server.CA()),
		"while [ -e '"+path+"' ]; do sleep 0.1; done") // until the test ends and removes its folder
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := kube.New(kube.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := source.Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
