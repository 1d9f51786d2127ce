package testserver

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
)

// KubeOptions are the settings of a real control plane. The zero value is one
// API server with one RSA key.
type KubeOptions struct {
	// Issuer is --service-account-issuer, https://issuer.example.com if empty.
	Issuer string
	// Keys are those of every server at its start.
	Keys KubeKeys
	// Servers is the number of API servers on the one etcd, 1 if zero.
	Servers int
	// Nodes gives kubelets the rights that they have in real clusters, and no
	// more: the authorizer Node and the admission plugin NodeRestriction.
	Nodes bool
	// Flags are more flags of kube-apiserver. They win over those set here.
	Flags []string
}

// KubeKeys are the service account keys of one API server.
type KubeKeys struct {
	// Signing is --service-account-signing-key-file. Start makes an RSA key
	// if it is nil.
	Signing *KubeKey
	// Published are in --service-account-key-file, in this order; just
	// Signing if there are none.
	Published []*KubeKey
}

// KubeKey is a service account key.
type KubeKey struct {
	// ID is the key ID that kube-apiserver gives to the key.
	ID      string
	private crypto.Signer
}

// NewKubeKey makes a key for RS256, ES256, ES384 or ES512.
func NewKubeKey(t testing.TB, algorithm string) *KubeKey {
	t.Helper()
	key, err := fake.NewSigningKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return &KubeKey{key.ID, key.Private}
}

// PrivatePEM is the key as a signing key file holds it.
func (k *KubeKey) PrivatePEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// PublicPEM is the public half as a key file holds it.
func (k *KubeKey) PublicPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// KubeUsers exist on every real control plane, beside the user admin, who may
// do everything. They have no rights at first.
func KubeUsers() []string { return []string{"publisher", "reader", "nobody"} }

// KubeCluster is etcd with one or more real API servers. No controllers run:
// service accounts and endpoints are made by hand.
type KubeCluster struct {
	// Servers are the API servers. All of them listen on 127.0.0.1.
	Servers []*KubeServer
	// CA is the cluster's CA certificate in PEM.
	CA []byte

	ca     fake.Authority
	etcd   string // URL
	issuer string
	tokens map[string]string // by user
	client *http.Client
}

// KubeServer is one kube-apiserver process.
type KubeServer struct {
	*Process
	cluster *KubeCluster
	address string
	dir     string
}

// Kube starts a control plane and ends it with the test. It needs etcd and
// kube-apiserver on PATH.
func Kube(t testing.TB, options KubeOptions) *KubeCluster {
	t.Helper()
	binary := Require(t, "kube-apiserver")
	k := newKubeCluster(t, options)
	k.etcd = startEtcd(t)
	if options.Keys.Signing == nil {
		options.Keys.Signing = NewKubeKey(t, "RS256")
	}
	for range max(options.Servers, 1) {
		k.Servers = append(k.Servers, k.start(t, binary, options))
	}
	k.SetEndpoints(t, k.Servers...)
	k.CreateServiceAccount(t, "default", "default")
	return k
}

func newKubeCluster(t testing.TB, options KubeOptions) *KubeCluster {
	t.Helper()
	ca, err := fake.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	k := &KubeCluster{CA: ca.PEM, ca: ca, issuer: options.Issuer, tokens: map[string]string{"admin": rand.Text()}}
	k.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	if k.issuer == "" {
		k.issuer = "https://issuer.example.com"
	}
	for _, user := range KubeUsers() {
		k.tokens[user] = rand.Text()
	}
	return k
}

func startEtcd(t testing.TB) (url string) {
	t.Helper()
	binary := Require(t, "etcd")
	client, peer := FreePort(t), FreePort(t)
	url = fmt.Sprintf("http://127.0.0.1:%d", client)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peer)
	Start(t, Command{
		Name: "etcd", Path: binary,
		Args: []string{
			"--data-dir=" + filepath.Join(t.TempDir(), "etcd"), "--unsafe-no-fsync", "--log-level=warn",
			"--heartbeat-interval=20", "--election-timeout=100", // a single member need not wait for others
			"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
			"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL, "--initial-cluster=default=" + peerURL,
		},
		Ready: HTTPReady(http.DefaultClient, url+"/health"), KillAtEnd: true,
	})
	return url
}

