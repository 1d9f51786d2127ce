package kube_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/kubeerr"
)

const bindDiscovery = "kubectl create clusterrolebinding oidc-publisher-discovery --clusterrole=system:service-account-issuer-discovery "

// errorCase is a way to fail, and what the error must say: where, what, and
// what to do.
type errorCase struct {
	name    string
	options fake.APIServerOptions
	config  kube.Config
	arrange func(*fake.APIServer, *fake.Kubeconfig)
	want    []string
	is      error
}

func TestFetchErrors(t *testing.T) {
	breaking := func(path string, fault fake.Fault) func(*fake.APIServer, *fake.Kubeconfig) {
		return func(e *fake.APIServer, _ *fake.Kubeconfig) { e.Break(path, fault) }
	}
	as := func(user string) func(*fake.APIServer, *fake.Kubeconfig) {
		return func(e *fake.APIServer, k *fake.Kubeconfig) { k.Token = e.Token(user) }
	}
	const jwks = "/openid/v1/jwks"
	cases := []errorCase{
		{name: "unknown token",
			arrange: func(_ *fake.APIServer, k *fake.Kubeconfig) { k.Token = "stale-secret" },
			want:    []string{"HTTP 401", "expired", "renew the kubeconfig"}},
		{name: "user without rights", arrange: as("jane"), is: kubeerr.ErrForbidden,
			want: []string{`user "jane"`, "/.well-known/openid-configuration", "HTTP 403", bindDiscovery + "--user=jane"}},
		{name: "service account without rights", arrange: as("system:serviceaccount:oidc:publisher"), is: kubeerr.ErrForbidden,
			want: []string{bindDiscovery + "--serviceaccount=oidc:publisher"}},
		{name: "user name that a shell would read", arrange: as("o'neill; <rm> & $(id)"), is: kubeerr.ErrForbidden,
			want: []string{`--user='o'\''neill; <rm> & $(id)'`}},
		{name: "user name with control characters", arrange: as("evil\x1b[2J\nname"), is: kubeerr.ErrForbidden,
			want: []string{"this user", "--user=NAME"}},
		{name: "anonymous", arrange: as("system:anonymous"), is: kubeerr.ErrForbidden,
			want: []string{"without credentials", "no token, certificate or exec plugin"}},
		{name: "forbidden by a firewall", is: kubeerr.ErrForbidden, arrange: breaking("", fake.FaultBody(403, "text/html", "secret-of-the-page")),
			want: []string{"not from an API server", "firewall"}},
		{name: "discovery not installed",
			arrange: func(e *fake.APIServer, _ *fake.Kubeconfig) { e.SetIssuer("http://issuer.example.com") },
			want:    []string{"HTTP 404", "/.well-known/openid-configuration", "--service-account-issuer=https://"}},
		{name: "server with a path",
			arrange: func(e *fake.APIServer, k *fake.Kubeconfig) {
				e.Grant("publisher", fake.RightAll)
				k.Server += "/k8s/clusters/c-1"
			},
			want: []string{"HTTP 404", `"/k8s/clusters/c-1"`}},
		{name: "overloaded", arrange: breaking(jwks, fake.FaultStatus(429)), want: []string{"overloaded", "HTTP 429", "7 s", "later"}},
		{name: "not ready", arrange: breaking("", fake.FaultStatus(503)), want: []string{"not ready", "HTTP 503", "later"}},
		{name: "internal error", arrange: breaking(jwks, fake.FaultStatus(500)), want: []string{"HTTP 500", jwks, "log"}},
		{name: "method refused", arrange: breaking(jwks, fake.FaultStatus(405)), want: []string{"HTTP 405", jwks, "proxy"}},
		{name: "media type refused", arrange: breaking(jwks, fake.FaultStatus(406)), want: []string{"HTTP 406", jwks, "proxy"}},
		{name: "teapot", arrange: breaking(jwks, fake.FaultStatus(418)), want: []string{"unexpected HTTP status 418", jwks}},
		{name: "redirect", arrange: breaking("", fake.FaultRedirect("https://user:secret-of-the-page@login.example.com/?next=x")),
			want: []string{"redirects", `"login.example.com"`, "HTTP 302", "kubeconfig's server"}},
		{name: "login page", arrange: breaking("", fake.FaultHTML()), want: []string{`"text/html"`, "not JSON", "login page", "kubeconfig's server"}},
		{name: "document is no object", arrange: breaking("/.well-known/openid-configuration", fake.FaultBody(200, "application/json", `["secret-of-the-page"]`)),
			want: []string{"/.well-known/openid-configuration", "not a JSON object"}},
		{name: "keys are empty", arrange: breaking(jwks, fake.FaultBody(200, "application/jwk-set+json", `{"keys":[]}`)), want: []string{jwks, "no usable key"}},
		{name: "huge answer", arrange: breaking(jwks, fake.FaultHuge()), want: []string{jwks, "larger than 1048576 bytes"}},
		{name: "answer breaks off", arrange: breaking(jwks, fake.FaultTruncated()), want: []string{jwks}},
		{name: "no answer", config: kube.Config{Timeout: 50 * time.Millisecond}, is: context.DeadlineExceeded, arrange: breaking("", fake.FaultHang()),
			want: []string{"no answer within 50ms", "firewall"}},
		{name: "namespace fails", arrange: breaking("/api/v1/namespaces/kube-system", fake.FaultStatus(500)), want: []string{"kube-system", "HTTP 500"}},
		{name: "namespace is a page", arrange: breaking("/api/v1/namespaces/kube-system", fake.FaultHTML()), want: []string{"kube-system", "not JSON"}},
		{name: "namespace without UID", arrange: breaking("/api/v1/namespaces/kube-system", fake.FaultBody(200, "application/json", `{"metadata":{"uid":""}}`)),
			want: []string{"kube-system", "UID"}},
		{name: "nothing listens", arrange: func(e *fake.APIServer, _ *fake.Kubeconfig) { e.Stop() },
			want: []string{"can't connect", "down", "wrong address or port"}},
		{name: "CA of another cluster",
			arrange: func(_ *fake.APIServer, k *fake.Kubeconfig) {
				k.CA = fake.StartAPIServer(t, fake.APIServerOptions{Algorithm: "ES256"}).CA()
			},
			want: []string{"not issued by the CA", "certificate-authority-data"}},
		{name: "certificate for other names", options: fake.APIServerOptions{Names: []string{"k8s.internal"}},
			want: []string{"other names", "tls-server-name"}},
		{name: "certificate expired", options: fake.APIServerOptions{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)},
			want: []string{"expired on 20", "kubeadm certs renew"}},
		{name: "certificate not yet valid", options: fake.APIServerOptions{NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)},
			want: []string{"valid only from 20", "clock"}},
		{name: "plain http to the TLS port",
			arrange: func(_ *fake.APIServer, k *fake.Kubeconfig) {
				k.Server = strings.Replace(k.Server, "https://", "http://", 1)
			},
			want: []string{"HTTP 400", "https"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c errorCase) run(t *testing.T) {
	e := embedded(t, c.options)
	k := e.Kubeconfig("publisher")
	if c.arrange != nil {
		c.arrange(e, &k)
	}
	_, err := source(t, k, c.config).Fetch(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range append(c.want, "API server "+e.Address()) {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if c.is != nil && !errors.Is(err, c.is) {
		t.Errorf("does not wrap %q: %v", c.is, err)
	}
	for _, secret := range []string{k.Token, "secret-of-the-page"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("repeats a secret: %v", err)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("not one line of text: %q", err)
	}
}

func TestFetchOfAHostWithoutName(t *testing.T) {
	s := source(t, fake.Kubeconfig{Server: "https://api.cluster.invalid:6443", Token: "secret"}, kube.Config{})
	_, err := s.Fetch(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"api.cluster.invalid:6443", `"api.cluster.invalid"`, "DNS"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestFetchOfATLSClientAtAPlainServer(t *testing.T) {
	plain := newPlainServer(t, http.NotFoundHandler())
	_, err := source(t, fake.Kubeconfig{Server: "https://" + plain, Token: "secret"}, kube.Config{}).Fetch(t.Context())
	if err == nil || !strings.Contains(err.Error(), "plain HTTP") {
		t.Errorf("got %v", err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	e.Break("/openid/v1/jwks", func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	})
	if _, err := source(t, e.Kubeconfig("publisher"), kube.Config{}).Fetch(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	e.Break("", fake.FaultHang())
	_, err := source(t, e.Kubeconfig("publisher"), kube.Config{}).Fetch(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "before the deadline") {
		t.Errorf("got %v", err)
	}
}

func TestNewErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := filepath.Join(dir, "good")
	if err := (fake.Kubeconfig{Server: "https://127.0.0.1:6443", Context: "prod"}).Write(good); err != nil {
		t.Fatal(err)
	}
	insecure := filepath.Join(dir, "insecure")
	if err := (fake.Kubeconfig{Server: "https://127.0.0.1:6443", Insecure: true}).Write(insecure); err != nil {
		t.Fatal(err)
	}
	contexts := "apiVersion: v1\nkind: Config\ncontexts:\n- {name: staging, context: {cluster: c}}\n- {name: prod, context: {cluster: c}}\n"
	t.Setenv("KUBECONFIG", filepath.Join(dir, "absent"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, c := range []struct {
		name   string
		config kube.Config
		want   []string
	}{
		{"nothing at all", kube.Config{}, []string{filepath.Join(dir, "absent"), "not a pod", "--kubeconfig"}},
		{"missing file", kube.Config{Kubeconfig: filepath.Join(dir, "none")}, []string{filepath.Join(dir, "none"), "no such file"}},
		{"directory", kube.Config{Kubeconfig: dir}, []string{dir}},
		{"garbage", kube.Config{Kubeconfig: write("garbage", "{[")}, []string{"garbage"}},
		{"empty file", kube.Config{Kubeconfig: write("empty", "")}, []string{"no kubeconfig at", "empty"}},
		{"unknown context", kube.Config{Kubeconfig: good, Context: "stagin"}, []string{`no context "stagin"`, `it has "prod"`}},
		{"context without file", kube.Config{Context: "prod"}, []string{`no context "prod"`}},
		{"no current context", kube.Config{Kubeconfig: write("contexts", contexts)}, []string{"no current context", "--context", `"prod", "staging"`}},
		{"dangling current context", kube.Config{Kubeconfig: write("dangling", contexts+"current-context: dev\n")}, []string{`no context "dev"`, `"prod", "staging"`}},
		{"bad canary", kube.Config{Kubeconfig: good, Canary: "default"}, []string{`"default"`, "NAMESPACE/NAME"}},
		{"bad canary namespace", kube.Config{Kubeconfig: good, Canary: "../x"}, []string{"NAMESPACE/NAME"}},
		{"all of an unverified cluster", kube.Config{Kubeconfig: insecure, AllAPIServers: true}, []string{"CA", "certificate-authority-data"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := kube.New(c.config)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}
