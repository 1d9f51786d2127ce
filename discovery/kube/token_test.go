package kube_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
)

func TestMintToken(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	s := source(t, e.Kubeconfig("publisher"), kube.Config{})
	token, err := s.MintToken(t.Context(), "default", "default", "https://relying.example.com", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token.Reveal(), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	key, found := fetch(t, s).Keys.Lookup(parsed.Headers[0].KeyID)
	if !found {
		t.Fatalf("key %q is not published", parsed.Headers[0].KeyID)
	}
	var claims jwt.Claims
	if err := parsed.Claims(key.Public(), &claims); err != nil {
		t.Fatal(err)
	}
	expected := jwt.Expected{Issuer: e.Issuer(), Subject: "system:serviceaccount:default:default", AnyAudience: jwt.Audience{"https://relying.example.com"}}
	if err := claims.Validate(expected); err != nil {
		t.Error(err)
	}
	if life := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); life != time.Hour {
		t.Errorf("valid for %v", life)
	}
}

func TestMintTokenErrors(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	e.AddServiceAccount("apps", "web")
	e.Grant("reader", fake.RightDiscovery)
	for _, c := range []struct {
		name, user              string
		namespace, sa, audience string
		expiry                  time.Duration
		fault                   fake.Fault
		want                    []string
	}{
		{name: "no right", user: "reader", namespace: "apps", sa: "web", want: []string{`user "reader"`, "HTTP 403",
			"kubectl create role oidc-publisher-mint-web --namespace=apps --verb=create --resource=serviceaccounts/token --resource-name=web",
			"kubectl create rolebinding oidc-publisher-mint-web --namespace=apps --role=oidc-publisher-mint-web --user=reader"}},
		{name: "no account", namespace: "apps", sa: "wbe", want: []string{`"apps/wbe" does not exist`, "kubectl create serviceaccount wbe --namespace=apps"}},
		{name: "no namespace", namespace: "app", sa: "web", want: []string{`namespace "app" does not exist`, "kubectl create namespace app"}},
		{name: "unknown token", user: "-", namespace: "apps", sa: "web", want: []string{"HTTP 401"}},
		{name: "no account name", namespace: "apps", sa: "", want: []string{`"apps/"`}},
		{name: "name that leaves the path", namespace: "apps", sa: "..", want: []string{`"apps/.."`}},
		{name: "no audience", namespace: "apps", sa: "web", audience: "-", want: []string{"audience"}},
		{name: "too short", namespace: "apps", sa: "web", expiry: time.Minute, want: []string{"1m0s", "10m0s"}},
		{name: "too long", namespace: "apps", sa: "web", expiry: 200 * 365 * 24 * time.Hour, want: []string{"can't be valid"}},
		{name: "foreign 404", namespace: "apps", sa: "web", fault: fake.FaultBody(404, "text/plain", "nope"), want: []string{"not from an API server"}},
		{name: "no token in the answer", namespace: "apps", sa: "web", fault: fake.FaultBody(201, "application/json", `{"status":{}}`), want: []string{"holds no token"}},
		{name: "login page", namespace: "apps", sa: "web", fault: fake.FaultBody(201, "text/html", "<html>"), want: []string{"not JSON"}},
		{name: "overloaded", namespace: "apps", sa: "web", fault: fake.FaultStatus(429), want: []string{"HTTP 429"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.Repair()
			if c.fault != nil {
				e.Break("", c.fault)
			}
			k := e.Kubeconfig(orElse(c.user, "publisher"))
			if c.user == "-" {
				k.Token = "stale"
			}
			if c.audience = orElse(c.audience, "aud"); c.audience == "-" {
				c.audience = ""
			}
			if c.expiry == 0 {
				c.expiry = time.Hour
			}
			_, err := source(t, k, kube.Config{}).MintToken(t.Context(), c.namespace, c.sa, c.audience, c.expiry)
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

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func TestCanaryIsNotNeeded(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	e.AddServiceAccount("oidc", "publisher")
	account := "system:serviceaccount:oidc:publisher"
	own, err := e.MintToken("oidc", "publisher", "aud", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	e.SetToken(account, own)
	e.Grant(account, fake.RightDiscovery)
	e.Grant("reader", fake.RightDiscovery)
	const tokens = "/api/v1/namespaces/default/serviceaccounts/default/token"
	for _, c := range []struct {
		name, user, canary string
		fault              fake.Fault
		want               []string
	}{
		{name: "no right", user: "reader", want: []string{"default/default", "--resource-name=default", "--user=reader"}},
		{name: "no right for itself", user: account, want: []string{"oidc/publisher", "--resource-name=publisher", "--serviceaccount=oidc:publisher"}},
		{name: "no such account", user: "publisher", canary: "default/canary", want: []string{"default/canary", "kubectl create serviceaccount canary --namespace=default"}},
		{name: "server fails", user: "publisher", fault: fake.FaultStatus(500), want: []string{"HTTP 500"}},
		{name: "no JWT", user: "publisher", fault: fake.FaultBody(201, "application/json", `{"status":{"token":"secret.secret.secret"}}`), want: []string{"not a JWT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.Repair()
			if c.fault != nil {
				e.Break(tokens, c.fault)
			}
			got := fetch(t, source(t, e.Kubeconfig(c.user), kube.Config{Canary: c.canary}))
			if got.Canary != nil {
				t.Errorf("canary %+v", got.Canary)
			}
			if len(got.Warnings) != 1 {
				t.Fatalf("warnings %q", got.Warnings)
			}
			for _, want := range append(c.want, "signing key could not be checked", e.Address()) {
				if !strings.Contains(got.Warnings[0], want) {
					t.Errorf("%q is not in: %s", want, got.Warnings[0])
				}
			}
			if strings.Contains(got.Warnings[0], "secret") || strings.Contains(got.Warnings[0], own) {
				t.Errorf("repeats a token: %s", got.Warnings[0])
			}
		})
	}
}

func TestCanaryAccounts(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	e.AddServiceAccount("oidc", "publisher")
	e.AddServiceAccount("oidc", "canary")
	account := "system:serviceaccount:oidc:publisher"
	own, err := e.MintToken("oidc", "publisher", "aud", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	e.SetToken(account, own)
	e.Grant(account, fake.RightAll)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(own+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		k      fake.Kubeconfig
		canary string
		want   string
	}{
		{"default", e.Kubeconfig("publisher"), "", "default/default"},
		{"own", e.Kubeconfig(account), "", "oidc/publisher"},
		{"own from a file", fake.Kubeconfig{Server: e.URL(), CA: e.CA(), TokenFile: file}, "", "oidc/publisher"},
		{"configured", e.Kubeconfig(account), "oidc/canary", "oidc/canary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.Repair()
			namespace, name, _ := strings.Cut(c.want, "/")
			// Only the expected account's answer is left whole.
			var asked atomic.Bool
			e.Break("/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token", fake.FaultBefore(func() { asked.Store(true) }))
			got := fetch(t, source(t, c.k, kube.Config{Canary: c.canary}))
			if !asked.Load() || got.Canary == nil || got.Canary.KeyID != e.SigningKeyID() {
				t.Errorf("asked for %s: %v, canary %+v, warnings %q", c.want, asked.Load(), got.Canary, got.Warnings)
			}
		})
	}
}

func TestSigningKeyThatIsNotPublished(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	if _, err := e.AddKey("ES256"); err != nil {
		t.Fatal(err)
	}
	e.RemoveKey(e.SigningKeyID())
	got := fetch(t, source(t, e.Kubeconfig("publisher"), kube.Config{}))
	if got.Canary == nil || got.Canary.KeyID != e.SigningKeyID() {
		t.Fatalf("canary %+v", got.Canary)
	}
	if _, published := got.Keys.Lookup(got.Canary.KeyID); published {
		t.Error("the signing key is among the keys")
	}
}
