package fake_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// apiServer is either of the two, by its kubeconfigs.
type apiServer struct {
	name string
	url  string
	// tokens are those of admin, reader (who may read the documents) and
	// nobody.
	tokens map[string]string
	client *http.Client
}

func newAPIServer(name string, kubeconfig func(user string) fake.Kubeconfig) apiServer {
	s := apiServer{name: name, tokens: map[string]string{"stranger": "unknown"}}
	for _, user := range []string{"admin", "reader", "nobody"} {
		k := kubeconfig(user)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(k.CA)
		s.url, s.tokens[user] = k.Server, k.Token
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	}
	return s
}

// exchange is one request and what is compared of its answer.
type exchange struct {
	user, method, path, accept, body string
}

type reply struct {
	Status                                        int
	Proto, ContentType, CacheControl, ETag, Sniff string
	Body                                          any
}

func (s apiServer) ask(t *testing.T, e exchange) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), e.method, s.url+e.path, strings.NewReader(e.body))
	if err != nil {
		t.Fatal(err)
	}
	if token := s.tokens[e.user]; token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if e.accept != "" {
		req.Header.Set("Accept", e.accept)
	}
	if e.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{
		resp.StatusCode, resp.Proto, resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control"), resp.Header.Get("ETag"),
		resp.Header.Get("X-Content-Type-Options"), shape(t, body),
	}
}

// different are members whose value differs from server to server, and
// leftOut are those that the fake server does without.
func different() []string {
	return []string{"uid", "kid", "n", "x", "y", "jwks_uri", "token", "expirationTimestamp", "port", "iat", "nbf", "exp", "jti"}
}

func leftOut() []string {
	return []string{"resourceVersion", "creationTimestamp", "managedFields", "generation"}
}

// shape is the body without what may differ; texts stay as they are.
func shape(t *testing.T, body []byte) any {
	t.Helper()
	var v any
	if json.Unmarshal(body, &v) != nil {
		return string(body)
	}
	return empty(v)
}

func empty(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = empty(v[i])
		}
	case map[string]any:
		for name := range v {
			switch {
			case slices.Contains(leftOut(), name):
				delete(v, name)
			case slices.Contains(different(), name):
				v[name] = "…"
			case name == "labels":
				// The label kubernetes.io/metadata.name is of no use to us.
				if labels, _ := v[name].(map[string]any); labels["kubernetes.io/service-name"] == nil {
					delete(v, name)
				}
			default:
				v[name] = empty(v[name])
			}
		}
	}
	return v
}

// The tests that use the fake server mean something only while it answers like
// the real one.
func TestAPIServerAnswersLikeTheRealOne(t *testing.T) {
	cluster := testserver.Kube(t, testserver.KubeOptions{})
	cluster.Grant(t, "reader")
	fakeServer := fake.StartAPIServer(t, fake.APIServerOptions{})
	fakeServer.Grant("admin", fake.RightAll)
	fakeServer.Grant("reader", fake.RightDiscovery)
	actual := newAPIServer("kube-apiserver", cluster.Servers[0].Kubeconfig)
	ours := newAPIServer("fake", fakeServer.Kubeconfig)

	const document, keys = "/.well-known/openid-configuration", "/openid/v1/jwks"
	const namespace = "/api/v1/namespaces/kube-system"
	const endpoints = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
	const tokens = "/api/v1/namespaces/default/serviceaccounts/default/token"
	demand := func(seconds string) string {
		return `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["a","b"],"expirationSeconds":` + seconds + `}}`
	}
	var cases []exchange
	for _, user := range []string{"", "stranger", "nobody", "reader", "admin"} {
		for _, path := range []string{document, keys} {
			for _, accept := range []string{"", "*/*", "application/json, */*", "application/json", "application/jwk-set+json", "text/html"} {
				cases = append(cases, exchange{user: user, method: "GET", path: path, accept: accept})
			}
			for _, method := range []string{"HEAD", "POST", "PUT", "DELETE"} {
				cases = append(cases, exchange{user: user, method: method, path: path})
			}
		}
		for _, path := range []string{"/nothing", "/openid/v1/", namespace, endpoints} {
			cases = append(cases, exchange{user: user, method: "GET", path: path})
		}
		cases = append(cases, exchange{user: user, method: "POST", path: tokens, body: demand("600")})
	}
	cases = append(cases,
		exchange{user: "admin", method: "POST", path: tokens, body: demand("599")},
		exchange{user: "admin", method: "POST", path: strings.Replace(tokens, "/default/token", "/absent/token", 1), body: demand("600")},
		exchange{user: "admin", method: "POST", path: strings.Replace(tokens, "/namespaces/default/", "/namespaces/absent/", 1), body: demand("600")},
	)
	for _, c := range cases {
		t.Run(strings.Join([]string{c.user, c.method, c.path, c.accept}, " "), func(t *testing.T) {
			if diff := cmp.Diff(actual.ask(t, c), ours.ask(t, c)); diff != "" {
				t.Errorf("(-kube-apiserver +fake):\n%s", diff)
			}
		})
	}
	for _, path := range []string{document, keys} {
		want, got := members(t, actual.raw(t, path)), members(t, ours.raw(t, path))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("order of members in %s (-kube-apiserver +fake):\n%s", path, diff)
		}
	}
	compareTokens(t, cluster.MintToken(t, "default", "default", "aud"), fakeServer)
}

