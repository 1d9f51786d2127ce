package explain_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/fake"
)

const (
	issuer   = "https://issuer.example.com"
	usual    = "https://api.cloudsmith.io"
	pool     = "projects/123456789/locations/global/workloadIdentityPools/clusters"
	provider = pool + "/providers/cluster-a"
	account  = "puller@acme.iam.gserviceaccount.com"
)

// world is an issuer and two services that trust it; a test breaks one thing.
type world struct {
	api        *fake.APIServer
	internet   *fake.Internet
	cloudsmith *fake.Cloudsmith
	google     *fake.Google
	options    explain.Options
	audience   string
	life       time.Duration
	// remote has the services at their public names instead of on loopback.
	remote bool
}

func newWorld(t *testing.T, issuer string) *world {
	t.Helper()
	w := &world{internet: fake.NewInternet(t), api: fake.StartAPIServer(t, fake.APIServerOptions{Issuer: issuer}), life: time.Hour}
	w.api.AddServiceAccount("team", "puller")
	w.internet.Route(strings.TrimPrefix(issuer, "https://"), w.api.PublicSite())
	w.cloudsmith, w.google = fake.StartCloudsmith(t, w.internet), fake.StartGoogle(t, w.internet)
	w.cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: issuer, Services: []string{"puller"}, Claims: map[string]string{"aud": usual, "sub": "system:serviceaccount:team:.*"},
	})
	w.google.AddProvider(fake.GoogleProvider{Name: provider, Issuer: issuer})
	w.options = explain.Options{Org: "acme", ServiceSlug: "puller", Provider: provider, Transport: w.internet.Client().Transport}
	return w
}

// exchange exchanges the token and explains the refusal.
func (w *world) exchange(t *testing.T) explain.Explanation {
	t.Helper()
	token, err := w.api.MintToken("team", "puller", w.audience, w.life)
	if err != nil {
		t.Fatal(err)
	}
	w.options.Token = discovery.NewToken(token)
	calling := exchange.Calling{Transport: w.options.Transport}
	toCloudsmith := exchange.CloudsmithConfig{Org: w.options.Org, Service: w.options.ServiceSlug, Calling: calling}
	toGoogle := exchange.GCPConfig{Provider: w.options.Provider, ServiceAccount: w.options.ServiceAccount, Calling: calling}
	if w.remote {
		w.internet.Route("api.cloudsmith.io", w.cloudsmith)
		w.internet.Route("sts.googleapis.com", w.google)
	} else {
		toCloudsmith.URL, toGoogle.STSURL, toGoogle.IAMURL = w.cloudsmith.URL, w.google.URL, w.google.URL
		toCloudsmith.Transport, toGoogle.Transport = nil, nil
	}
	e, err := exchange.Cloudsmith(toCloudsmith)
	if w.options.Service == verify.GCP {
		e, err = exchange.GCP(toGoogle)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Exchange(t.Context(), w.options.Token)
	var refused *exchange.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("error %v, want a refusal", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := explain.Refusal(ctx, refused, w.options)
	for _, part := range strings.Split(token, ".") {
		if strings.Contains(got.Text(), part[:12]) {
			t.Error("the explanation has a piece of the token")
		}
	}
	if strings.ContainsFunc(got.Cause+got.Cure, func(r rune) bool { return !unicode.IsPrint(r) }) || got.Cure == "" {
		t.Errorf("cause %q, cure %q", got.Cause, got.Cure)
	}
	return got
}

// TestCauses: one thing is wrong, and the explanation names it.
func TestCauses(t *testing.T) {
	for _, c := range []struct {
		name     string
		services []verify.RelyingParty
		spoil    func(w *world)
		want     string
	}{
		{"not published", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) { w.internet.Route("issuer.example.com", http.NotFoundHandler()) }, "nothing is published at this address"},
		{"not public", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) {
			w.internet.Route("issuer.example.com", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) }))
		}, "is not public"},
		{"no such host", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) { w.internet.Route("issuer.example.com", nil) }, "could not be checked from here"},
		{"another issuer is public", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) {
			face := w.api.PublicSite()
			w.api.SetIssuer(issuer + "/")
			w.internet.Route("issuer.example.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				w.api.SetIssuer(issuer)
				face.ServeHTTP(rw, r)
			}))
		}, "slash"},
		{"the key is new", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) {
			if _, err := w.api.Rotate("RS256"); err != nil {
				panic(err)
			}
			w.api.RemoveKey(w.api.SigningKeyID())
		}, "the key that signed the token is not public"},
		{"expired", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) { w.life = -time.Hour }, "expired"},
		{"wrong audience", []verify.RelyingParty{verify.Cloudsmith, verify.GCP}, func(w *world) { w.audience = "vault" }, `the token is for the audience "vault"`},
		{"wrong slug", []verify.RelyingParty{verify.Cloudsmith}, func(w *world) { w.options.ServiceSlug = "admin" }, `no service account "admin"`},
		{"wrong organisation", []verify.RelyingParty{verify.Cloudsmith}, func(w *world) { w.options.Org = "nobody" }, `no enabled OpenID Connect provider of the organisation "nobody"`},
		{"wrong provider", []verify.RelyingParty{verify.GCP}, func(w *world) { w.options.Provider += "2" }, "the provider does not exist"},
		{"the provider has another issuer", []verify.RelyingParty{verify.GCP}, func(w *world) {
			w.google.AddProvider(fake.GoogleProvider{Name: provider, Issuer: issuer + "/other"})
		}, "the provider's issuer URI is not"},
		{"attribute condition", []verify.RelyingParty{verify.GCP}, func(w *world) {
			w.google.AddProvider(fake.GoogleProvider{Name: provider, Issuer: issuer, Condition: func(map[string]any) bool { return false }})
		}, "attribute condition rejects the subject \"system:serviceaccount:team:puller\""},
		{"no right on the service account", []verify.RelyingParty{verify.GCP}, func(w *world) { w.options.ServiceAccount = account },
			"principal://iam.googleapis.com/" + pool + "/subject/system:serviceaccount:team:puller lacks roles/iam.workloadIdentityUser on the service account " + account},
	} {
		for _, service := range c.services {
			t.Run(c.name+" at "+string(service), func(t *testing.T) {
				w := newWorld(t, issuer)
				w.options.Service, w.audience = service, usual
				if service == verify.GCP {
					w.audience = "https://iam.googleapis.com/" + provider
				}
				c.spoil(w)
				if got := w.exchange(t); !strings.Contains(got.Cause, c.want) {
					t.Errorf("cause %q, want %q", got.Cause, c.want)
				}
			})
		}
	}
}