// start runs one more API server. Its advertised address, which becomes its
// jwks_uri, can't be reached, like that of a node from outside.
func (k *KubeCluster) start(t testing.TB, binary string, options KubeOptions) *KubeServer {
	t.Helper()
	port := FreePort(t)
	s := &KubeServer{cluster: k, address: fmt.Sprintf("127.0.0.1:%d", port), dir: t.TempDir()}
	s.writeKeys(t, options.Keys)
	s.writeFiles(t)
	file := func(name string) string { return filepath.Join(s.dir, name) }
	args := append([]string{
		"--etcd-servers=" + k.etcd,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
		"--cert-dir=" + s.dir, "--tls-cert-file=" + file("tls.crt"), "--tls-private-key-file=" + file("tls.key"),
		"--client-ca-file=" + file("ca.crt"),
		"--anonymous-auth=false", "--token-auth-file=" + file("tokens.csv"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=" + k.issuer,
		"--service-account-signing-key-file=" + file("signing.key"), "--service-account-key-file=" + file("published.pub"),
		"--disable-admission-plugins=ServiceAccount",
		"--v=0",
	}, options.authorization()...)
	args = append(args, options.Flags...)
	s.Process = Start(t, Command{Name: "kube-apiserver", Path: binary, Args: args, Ready: s.ready, KillAtEnd: true})
	return s
}

func (o KubeOptions) authorization() []string {
	if !o.Nodes {
		return []string{"--authorization-mode=RBAC"}
	}
	return []string{"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"}
}

func (s *KubeServer) ready(ctx context.Context) error {
	status, err := s.cluster.send(ctx, s, http.MethodGet, "/readyz", nil, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("HTTP status %d", status)
	}
	return err
}

// Address is the host and port.
func (s *KubeServer) Address() string { return s.address }

// URL is the server as a kubeconfig names it.
func (s *KubeServer) URL() string { return "https://" + s.address }

// RestartWith rotates the keys by a restart, because kube-apiserver reads them
// only when it starts.
func (s *KubeServer) RestartWith(t testing.TB, keys KubeKeys) {
	t.Helper()
	s.writeKeys(t, keys)
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *KubeServer) writeKeys(t testing.TB, keys KubeKeys) {
	t.Helper()
	if len(keys.Published) == 0 {
		keys.Published = []*KubeKey{keys.Signing}
	}
	var published bytes.Buffer
	for _, key := range keys.Published {
		published.Write(key.PublicPEM(t))
	}
	s.write(t, "signing.key", keys.Signing.PrivatePEM(t))
	s.write(t, "published.pub", published.Bytes())
}

func (s *KubeServer) writeFiles(t testing.TB) {
	t.Helper()
	serving, err := s.cluster.ca.Serving()
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := fake.EncodeCertificate(serving)
	if err != nil {
		t.Fatal(err)
	}
	var tokens strings.Builder
	for user, token := range s.cluster.tokens {
		group := ""
		if user == "admin" {
			group = ",system:masters"
		}
		fmt.Fprintf(&tokens, "%s,%s,%s%s\n", token, user, user, group)
	}
	s.write(t, "tls.crt", certificate)
	s.write(t, "tls.key", key)
	s.write(t, "ca.crt", s.cluster.CA)
	s.write(t, "tokens.csv", []byte(tokens.String()))
}

func (s *KubeServer) write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Kubeconfig returns a kubeconfig with which admin or a user of KubeUsers
// reaches this server.
func (s *KubeServer) Kubeconfig(user string) fake.Kubeconfig {
	return fake.Kubeconfig{Server: s.URL(), CA: s.cluster.CA, Token: s.cluster.tokens[user]}
}

// CertificateKubeconfig returns a kubeconfig for any user, with a client
// certificate.
func (s *KubeServer) CertificateKubeconfig(t testing.TB, user string) fake.Kubeconfig {
	t.Helper()
	issued, err := s.cluster.ca.Client(user)
	if err != nil {
		t.Fatal(err)
	}
	k := fake.Kubeconfig{Server: s.URL(), CA: s.cluster.CA}
	if k.Certificate, k.Key, err = fake.EncodeCertificate(issued); err != nil {
		t.Fatal(err)
	}
	return k
}

// WriteKubeconfig writes the user's kubeconfig for the first server to a
// temporary file and returns its path.
func (k *KubeCluster) WriteKubeconfig(t testing.TB, user string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := k.Servers[0].Kubeconfig(user).Write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Issuer is the --service-account-issuer.
func (k *KubeCluster) Issuer() string { return k.issuer }

// UID is that of the kube-system namespace.
func (k *KubeCluster) UID(t testing.TB) string {
	t.Helper()
	var namespace struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	k.must(t, http.MethodGet, "/api/v1/namespaces/kube-system", nil, &namespace)
	return namespace.Metadata.UID
}

// CreateServiceAccount creates a service account and its namespace, unless
// they exist.
func (k *KubeCluster) CreateServiceAccount(t testing.TB, namespace, name string) {
	t.Helper()
	k.create(t, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": namespace}})
	k.create(t, "/api/v1/namespaces/"+namespace+"/serviceaccounts", map[string]any{"metadata": map[string]any{"name": name}})
}

// MintToken has the first server sign a token of 10 minutes (TokenRequest).
func (k *KubeCluster) MintToken(t testing.TB, namespace, name, audience string) string {
	t.Helper()
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	k.must(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{"audiences": []string{audience}, "expirationSeconds": 600},
	}, &answer)
	return answer.Status.Token
}

// SetEndpoints makes these servers the endpoints of the service
// default/kubernetes. The API takes no loopback addresses for endpoints, and
// others would leave this machine, so they are written to etcd.
func (k *KubeCluster) SetEndpoints(t testing.TB, servers ...*KubeServer) {
	t.Helper()
	const prefix = "/registry/endpointslices/default/kubernetes"
	k.sendEtcd(t, "/v3/kv/deleterange", map[string]any{"key": []byte(prefix + "-"), "range_end": []byte(prefix + ".")})
	for i, s := range servers {
		object := fake.EndpointSlice(fmt.Sprintf("kubernetes-%d", i), s.address)
		object["kind"], object["apiVersion"] = "EndpointSlice", "discovery.k8s.io/v1"
		slice, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		k.sendEtcd(t, "/v3/kv/put", map[string]any{"key": fmt.Appendf(nil, "%s-%d", prefix, i), "value": slice})
	}
	k.await(t, "endpoints", func(ctx context.Context, at *KubeServer) error { return k.lists(ctx, at, servers) })
}

// lists checks that a server knows these endpoints: it reads etcd through a cache.
func (k *KubeCluster) lists(ctx context.Context, at *KubeServer, servers []*KubeServer) error {
	var list struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Ports []struct {
				Port int `json:"port"`
			} `json:"ports"`
		} `json:"items"`
	}
	_, err := k.send(ctx, at, http.MethodGet, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", nil, &list)
	if err != nil {
		return err
	}
	var have, want []string
	for _, item := range list.Items {
		for _, port := range item.Ports {
			if !strings.HasPrefix(item.Metadata.Name, "kubernetes-") {
				continue // the endpoint reconciler's
			}
			have = append(have, fmt.Sprintf("127.0.0.1:%d", port.Port))
		}
	}
	for _, s := range servers {
		want = append(want, s.address)
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("it lists %q and should list %q", have, want)
	}
	return nil
}

// sendEtcd speaks etcd's JSON gateway, in which keys and values are base64, as
// encoding/json writes byte slices.
func (k *KubeCluster) sendEtcd(t testing.TB, path string, body any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(k.etcd+path, "application/json", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("etcd: %s: HTTP status %d", path, resp.StatusCode)
	}
}

// create is a POST for which the object may exist already.
func (k *KubeCluster) create(t testing.TB, path string, object any) {
	t.Helper()
	status, err := k.send(t.Context(), k.Servers[0], http.MethodPost, path, object, nil)
	if err != nil {
		t.Fatal(err)
	}
	if status != http.StatusCreated && status != http.StatusConflict {
		t.Fatalf("kube-apiserver: POST %s: HTTP status %d", path, status)
	}
}

func (k *KubeCluster) must(t testing.TB, method, path string, body, into any) {
	t.Helper()
	status, err := k.send(t.Context(), k.Servers[0], method, path, body, into)
	if err != nil {
		t.Fatal(err)
	}
	if status/100 != 2 {
		t.Fatalf("kube-apiserver: %s %s: HTTP status %d", method, path, status)
	}
}

// send makes a request as admin. A body that is not nil is sent as JSON, and
// an answer of status 2xx is read into a target that is not nil.
func (k *KubeCluster) send(ctx context.Context, s *KubeServer, method, path string, body, into any) (status int, err error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL()+path, reader)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+k.tokens["admin"])
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if into == nil || resp.StatusCode/100 != 2 {
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	return resp.StatusCode, json.NewDecoder(resp.Body).Decode(into)
}