func (s apiServer) raw(t *testing.T, path string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.tokens["admin"])
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// members lists the names and punctuation of a JSON text, without its values.
func members(t *testing.T, data []byte) []string {
	t.Helper()
	var out []string
	for _, part := range bytes.Split(data, []byte(`":`)) {
		if i := bytes.LastIndexByte(part, '"'); i >= 0 {
			out = append(out, string(part[i+1:]))
		}
	}
	return out
}

func compareTokens(t *testing.T, actual string, fakeServer *fake.APIServer) {
	t.Helper()
	ours, err := fakeServer.MintToken("default", "default", "aud", 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range []string{"header", "payload"} {
		var shapes []any
		for _, token := range []string{actual, ours} {
			data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
			if err != nil {
				t.Fatal(err)
			}
			shapes = append(shapes, shape(t, data))
		}
		if diff := cmp.Diff(shapes[0], shapes[1]); diff != "" {
			t.Errorf("%s of a token (-kube-apiserver +fake):\n%s", part, diff)
		}
	}
}

// The endpoints that the tests write by hand must look like those that API
// servers write for themselves.
func TestEndpointsLookLikeTheReconcilers(t *testing.T) {
	cluster := testserver.Kube(t, testserver.KubeOptions{Flags: []string{"--endpoint-reconciler-type=lease"}})
	actual := newAPIServer("kube-apiserver", cluster.Servers[0].Kubeconfig)
	items := awaitSlices(t, actual, 2)
	for _, item := range items {
		empty(item)
		item["metadata"].(map[string]any)["name"] = "…"
		item["endpoints"].([]any)[0].(map[string]any)["addresses"] = "…"
	}
	if diff := cmp.Diff(items[0], items[1]); diff != "" {
		t.Errorf("(-reconciler +ours):\n%s", diff)
	}
}

// awaitSlices waits until the service default/kubernetes has so many slices:
// the reconciler writes its own a moment after the start.
func awaitSlices(t *testing.T, s apiServer, want int) []map[string]any {
	t.Helper()
	const path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var list struct {
			Items []map[string]any `json:"items"`
		}
		if err := json.Unmarshal(s.raw(t, path), &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == want {
			return list.Items
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d slices, want %d", len(list.Items), want)
		case <-tick.C:
		}
	}
}

func TestAPIServerRotation(t *testing.T) {
	e := fake.StartAPIServer(t, fake.APIServerOptions{Algorithm: "ES256"})
	first := e.SigningKeyID()
	second, err := e.AddKey("RS256")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(e.KeyIDs(), []string{first, second}) || e.SigningKeyID() != first {
		t.Errorf("after AddKey: %q, signing %q", e.KeyIDs(), e.SigningKeyID())
	}
	if err := e.SignWith(second); err != nil || e.SigningKeyID() != second {
		t.Errorf("after SignWith: %v, signing %q", err, e.SigningKeyID())
	}
	e.RemoveKey(first)
	if !slices.Equal(e.KeyIDs(), []string{second}) {
		t.Errorf("after RemoveKey: %q", e.KeyIDs())
	}
	third, err := e.Replace("ES384")
	if err != nil || !slices.Equal(e.KeyIDs(), []string{third}) || e.SigningKeyID() != third {
		t.Errorf("after Replace: %v, %q, signing %q", err, e.KeyIDs(), e.SigningKeyID())
	}
	if err := e.SignWith(first); err == nil {
		t.Error("signs with a key that is gone")
	}
	if _, err := e.Rotate("HS256"); err == nil {
		t.Error("took a symmetric algorithm")
	}
}

func TestAPIServerRestartsAtTheSameAddress(t *testing.T) {
	e := fake.StartAPIServer(t, fake.APIServerOptions{Algorithm: "ES256"})
	address := e.Address()
	e.Stop()
	e.Stop()
	if testserver.TCPReady(address)(t.Context()) == nil {
		t.Error("still listening after Stop")
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if err := testserver.TCPReady(address)(t.Context()); err != nil || e.Address() != address {
		t.Errorf("%v at %s", err, e.Address())
	}
}

func TestKubeconfigIsPrivate(t *testing.T) {
	e := fake.StartAPIServer(t, fake.APIServerOptions{Algorithm: "ES256"})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := e.WriteKubeconfig(path, "admin"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
}