// TestIssuerThatIsNotPublic: it is named first only where the service is out of
// its reach and nothing else is known to be wrong, and never left out.
func TestIssuerThatIsNotPublic(t *testing.T) {
	const (
		loopback, private, inside = "https://localhost", "https://10.1.2.3", "https://kubernetes.default.svc"
		remoteOnly                = "a loopback address reaches this machine only"
	)
	refuse := func(status int, body string) func(*world) {
		return func(w *world) {
			w.cloudsmith.Next(fake.AnswerWith(status, body))
			w.google.Next(fake.AnswerWith(status, body))
		}
	}
	vague := refuse(401, `{"detail": "OIDC token cannot be authenticated."}`)
	cantConnect := refuse(400, `{"error": "invalid_grant", "error_description": "Error connecting to the given credential's issuer."}`)
	for _, c := range []struct {
		name    string
		service verify.RelyingParty
		issuer  string
		remote  bool
		spoil   func(*world)
		want    string
		also    string // "" is for: nothing of the issuer's host
	}{
		{"loopback, nothing else", verify.Cloudsmith, loopback, true, vague, "the issuer https://localhost: " + remoteOnly, remoteOnly},
		{"private, nothing else", verify.Cloudsmith, private, true, vague, "the issuer https://10.1.2.3: the host is a private address", "private"},
		{"in the cluster, nothing else", verify.Cloudsmith, inside, true, vague, "the issuer https://kubernetes.default.svc: the name exists inside the cluster only", "inside"},
		{"nothing is published", verify.Cloudsmith, loopback, true, func(w *world) { vague(w); w.internet.Route("localhost", http.NotFoundHandler()) }, "the issuer https://localhost: " + remoteOnly, remoteOnly},
		{"other keys are published", verify.Cloudsmith, loopback, true, func(w *world) {
			vague(w)
			w.internet.Route("localhost", fake.StartAPIServer(t, fake.APIServerOptions{Issuer: loopback}).PublicSite())
		}, "the issuer https://localhost: " + remoteOnly, remoteOnly},
		{"audience", verify.Cloudsmith, loopback, true, func(w *world) { vague(w); w.audience = "vault" }, `the token is for the audience "vault"`, remoteOnly},
		{"expired", verify.Cloudsmith, loopback, true, func(w *world) { vague(w); w.life = -time.Hour }, "the token has expired", remoteOnly},
		{"expired in the cluster", verify.Cloudsmith, inside, true, func(w *world) { vague(w); w.life = -time.Hour }, "the token has expired", "inside the cluster only"},
		{"slug", verify.Cloudsmith, loopback, true, func(w *world) { w.options.ServiceSlug = "admin" }, `there is no service account "admin"`, ""},

		{"all on one machine", verify.Cloudsmith, loopback, false, vague, "issuer and token are valid, so no enabled OpenID Connect provider", ""},
		{"all in one network", verify.Cloudsmith, private, false, vague, "issuer and token are valid, so no enabled OpenID Connect provider", ""},
		{"audience on one machine", verify.Cloudsmith, loopback, false, func(w *world) { w.audience = "vault" }, `the token is for the audience "vault"`, ""},
		{"expired on one machine", verify.Cloudsmith, loopback, false, func(w *world) { w.life = -time.Hour }, "the token has expired", ""},
		{"nothing is published on one machine", verify.Cloudsmith, loopback, false, func(w *world) { w.internet.Route("localhost", http.NotFoundHandler()) }, "the issuer https://localhost: nothing is published at this address", ""},

		{"loopback, nothing else", verify.GCP, loopback, true, cantConnect, "the issuer https://localhost: " + remoteOnly, remoteOnly},
		{"in the cluster, nothing else", verify.GCP, inside, true, cantConnect, "the issuer https://kubernetes.default.svc: the name exists inside the cluster only", "inside"},
		{"uploaded keys, attribute condition", verify.GCP, inside, true, func(w *world) {
			w.google.AddProvider(fake.GoogleProvider{Name: provider, Issuer: inside, Condition: func(map[string]any) bool { return false }})
		}, "the provider's attribute condition rejects the subject", ""},
		{"uploaded keys, audience", verify.GCP, inside, true, func(w *world) { w.audience = "vault" }, `the token is for the audience "vault"`, ""},
	} {
		t.Run(c.name+" at "+string(c.service), func(t *testing.T) {
			w := newWorld(t, c.issuer)
			w.cloudsmith.AddProvider("acme", fake.CloudsmithProvider{Issuer: c.issuer, Services: []string{"puller"}, Claims: map[string]string{"aud": usual}})
			w.google.AddProvider(fake.GoogleProvider{Name: provider, Issuer: c.issuer})
			w.options.Service, w.audience, w.remote = c.service, usual, c.remote
			if c.service == verify.GCP {
				w.audience = "https://iam.googleapis.com/" + provider
			}
			c.spoil(w)
			got := w.exchange(t)
			if !strings.HasPrefix(got.Cause, c.want) {
				t.Errorf("cause %q, want %q", got.Cause, c.want)
			}
			want := 0
			if c.also != "" {
				want = 1
			}
			if says := strings.Count(got.Cause, cmp.Or(c.also, "reaches this machine only")); says != want {
				t.Errorf("cause %q", got.Cause)
			}
		})
	}
}