// cacheTimeout bounds the wait until every server has seen a change.
const cacheTimeout = 30 * time.Second

// Grant binds ClusterRole system:service-account-issuer-discovery to a user,
// which may be a service account by its user name.
func (k *KubeCluster) Grant(t testing.TB, user string) {
	t.Helper()
	k.create(t, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding("discovery", user, "ClusterRole", "system:service-account-issuer-discovery"))
	k.awaitRight(t, user, true, map[string]any{"nonResourceAttributes": map[string]any{"verb": "get", "path": "/openid/v1/jwks"}})
}

// Revoke undoes Grant.
func (k *KubeCluster) Revoke(t testing.TB, user string) {
	t.Helper()
	k.must(t, http.MethodDelete, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/"+bindingName("discovery", user), nil, nil)
	k.awaitRight(t, user, false, map[string]any{"nonResourceAttributes": map[string]any{"verb": "get", "path": "/openid/v1/jwks"}})
}

// GrantMint lets a user mint tokens for one service account.
func (k *KubeCluster) GrantMint(t testing.TB, user, namespace, name string) {
	t.Helper()
	k.grantIn(t, user, namespace, "mint", map[string]any{
		"apiGroups": []string{""}, "resources": []string{"serviceaccounts/token"}, "resourceNames": []string{name}, "verbs": []string{"create"},
	}, map[string]any{"namespace": namespace, "verb": "create", "resource": "serviceaccounts", "subresource": "token", "name": name})
}

// GrantEndpoints lets a user find all API servers.
func (k *KubeCluster) GrantEndpoints(t testing.TB, user string) {
	t.Helper()
	k.grantIn(t, user, "default", "endpoints", map[string]any{
		"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": []string{"get", "list"},
	}, map[string]any{"namespace": "default", "verb": "list", "group": "discovery.k8s.io", "resource": "endpointslices"})
}

func (k *KubeCluster) grantIn(t testing.TB, user, namespace, role string, rule, attributes map[string]any) {
	t.Helper()
	base := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace
	name := bindingName(role, user)
	k.create(t, base+"/roles", map[string]any{"metadata": map[string]any{"name": name}, "rules": []any{rule}})
	k.create(t, base+"/rolebindings", binding(role, user, "Role", name))
	k.awaitRight(t, user, true, map[string]any{"resourceAttributes": attributes})
}

func bindingName(role, user string) string {
	sum := sha256.Sum256([]byte(user))
	return fmt.Sprintf("test-%s-%x", role, sum[:6])
}

func binding(role, user, kind, name string) map[string]any {
	subject := map[string]any{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}
	if account, found := strings.CutPrefix(user, "system:serviceaccount:"); found {
		namespace, name, _ := strings.Cut(account, ":")
		subject = map[string]any{"kind": "ServiceAccount", "namespace": namespace, "name": name}
	}
	return map[string]any{
		"metadata": map[string]any{"name": bindingName(role, user)},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
		"subjects": []any{subject},
	}
}

// awaitRight waits until every running server decides as expected.
func (k *KubeCluster) awaitRight(t testing.TB, user string, allowed bool, spec map[string]any) {
	t.Helper()
	spec["user"] = user
	k.await(t, "rights of "+user, func(ctx context.Context, at *KubeServer) error { return k.judges(ctx, at, allowed, spec) })
}

// await waits until every running server has seen a change.
func (k *KubeCluster) await(t testing.TB, what string, seen func(context.Context, *KubeServer) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cacheTimeout)
	defer cancel()
	for _, s := range k.Servers {
		if s.Pid() == 0 {
			continue
		}
		if err := poll(ctx, func() error { return seen(ctx, s) }); err != nil {
			t.Fatalf("kube-apiserver %s: %s: %v", s.address, what, err)
		}
	}
}

func (k *KubeCluster) judges(ctx context.Context, s *KubeServer, allowed bool, spec map[string]any) error {
	var review struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	_, err := k.send(ctx, s, http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews",
		map[string]any{"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}, &review)
	if err == nil && review.Status.Allowed != allowed {
		err = errors.New("not yet in force")
	}
	return err
}

// poll tries until it succeeds or the context ends, and then returns the error
// of the last attempt that was not cut short.
func poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	err := ctx.Err()
	for ctx.Err() == nil {
		attempt := try()
		if attempt == nil {
			return nil
		}
		if ctx.Err() == nil {
			err = attempt
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return err
}
