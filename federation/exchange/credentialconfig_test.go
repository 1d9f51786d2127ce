package exchange_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
)

// TestCredentialConfigWithGooglesLibrary exchanges with the file that is printed, and so do we.
func TestCredentialConfigWithGooglesLibrary(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "token")
	subject := w.token(t, "//iam.googleapis.com/"+provider, time.Hour)
	if err := os.WriteFile(file, []byte(subject.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	config := exchange.GCPConfig{Provider: provider, ServiceAccount: account, Lifetime: 10 * time.Minute, STSURL: w.google.URL, IAMURL: w.google.URL}
	text, err := config.CredentialConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Timeout: 10 * time.Second})
	credentials, err := google.CredentialsFromJSONWithTypeAndParams(ctx, text, google.ExternalAccount, google.CredentialsParams{Scopes: []string{exchange.CloudPlatform}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := credentials.TokenSource.Token()
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(token.Expiry); !w.google.Authenticates("oauth2accesstoken", token.AccessToken) || life > 10*time.Minute {
		t.Errorf("it lives for %v", life)
	}

	read, source, err := exchange.ReadCredentialConfig(text, w.google.URL, w.google.URL)
	if err != nil {
		t.Fatal(err)
	}
	if read.ServiceAccount != account || read.Lifetime != 10*time.Minute || source.Path != file {
		t.Errorf("read %+v, token in %q", read, source.Path)
	}
	e, err := exchange.GCP(read)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(source.Path)
	if err != nil {
		t.Fatal(err)
	}
	given, err := source.Token(content)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Exchange(t.Context(), given); err != nil {
		t.Error(err)
	}
}

func TestCredentialConfigIsNotTrusted(t *testing.T) {
	good, err := exchange.GCPConfig{Provider: provider, ServiceAccount: account}.CredentialConfig("/token")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"external_account", "service_account", "not external_account"},
		{"https://sts.googleapis.com", "https://sts.googleapis.com.evil.example.com", "token_url"},
		{"https://sts.googleapis.com", "http://sts.googleapis.com", "token_url"},
		{"https://sts.googleapis.com", "https://user@sts.googleapis.com", "token_url"},
		{"https://sts.googleapis.com/v1", "https://storage.googleapis.com/evil/v1", "token_url"},
		{"https://sts.googleapis.com", "http://127.0.0.1:8080", "token_url"},
		{"https://sts.googleapis.com", "http://sts.us-east4.rep.googleapis.com", "token_url"},
		{"https://sts.googleapis.com", "https://sts.us-east4.rep.googleapis.com:8443", "token_url"},
		{"https://sts.googleapis.com", "https://sts.us-east4.evil.rep.googleapis.com", "token_url"},
		{"https://sts.googleapis.com", "https://storage.us-east4.rep.googleapis.com", "token_url"},
		{"https://iamcredentials.googleapis.com", "https://evil.example.com", "service_account_impersonation_url"},
		{":generateAccessToken", ":signBlob", "service_account_impersonation_url"},
		{`"file": "/token"`, `"url": "https://evil.example.com"`, `"url"`},
		{`"file": "/token"`, `"executable": {"command": "/bin/true"}`, `"executable"`},
		{`"file": "/token"`, `"environment_id": "aws1"`, `"environment_id"`},
		{`"file": "/token"`, `"certificate": {}`, `"certificate"`},
		{`"file": "/token"`, `"file": ""`, "names no file"},
		{`"type": "text"`, `"type": "json"`, "format"},
		{`"type": "external_account"`, `"type": "external_account", "universe_domain": "evil.example.com"`, "universe"},
		{"token-type:jwt", "token-type:saml2", "subject token"},
		{"projects/123456789", "projects/acme", "requires its number"},
	} {
		data := strings.Replace(string(good), c.old, c.new, 1)
		if data == string(good) {
			t.Fatalf("%q is not in the file", c.old)
		}
		if _, _, err := exchange.ReadCredentialConfig([]byte(data), "", ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.new, err, c.want)
		}
	}
}