// TestTrust: what a person copies to the service's settings.
func TestTrust(t *testing.T) {
	w := newWorld(t, issuer)
	mint := func(audience string) discovery.Token {
		token, err := w.api.MintToken("team", "puller", audience, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return discovery.NewToken(token)
	}
	for _, c := range []struct {
		options explain.Options
		want    []string
	}{
		{explain.Options{Service: verify.Cloudsmith, Token: mint(usual), ServiceSlug: "puller"}, []string{
			"provider URL     " + issuer, `claims           {"aud":"` + usual + `","sub":"system:serviceaccount:team:puller"}`, "service account  puller",
		}},
		{explain.Options{Service: verify.GCP, Token: mint("https://iam.googleapis.com/" + provider), ServiceAccount: account}, []string{
			"principal          principal://iam.googleapis.com/" + pool + "/subject/system:serviceaccount:team:puller",
			"providers create-oidc cluster-a --project=123456789 --location=global --workload-identity-pool=clusters --issuer-uri=" + issuer + " --attribute-mapping=google.subject=assertion.sub\n",
			"gcloud iam service-accounts add-iam-policy-binding " + account + " --role=roles/iam.workloadIdentityUser --member=principal://",
		}},
		{explain.Options{Service: verify.GCP, Token: mint("it's")}, []string{
			"NUMBER, POOL and PROVIDER", ` --allowed-audiences='it'\''s'`, "gcloud artifacts repositories add-iam-policy-binding",
		}},
	} {
		claims, err := c.options.Token.Claims()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(explain.TrustOf(claims, c.options).Lines(), "\n") + "\n"
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("it lacks %q:\n%s", want, text)
			}
		}
	}
	if all := explain.Trusts([]verify.RelyingParty{verify.GCP}, discovery.NewToken("nonsense")); len(all) > 0 {
		t.Errorf("%+v", all)
	}
}
