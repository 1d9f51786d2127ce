package fake_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

const (
	standInIssuer = "https://issuer.example.com"
	googlePool    = "projects/1/locations/global/workloadIdentityPools/pool"
	googleTarget  = googlePool + "/providers/cluster"
	cloudAudience = "https://api.cloudsmith.io"
)

// tenant is an API server with a published issuer.
func tenant(t *testing.T) (*fake.Internet, *fake.APIServer) {
	t.Helper()
	internet := fake.NewInternet(t)
	api := fake.StartAPIServer(t, fake.APIServerOptions{Issuer: standInIssuer})
	api.AddServiceAccount("team", "puller")
	internet.Route("issuer.example.com", api.PublicSite())
	return internet, api
}

func mint(t *testing.T, api *fake.APIServer, audience string, life time.Duration) string {
	t.Helper()
	token, err := api.MintToken("team", "puller", audience, life)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func postJSON(t *testing.T, target string, header http.Header, body any) (int, map[string]any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return post(t, target, "application/json", header, data)
}

func post(t *testing.T, target, kind string, header http.Header, body []byte) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func TestCloudsmithStandIn(t *testing.T) {
	internet, api := tenant(t)
	c := fake.StartCloudsmith(t, internet)
	c.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: standInIssuer, Services: []string{"puller"},
		Claims: map[string]string{"aud": cloudAudience, "sub": "system:serviceaccount:team:.*"},
	})
	c.AddProvider("narrow", fake.CloudsmithProvider{
		Issuer: standInIssuer, Services: []string{"puller"}, Claims: map[string]string{"sub": "system:serviceaccount:other:.*"},
	})
	good := mint(t, api, cloudAudience, time.Hour)
	for _, c2 := range []struct {
		name, org, token, slug string
		want                   int
	}{
		{"good", "acme", good, "puller", http.StatusCreated},
		{"another audience", "acme", mint(t, api, "other", time.Hour), "puller", http.StatusUnauthorized},
		{"expired", "acme", mint(t, api, cloudAudience, -time.Hour), "puller", http.StatusUnauthorized},
		{"forged", "acme", good[:len(good)-8] + "AAAAAAAA", "puller", http.StatusUnauthorized},
		{"another subject", "narrow", good, "puller", http.StatusUnauthorized},
		{"no such organisation", "nobody", good, "puller", http.StatusUnauthorized},
		{"another service", "acme", good, "admin", http.StatusBadRequest},
		{"no service", "acme", good, "", http.StatusUnprocessableEntity},
	} {
		t.Run(c2.name, func(t *testing.T) {
			status, answer := postJSON(t, c.URL+"/openid/"+c2.org+"/", nil, map[string]string{"oidc_token": c2.token, "service_slug": c2.slug})
			token, _ := answer["token"].(string)
			if status != c2.want || c.Authenticates("token", token) != (c2.want == http.StatusCreated) {
				t.Errorf("status %d, want %d: %v", status, c2.want, answer)
			}
		})
	}
	c.Next(fake.Throttled(time.Hour))
	if status, answer := postJSON(t, c.URL+"/openid/acme/", nil, map[string]string{}); status != http.StatusTooManyRequests {
		t.Errorf("status %d: %v", status, answer)
	}
}