func TestInvalidConfigurations(t *testing.T) {
	for want, config := range map[string]exchange.CloudsmithConfig{
		"organisation":       {Service: "s"},
		"service account":    {Org: "o"},
		`"../evil"`:          {Org: "../evil", Service: "s"},
		`".."`:               {Org: "..", Service: "s"},
		"must be https":      {Org: "o", Service: "s", URL: "http://api.example.com"},
		"not a URL":          {Org: "o", Service: "s", URL: "api.cloudsmith.io"},
		"not contain a user": {Org: "o", Service: "s", URL: "https://user:pass@api.example.com"},
	} {
		if _, err := exchange.Cloudsmith(config); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pass@") {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	for want, config := range map[string]exchange.GCPConfig{
		"not the name":           {Provider: "cluster-a"},
		"requires its number":    {Provider: strings.Replace(provider, "123456789", "acme", 1)},
		"not the e-mail":         {Provider: provider, ServiceAccount: "puller/../x@acme.com"},
		"only with a service":    {Provider: provider, Lifetime: time.Hour},
		"up to 12h":              {Provider: provider, ServiceAccount: account, Lifetime: 13 * time.Hour},
		"Security Token Service": {Provider: provider, STSURL: "http://sts.example.com"},
		"IAM Credentials API":    {Provider: provider, IAMURL: "ftp://iam.example.com"},
	} {
		if _, err := exchange.GCP(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestRefuseAPIToken(t *testing.T) {
	w := newWorld(t)
	for audience, refused := range map[string]bool{
		"https://api.cloudsmith.io": false, "//iam.googleapis.com/" + provider: false,
		issuer: true, "https://kubernetes.default.svc": true, "https://kubernetes.default.svc.cluster.local": true, "kubernetes": true,
		issuer + "/": true, "api": true, "kubernetes.default.svc": true, "https://kubernetes.default.svc.k8s.example.com": true, "https://Kubernetes.default:443/": true,
		"https://old-issuer.example.com": false, "https://kubernetes.default.example.com": false, "kubernetes-pulls": false, // can't be known
	} {
		if err := exchange.RefuseAPIToken(w.token(t, audience, time.Hour), "/token"); (err != nil) != refused {
			t.Errorf("audience %s: error %v", audience, err)
		}
	}
	for claims, refused := range map[string]bool{
		`{"iss":"https://a.example.com"}`:                                                   true,
		`{"iss":"https://a.example.com","aud":[]}`:                                          true,
		`{"iss":"https://a.example.com","aud":"https://a.example.com"}`:                     true,
		`{"iss":"https://a.example.com","aud":["vault","https://a.example.com"]}`:           true,
		`{"iss":"https://a.example.com","aud":["https://a.example.com/"]}`:                  true,
		`{"iss":"https://a.example.com/","aud":["https://a.example.com/"]}`:                 true,
		`{"iss":"https://a.example.com","aud":["vault","https://kubernetes.default.svc/"]}`: true,
		`{"iss":"https://a.example.com","aud":["vault","https://b.example.com"]}`:           false,
	} {
		token := discovery.NewToken("e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln")
		var own *exchange.APITokenError
		if err := exchange.RefuseAPIToken(token, ""); errors.As(err, &own) != refused {
			t.Errorf("%s: error %v", claims, err)
		}
	}
	for _, file := range []string{"/var/run/secrets/kubernetes.io/serviceaccount/token", "/run/secrets/kubernetes.io/../kubernetes.io/serviceaccount/token"} {
		if exchange.RefuseAPIToken(w.token(t, "other", time.Hour), file) == nil {
			t.Errorf("the token at %s is taken", file)
		}
	}
}

// TestOnlyTokensAreSent: a file that was named by mistake may hold any secret.
func TestOnlyTokensAreSent(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(server.Close)
	atCloudsmith, err := exchange.Cloudsmith(exchange.CloudsmithConfig{Org: "acme", Service: "puller", URL: server.URL, Calling: quick()})
	if err != nil {
		t.Fatal(err)
	}
	atGoogle, err := exchange.GCP(exchange.GCPConfig{Provider: provider, STSURL: server.URL, IAMURL: server.URL, Calling: quick()})
	if err != nil {
		t.Fatal(err)
	}
	const header, claims, seal = `{"alg": "RS256"}`, `{"iss": "i", "sub": "s", "aud": ["a"]}`, "seal"
	jwt := func(parts ...string) string {
		for i, part := range parts {
			parts[i] = base64.RawURLEncoding.EncodeToString([]byte(part))
		}
		return strings.Join(parts, ".")
	}
	for name, given := range map[string]string{
		"nothing":           "",
		"a private key":     "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
		"a kubeconfig":      "apiVersion: v1\nkind: Config\nusers: [{user: {token: abc.def.ghi}}]",
		"an opaque token":   "f6a2e1c0d9b8473a",
		"dots":              "a.b.c",
		"a host":            "api.cloudsmith.io",
		"two parts":         jwt(header, claims),
		"no algorithm":      jwt(`{}`, claims, seal),
		"no issuer":         jwt(header, `{"sub": "s", "aud": "a"}`, seal),
		"no subject":        jwt(header, `{"iss": "i", "aud": "a"}`, seal),
		"no audience":       jwt(header, `{"iss": "i", "sub": "s"}`, seal),
		"an empty audience": jwt(header, `{"iss": "i", "sub": "s", "aud": [""]}`, seal),
		"no signature":      jwt(header, claims, ""),
		"five parts":        jwt(header, claims, seal, seal, seal),
		"two lines":         jwt(header, claims) + ".\n" + jwt(seal),
		"two tokens":        jwt(header, claims, seal) + "\n" + jwt(header, claims, seal),
	} {
		for _, service := range []exchange.Exchanger{atCloudsmith, atGoogle} {
			if _, err := service.Exchange(t.Context(), discovery.NewToken(given)); !errors.Is(err, exchange.ErrNoSubject) {
				t.Errorf("%s: error %v", name, err)
			}
		}
	}
	if asked.Load() != 0 {
		t.Errorf("%d requests were sent", asked.Load())
	}
	if _, err := atCloudsmith.Exchange(t.Context(), discovery.NewToken(jwt(header, claims, seal))); err == nil || asked.Load() == 0 {
		t.Errorf("a token was not sent: %v", err)
	}
}
