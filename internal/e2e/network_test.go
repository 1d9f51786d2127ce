package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"oidc-publisher/internal/cli"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// TestSecondCluster: a kubeconfig that was switched to another cluster must not
// replace what the first one published, though both claim the same issuer.
func TestSecondCluster(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, _ := l.kube(testserver.KubeOptions{Issuer: labIssuer})
	second, knowsOnlyTheCA := l.kube(testserver.KubeOptions{Issuer: labIssuer})
	admin := func(cluster *testserver.KubeCluster) (kubeconfig string) {
		l.secrets = append(l.secrets, cluster.Servers[0].Kubeconfig("admin").Token)
		return cluster.WriteKubeconfig(t, "admin")
	}
	kubeconfig, secondKubeconfig := admin(first), admin(second)
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	l.publish("--kubeconfig", kubeconfig, "--to", dir)
	token := l.mint(first)
	before, touched := l.documents(public), times(t, dir)

	ownerOf := func(cluster *testserver.KubeCluster) string { return `"uid:` + cluster.UID(t) + `"` }
	wantRefusal := func(kubeconfig, owner, other string) {
		t.Helper()
		got := l.must(cli.ExitRefused, "publish", "--kubeconfig", kubeconfig, "--to", dir)
		for _, want := range []string{"belongs to " + owner, "this is " + other, "kubeconfig context", "--take-over"} {
			if !strings.Contains(got.stderr, want) {
				t.Errorf("the refusal does not say %s:\n%s", want, got.stderr)
			}
		}
	}
	wantRefusal(secondKubeconfig, ownerOf(first), ownerOf(second))
	wantRefusal(knowsOnlyTheCA, ownerOf(first), `"ca:`)
	if after := l.documents(public); after != before {
		t.Errorf("what is public changed from %+v to %+v", before, after)
	}
	for path, now := range times(t, dir) {
		if !now.Equal(touched[path]) {
			t.Errorf("%s was touched", path)
		}
	}
	l.accepts(labIssuer, token)

	l.publish("--kubeconfig", secondKubeconfig, "--to", dir, "--take-over")
	l.accepts(labIssuer, l.mint(second))
	wantRefusal(kubeconfig, ownerOf(second), ownerOf(first))
	if l.publish("--kubeconfig", secondKubeconfig, "--to", dir).Changed {
		t.Error("the second cluster's next run changes something")
	}
}

// TestProxy: the API server has a name that only the proxy of HTTPS_PROXY can
// lead to, or an address for which NO_PROXY says to go past it.
func TestProxy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ca, err := os.ReadFile(l.internet.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	// 0.0.0.0 is this machine, and unlike 127.0.0.1 it is not exempt from
	// proxies anyway.
	api, _ := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256", Names: []string{"0.0.0.0", "127.0.0.1"}})
	_, port, _ := strings.Cut(api.Address(), ":")
	byName, byAddress := filepath.Join(l.dir, "by-name"), filepath.Join(l.dir, "by-address")
	write := func(path string, change func(*fake.Kubeconfig)) {
		kubeconfig := api.Kubeconfig("publisher")
		change(&kubeconfig)
		if err := kubeconfig.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	write(byName, func(k *fake.Kubeconfig) { k.Server, k.CA = "https://api.cluster.example.com", ca })
	write(byAddress, func(k *fake.Kubeconfig) { k.Server = "https://0.0.0.0:" + port })
	l.internet.Route("api.cluster.example.com", passTo(t, api))

	for name, test := range map[string]struct {
		code                int
		kubeconfig, noProxy string
		proxied             bool
		want                []string
	}{
		"by name through the proxy":      {cli.ExitDone, byName, "", true, nil},
		"by name past the proxy":         {cli.ExitFailed, byName, "api.cluster.example.com", false, []string{"API server api.cluster.example.com:443", "can't be resolved"}},
		"by address through the proxy":   {cli.ExitFailed, byAddress, "", true, []string{"API server 0.0.0.0:" + port + " (through proxy 127.0.0.1:"}},
		"by address past the proxy":      {cli.ExitDone, byAddress, "0.0.0.0", false, nil},
		"by network past the proxy":      {cli.ExitDone, byAddress, "0.0.0.0/8", false, nil},
		"by another name past the proxy": {cli.ExitDone, byName, "cluster.example.org,0.0.0.0", true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := l.in(t)
			host := map[string]string{byName: "api.cluster.example.com", byAddress: "0.0.0.0"}[test.kubeconfig]
			before := l.internet.Requests(host)
			got := l.runWith([]string{"NO_PROXY=" + test.noProxy}, "publish", "--kubeconfig", test.kubeconfig, "--to", t.TempDir(), "--no-verify")
			if got.code != test.code {
				t.Errorf("exit code %d, want %d\n%s", got.code, test.code, got.stderr)
			}
			if proxied := l.internet.Requests(host) > before; proxied != test.proxied {
				t.Errorf("through the proxy: %t, want %t", proxied, test.proxied)
			}
			for _, want := range test.want {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("the error does not say %q:\n%s", want, got.stderr)
				}
			}
		})
	}
}