func TestGoogleStandIn(t *testing.T) {
	internet, api := tenant(t)
	g := fake.StartGoogle(t, internet)
	g.AddProvider(fake.GoogleProvider{
		Name: googleTarget, Issuer: standInIssuer,
		Condition: func(claims map[string]any) bool { return claims["sub"] != "system:serviceaccount:team:stranger" },
	})
	api.AddServiceAccount("team", "stranger")
	stranger, err := api.MintToken("team", "stranger", "//iam.googleapis.com/"+googleTarget, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good := mint(t, api, "https://iam.googleapis.com/"+googleTarget, 30*time.Minute)
	form := func(target, token string) []byte {
		return []byte(url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {"//iam.googleapis.com/" + target},
			"scope": {"https://www.googleapis.com/auth/cloud-platform"}, "requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "subject_token": {token},
		}.Encode())
	}
	const kind = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		name, target, token, want string
		status                    int
	}{
		{"another audience", googleTarget, mint(t, api, "other", time.Hour), "invalid_grant", 400},
		{"expired", googleTarget, mint(t, api, "other", -time.Hour), "invalid_grant", 400},
		{"no such provider", googlePool + "/providers/none", good, "invalid_target", 400},
		{"the condition", googleTarget, stranger, "unauthorized_client", 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, answer := post(t, g.URL+"/v1/token", kind, nil, form(c.target, c.token)); status != c.status || answer["error"] != c.want {
				t.Errorf("status %d, %v, want %d %s", status, answer, c.status, c.want)
			}
		})
	}
	status, answer := post(t, g.URL+"/v1/token", kind, nil, form(googleTarget, good))
	federated, _ := answer["access_token"].(string)
	if life, _ := answer["expires_in"].(float64); status != http.StatusOK || life > 1800 || !g.Authenticates("oauth2accesstoken", federated) {
		t.Fatalf("status %d, expires in %v", status, answer["expires_in"])
	}
	status, answer = postJSON(t, g.URL+"/v1/token", nil, map[string]string{
		"grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": "//iam.googleapis.com/" + googleTarget,
		"scope": "https://www.googleapis.com/auth/cloud-platform", "requestedTokenType": "urn:ietf:params:oauth:token-type:access_token",
		"subjectTokenType": "urn:ietf:params:oauth:token-type:jwt", "subjectToken": good,
	})
	if status != http.StatusOK {
		t.Errorf("JSON: status %d, %v", status, answer["error"])
	}

	const email = "puller@acme.iam.gserviceaccount.com"
	generate := g.URL + "/v1/projects/-/serviceAccounts/" + email + ":generateAccessToken"
	bearer := http.Header{"Authorization": {"Bearer " + federated}}
	demand := map[string]any{"scope": []string{"https://www.googleapis.com/auth/cloud-platform"}, "lifetime": "600s"}
	if status, answer = postJSON(t, generate, bearer, demand); status != http.StatusForbidden || !strings.Contains(fmt.Sprint(answer), "IAM_PERMISSION_DENIED") {
		t.Errorf("unbound: status %d, %v", status, answer)
	}
	g.Bind(email, "principal://iam.googleapis.com/"+googlePool+"/subject/system:serviceaccount:team:puller")
	status, answer = postJSON(t, generate, bearer, demand)
	access, _ := answer["accessToken"].(string)
	if status != http.StatusOK || !g.Authenticates("oauth2accesstoken", access) {
		t.Errorf("bound: status %d", status)
	}
	if status, _ = postJSON(t, generate, nil, demand); status != http.StatusUnauthorized {
		t.Errorf("without a token: status %d", status)
	}
	g.Expire()
	if g.Authenticates("oauth2accesstoken", access) {
		t.Error("an expired token is taken")
	}
}

type oneAccount struct{ user, password string }

func (a oneAccount) Authenticates(user, password string) bool {
	return user == a.user && password == a.password
}

// TestRegistry: skopeo, which none of us wrote, pulls with a credential of the
// accounts and with no other.
func TestRegistry(t *testing.T) {
	skopeo := testserver.Require(t, "skopeo")
	r := testserver.Registry(t, oneAccount{"token", "good"})
	image := r.Push(t, "acme/app", "v1", testserver.Image{Files: map[string][]byte{"/app": []byte("#!/bin/sh\n")}, Entrypoint: []string{"/app"}})
	for password, works := range map[string]bool{"good": true, "bad": false} {
		dir := t.TempDir()
		auths := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, r.Host, basic("token", password))
		file := filepath.Join(dir, "config.json")
		if err := os.WriteFile(file, []byte(auths), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", "--authfile", file, "docker://"+image, "dir:"+filepath.Join(dir, "out")).CombinedOutput()
		if (err == nil) != works {
			t.Errorf("password %s: %v\n%s", password, err, out)
		}
	}
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
