package fake

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Cloudsmith stands in for api.cloudsmith.io, as far as its OpenID Connect
// exchange goes: POST /openid/ORG/ with the statuses and bodies of its API
// description. Its texts are as vague as the service's own.
type Cloudsmith struct {
	StandIn
	signer    jose.Signer
	providers map[string][]CloudsmithProvider // by organisation; set before use
}

// CloudsmithProvider is an OpenID Connect provider in an organisation's
// settings.
type CloudsmithProvider struct {
	// Issuer is the provider URL.
	Issuer string
	// Claims are required of the token. A value may end in the wildcard ".*".
	Claims map[string]string
	// Services are the slugs of the service accounts that it may act as.
	Services []string
}

// StartCloudsmith starts it and ends it with the test. Its tokens live for two
// hours.
func StartCloudsmith(t testing.TB, internet *Internet) *Cloudsmith {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(rand.Text() + rand.Text())}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	c := &Cloudsmith{signer: signer, providers: map[string][]CloudsmithProvider{}}
	c.start(t, internet, c, 2*time.Hour)
	return c
}

// AddProvider adds a provider to an organisation.
func (c *Cloudsmith) AddProvider(org string, provider CloudsmithProvider) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.providers[org] = append(c.providers[org], provider)
}

// Authenticates is what a registry asks: Cloudsmith's takes its own tokens
// from the user "token".
func (c *Cloudsmith) Authenticates(user, password string) bool {
	return user == "token" && c.valid(password)
}

func (c *Cloudsmith) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.intercept(w, r) {
		return
	}
	org, ok := strings.CutPrefix(r.URL.Path, "/openid/")
	org, slash := strings.CutSuffix(org, "/")
	switch {
	case !ok || !slash || org == "" || strings.Contains(org, "/"):
		AnswerJSON(w, http.StatusNotFound, map[string]string{"detail": "Not found."})
	case r.Method != http.MethodPost:
		AnswerJSON(w, http.StatusMethodNotAllowed, map[string]string{"detail": "Method not allowed."})
	default:
		c.exchange(w, r, org)
	}
}

func (c *Cloudsmith) exchange(w http.ResponseWriter, r *http.Request, org string) {
	var request struct {
		Token   string `json:"oidc_token"`
		Service string `json:"service_slug"`
	}
	body, err := readBody(r)
	if err != nil || json.Unmarshal(body, &request) != nil || request.Token == "" || request.Service == "" {
		fields := map[string][]string{}
		for name, value := range map[string]string{"oidc_token": request.Token, "service_slug": request.Service} {
			if value == "" {
				fields[name] = []string{"This field is required."}
			}
		}
		AnswerJSON(w, http.StatusUnprocessableEntity, map[string]any{"detail": "Invalid input.", "fields": fields})
		return
	}
	provider, ok := c.authenticate(r, org, request.Token)
	if !ok {
		AnswerJSON(w, http.StatusUnauthorized, map[string]string{"detail": "OIDC token cannot be authenticated."})
		return
	}
	if !strings.Contains(" "+strings.Join(provider.Services, " ")+" ", " "+request.Service+" ") {
		AnswerJSON(w, http.StatusBadRequest, map[string]string{"detail": "JWT cannot be created."})
		return
	}
	token, err := c.issue(org, request.Service)
	if err != nil {
		AnswerJSON(w, http.StatusInternalServerError, map[string]string{"detail": "Server error."})
		return
	}
	AnswerJSON(w, http.StatusCreated, map[string]string{"token": token})
}

// authenticate finds a provider of the token's issuer whose required claims the
// token has.
func (c *Cloudsmith) authenticate(r *http.Request, org, token string) (CloudsmithProvider, bool) {
	c.mu.Lock()
	providers := c.providers[org]
	c.mu.Unlock()
	for _, provider := range providers {
		if provider.Issuer != unverifiedIssuer(token) {
			continue
		}
		verified, err := c.verify(r.Context(), provider.Issuer, token)
		if err != nil {
			continue
		}
		var claims map[string]any
		if verified.Claims(&claims) == nil && meets(claims, provider.Claims) {
			return provider, true
		}
	}
	return CloudsmithProvider{}, false
}

// meets reports whether every required claim has the value.
func meets(claims map[string]any, required map[string]string) bool {
	for name, want := range required {
		found := false
		for _, got := range claimText(claims[name]) {
			prefix, wildcard := strings.CutSuffix(want, ".*")
			found = found || got == want || wildcard && strings.HasPrefix(got, prefix)
		}
		if !found {
			return false
		}
	}
	return true
}

func (c *Cloudsmith) issue(org, service string) (string, error) {
	expiry := time.Now().Add(c.life()).Truncate(time.Second)
	token, err := jwt.Signed(c.signer).Claims(map[string]any{
		"iss": "https://api.cloudsmith.io", "sub": service, "org": org,
		"iat": time.Now().Unix(), "exp": expiry.Unix(), "jti": rand.Text(),
	}).Serialize()
	if err != nil {
		return "", err
	}
	c.remember(token, expiry)
	return token, nil
}

// Throttled is Cloudsmith's answer to too many requests, for Next.
func Throttled(wait time.Duration) http.HandlerFunc {
	seconds := fmt.Sprint(int(wait.Seconds()))
	return AnswerWith(http.StatusTooManyRequests,
		`{"detail": "Request was throttled. Expected available in `+seconds+` seconds."}`,
		"Retry-After", seconds, "X-RateLimit-Limit", "1800", "X-RateLimit-Remaining", "0")
}

func decodePart(part string, into any) error {
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.NewDecoder(bytes.NewReader(data)).Decode(into)
}