// passTo is a front of the API server, as a load balancer that ends TLS.
func passTo(t *testing.T, api *fake.APIServer) http.Handler {
	t.Helper()
	target, err := url.Parse(api.URL())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(api.CA())
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
}

// TestPrivateCA: issuer and object store have certificates of a CA that the
// system does not know. The variables of the system and of the AWS SDK make it
// known, and without them the error says what is missing.
func TestPrivateCA(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256"})
	server, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	l.internet.Route("s3.example.com", fake.NewFaultProxy(t, server.Endpoint)) // keeps the Host, which is signed
	overTLS := s3Target("https://s3.example.com")
	l.publish("--kubeconfig", kubeconfig, "--to", target)
	const unknown = "SSL_CERT_FILE=/dev/null"
	known := "AWS_CA_BUNDLE=" + l.internet.CAFile
	for name, test := range map[string]struct {
		code int
		env  []string
		args []string
		want []string
	}{
		"issuer, unknown":      {cli.ExitFailed, []string{unknown}, []string{"publish", "--kubeconfig", kubeconfig, "--to", target}, []string{labIssuer, "its authority is a private one", "SSL_CERT_FILE"}},
		"issuer, known":        {cli.ExitDone, nil, []string{"publish", "--kubeconfig", kubeconfig, "--to", target}, nil},
		"verify, unknown":      {cli.ExitRefused, []string{unknown}, []string{"verify", labIssuer}, []string{"its authority is a private one", "SSL_CERT_FILE"}},
		"verify, known":        {cli.ExitDone, nil, []string{"verify", labIssuer}, nil},
		"store, unknown":       {cli.ExitFailed, []string{unknown, "AWS_MAX_ATTEMPTS=1"}, []string{"publish", "--kubeconfig", kubeconfig, "--to", overTLS, "--no-verify"}, []string{overTLS, "unknown authority", "SSL_CERT_FILE", "SSL_CERT_DIR"}},
		"store, AWS_CA_BUNDLE": {cli.ExitDone, []string{unknown, known}, []string{"publish", "--kubeconfig", kubeconfig, "--to", overTLS, "--no-verify"}, nil},
		"store, SSL_CERT_FILE": {cli.ExitDone, nil, []string{"publish", "--kubeconfig", kubeconfig, "--to", overTLS}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := l.in(t)
			got := l.runWith(test.env, test.args...)
			if got.code != test.code {
				t.Errorf("exit code %d, want %d\n%s%s", got.code, test.code, got.stdout, got.stderr)
			}
			for _, want := range test.want {
				if !strings.Contains(got.stdout+got.stderr, want) {
					t.Errorf("it does not say %q:\n%s%s", want, got.stdout, got.stderr)
				}
			}
		})
	}
}

