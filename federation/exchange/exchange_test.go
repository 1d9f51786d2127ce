package exchange_test

import (
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/fake"
)

const (
	issuer   = "https://issuer.example.com"
	audience = "https://api.cloudsmith.io"
	pool     = "projects/123456789/locations/global/workloadIdentityPools/clusters"
	provider = pool + "/providers/cluster-a"
	account  = "puller@acme.iam.gserviceaccount.com"
	subject  = "system:serviceaccount:team:puller"
)

// world is an issuer that is published, and the two services that trust it.
type world struct {
	api        *fake.APIServer
	internet   *fake.Internet
	cloudsmith *fake.Cloudsmith
	google     *fake.Google
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{internet: fake.NewInternet(t), api: fake.StartAPIServer(t, fake.APIServerOptions{Issuer: issuer})}
	w.api.AddServiceAccount("team", "puller")
	w.internet.Route("issuer.example.com", w.api.PublicSite())
	w.cloudsmith, w.google = fake.StartCloudsmith(t, w.internet), fake.StartGoogle(t, w.internet)
	w.cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: issuer, Services: []string{"puller"}, Claims: map[string]string{"aud": audience, "sub": "system:serviceaccount:team:.*"},
	})
	w.google.AddProvider(fake.GoogleProvider{Name: provider, Issuer: issuer})
	w.google.Bind(account, "principal://iam.googleapis.com/"+pool+"/subject/"+subject)
	return w
}

func (w world) token(t *testing.T, audience string, life time.Duration) discovery.Token {
	t.Helper()
	token, err := w.api.MintToken("team", "puller", audience, life)
	if err != nil {
		t.Fatal(err)
	}
	return discovery.NewToken(token)
}

// quick are retries that a test can wait for.
func quick() exchange.Calling { return exchange.Calling{Backoff: time.Millisecond} }

func (w world) atCloudsmith(t *testing.T) exchange.Exchanger {
	t.Helper()
	e, err := exchange.Cloudsmith(exchange.CloudsmithConfig{Org: "acme", Service: "puller", URL: w.cloudsmith.URL, Calling: quick()})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w world) atGoogle(t *testing.T, change func(*exchange.GCPConfig)) exchange.Exchanger {
	t.Helper()
	config := exchange.GCPConfig{Provider: provider, ServiceAccount: account, STSURL: w.google.URL, IAMURL: w.google.URL, Calling: quick()}
	if change != nil {
		change(&config)
	}
	e, err := exchange.GCP(config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func wantLife(t *testing.T, got exchange.Credential, want time.Duration) {
	t.Helper()
	if life := time.Until(got.Expiry); life > want || life < want-time.Minute {
		t.Errorf("it lives for %v, want %v", life, want)
	}
}

func TestCloudsmith(t *testing.T) {
	w := newWorld(t)
	got, err := w.atCloudsmith(t).Exchange(t.Context(), w.token(t, audience, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if !w.cloudsmith.Authenticates(got.Username, got.Password.Reveal()) {
		t.Error("the registry does not take it")
	}
	wantLife(t, got, 2*time.Hour)
}

func TestGCP(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		change func(*exchange.GCPConfig)
		want   time.Duration
	}{
		"as a service account": {nil, time.Hour},
		"for ten minutes":      {func(c *exchange.GCPConfig) { c.Lifetime = 10 * time.Minute }, 10 * time.Minute},
		"as itself":            {func(c *exchange.GCPConfig) { c.ServiceAccount = "" }, 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := w.atGoogle(t, c.change).Exchange(t.Context(), w.token(t, "//iam.googleapis.com/"+provider, 30*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			if !w.google.Authenticates(got.Username, got.Password.Reveal()) {
				t.Error("the registry does not take it")
			}
			wantLife(t, got, c.want)
		})
	}
}