// TestNoEnvironment: the program needs nothing but its flags.
func TestNoEnvironment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer})
	const race = "GORACE=atexit_sleep_ms=0" // of the race detector: it would sleep for a second
	bare := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "env", append([]string{"-i", race, built}, args...)...)
		cmd.Dir = l.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	bare("version")
	bare("publish", "--kubeconfig", kubeconfig, "--to", "public", "--no-verify")
	l.wantWhole(fake.Website(filepath.Join(l.dir, "public")), labIssuer, publicKeys(t, filepath.Join(l.dir, "public"))...)

	// An issuer on loopback needs neither proxy nor CA.
	key := testserver.NewKubeKey(t, "ES256")
	if err := os.WriteFile(filepath.Join(l.dir, "sa.pub"), key.PublicPEM(t), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, website := l.local("loopback")
	issuer := httptest.NewServer(website)
	defer issuer.Close()
	bare("publish", "--public-key", "sa.pub", "--issuer", issuer.URL, "--to", dir)
	wantList(t, "public", publicKeys(t, dir), key.ID)
	bare("verify", issuer.URL, "--public-key", "sa.pub")
}

// TestVerifyGate follows a half-rolled rotation on two real API servers: the
// new key is on one of them and not yet public, then public, then safe.
func TestVerifyGate(t *testing.T) {
	t.Parallel()
	const lifetime = 2 * time.Second // of the keys in caches: max-age
	l := newLab(t)
	old, next := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: old}, Servers: 2})
	cluster.Servers[1].RestartWith(t, testserver.KubeKeys{Signing: old, Published: []*testserver.KubeKey{old, next}})
	cluster.SetEndpoints(t, cluster.Servers...)
	cluster.GrantEndpoints(t, "publisher")
	dir, _ := l.local("public")
	site := &watchedSite{files: http.FileServer(http.Dir(dir)), key: next.ID, asked: make(chan struct{}, 1)}
	l.internet.Route("issuer.example.com", routed(site))
	verify := func(args ...string) []string {
		return append([]string{"verify", labIssuer, "--kubeconfig", kubeconfig, "--mint", "default/default", "--audience", "relying-party"}, args...)
	}

	l.publish("--kubeconfig", kubeconfig, "--to", dir)
	l.must(cli.ExitDone, verify()...)
	got := l.must(cli.ExitRefused, verify("--all-api-servers")...)
	if !strings.Contains(got.stdout, next.ID) {
		t.Errorf("verify does not name the key that is missing:\n%s", got.stdout)
	}
	got = l.must(cli.ExitRefused, verify("--wait-for-kid", next.ID, "--timeout", "1s")...)
	if !strings.Contains(got.stderr, "do not sign with it yet") || !strings.Contains(got.stderr, next.ID) {
		t.Errorf("it says %s", got.stderr)
	}

	<-site.asked // of the runs before
	gate := l.start(nil, verify("--wait-for-kid", next.ID, "--timeout", "1m", "--all-api-servers")...)
	<-site.asked
	// Without a look of its own, so that the gate is the first to see the key.
	l.publish("--kubeconfig", kubeconfig, "--all-api-servers", "--to", dir, "--no-verify")
	if got = gate.wait(); got.code != cli.ExitDone {
		t.Fatalf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if since := site.publicSince(); since.IsZero() || time.Since(since) <= lifetime {
		t.Errorf("the gate opened %v after the key was public", time.Since(since))
	}
	l.must(cli.ExitDone, verify("--all-api-servers")...)

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: next, Published: []*testserver.KubeKey{old, next}})
	l.must(cli.ExitDone, verify("--all-api-servers")...)
	l.accepts(labIssuer, l.mint(cluster))
}

// watchedSite serves files with a lifetime of two seconds, and notes when it
// first handed out a key.
type watchedSite struct {
	files http.Handler
	key   string
	asked chan struct{} // filled after each answer with keys

	mu    sync.Mutex
	since time.Time
}

func (s *watchedSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=2")
	answer := httptest.NewRecorder()
	s.files.ServeHTTP(answer, r)
	s.mu.Lock()
	if s.since.IsZero() && strings.Contains(answer.Body.String(), s.key) {
		s.since = time.Now()
	}
	s.mu.Unlock()
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
	if strings.HasSuffix(r.URL.Path, "/openid/v1/jwks") {
		select {
		case s.asked <- struct{}{}:
		default:
		}
	}
}

func (s *watchedSite) publicSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}
