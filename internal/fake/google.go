package fake

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Google stands in for Google's Security Token Service (POST /v1/token, RFC
// 8693 as a form or as JSON) and the IAM Service Account Credentials API
// (POST /v1/projects/-/serviceAccounts/EMAIL:generateAccessToken).
type Google struct {
	StandIn
	providers  map[string]GoogleProvider // by name
	bindings   map[string][]string       // principals by service account
	principals map[string]string         // by federated token
}

// GoogleProvider is a workload identity pool provider.
type GoogleProvider struct {
	// Name is projects/N/locations/global/workloadIdentityPools/P/providers/X.
	Name string
	// Issuer is its issuer URI.
	Issuer string
	// Audiences are those allowed; none allows the provider's own name as
	// https://iam.googleapis.com/NAME, with or without the scheme.
	Audiences []string
	// Condition is the attribute condition, nil for none.
	Condition func(claims map[string]any) bool
}

// StartGoogle starts it and ends it with the test. Its tokens live for an hour.
func StartGoogle(t testing.TB, internet *Internet) *Google {
	t.Helper()
	g := &Google{providers: map[string]GoogleProvider{}, bindings: map[string][]string{}, principals: map[string]string{}}
	g.start(t, internet, g, time.Hour)
	return g
}

// AddProvider adds or replaces a provider.
func (g *Google) AddProvider(provider GoogleProvider) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.providers[provider.Name] = provider
}

// Bind grants roles/iam.workloadIdentityUser on a service account to a
// principal://iam.googleapis.com/… of a pool.
func (g *Google) Bind(email, principal string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bindings[email] = append(g.bindings[email], principal)
}

// Authenticates is what a registry asks: Google's takes access tokens from the
// user "oauth2accesstoken".
func (g *Google) Authenticates(user, password string) bool {
	return user == "oauth2accesstoken" && g.valid(password)
}

func (g *Google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.intercept(w, r) {
		return
	}
	account, isIAM := strings.CutPrefix(r.URL.Path, "/v1/projects/-/serviceAccounts/")
	email, isGenerate := strings.CutSuffix(account, ":generateAccessToken")
	switch {
	case r.Method != http.MethodPost:
		rpcError(w, http.StatusMethodNotAllowed, "INVALID_ARGUMENT", "Method not allowed.")
	case r.URL.Path == "/v1/token":
		g.exchange(w, r)
	case isIAM && isGenerate:
		g.impersonate(w, r, email)
	default:
		rpcError(w, http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.")
	}
}

func (g *Google) exchange(w http.ResponseWriter, r *http.Request) {
	p, err := exchangeParameters(r)
	if err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The request can't be read.")
		return
	}
	name, ok := strings.CutPrefix(p["audience"], "//iam.googleapis.com/")
	g.mu.Lock()
	provider, known := g.providers[name]
	g.mu.Unlock()
	switch {
	case p["grant_type"] != "urn:ietf:params:oauth:grant-type:token-exchange":
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "Unsupported grant type.")
	case p["subject_token"] == "" || p["scope"] == "" || p["subject_token_type"] != "urn:ietf:params:oauth:token-type:jwt" ||
		p["requested_token_type"] != "urn:ietf:params:oauth:token-type:access_token":
		oauthError(w, http.StatusBadRequest, "invalid_request", "A required parameter is missing or wrong.")
	case !ok || !known:
		oauthError(w, http.StatusBadRequest, "invalid_target", `The target service indicated by the "audience" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.`)
	default:
		g.federate(w, r, provider, p["subject_token"])
	}
}

// exchangeParameters reads a form, or JSON in either spelling of the names.
func exchangeParameters(r *http.Request) (map[string]string, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	p := map[string]string{}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(body))
		for name := range form {
			p[name] = form.Get(name)
		}
		return p, err
	}
	given := map[string]string{}
	if err := json.Unmarshal(body, &given); err != nil {
		return nil, err
	}
	for name, value := range given {
		var snake strings.Builder
		for _, letter := range name {
			if letter >= 'A' && letter <= 'Z' {
				snake.WriteByte('_')
			}
			snake.WriteString(strings.ToLower(string(letter)))
		}
		p[snake.String()] = value
	}
	return p, nil
}

func (g *Google) federate(w http.ResponseWriter, r *http.Request, provider GoogleProvider, subject string) {
	if issuer := unverifiedIssuer(subject); issuer != provider.Issuer {
		oauthError(w, http.StatusBadRequest, "invalid_grant", fmt.Sprintf("The issuer in ID Token %s does not match the expected ones: %s", issuer, provider.Issuer))
		return
	}
	token, err := g.verify(r.Context(), provider.Issuer, subject)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		oauthError(w, http.StatusBadRequest, "invalid_grant", "ID Token is stale to sign-in.")
		return
	case errors.Is(err, errNoIssuer):
		oauthError(w, http.StatusBadRequest, "invalid_grant", "Error connecting to the given credential's issuer.")
		return
	case err != nil:
		oauthError(w, http.StatusBadRequest, "invalid_grant", "The signature of the ID Token could not be verified.")
		return
	}
	if !slices.ContainsFunc(token.Audience, provider.allows) {
		oauthError(w, http.StatusBadRequest, "invalid_grant", fmt.Sprintf("The audience in ID Token %v does not match the expected audience.", token.Audience))
		return
	}
	var claims map[string]any
	if token.Claims(&claims) != nil || provider.Condition != nil && !provider.Condition(claims) {
		oauthError(w, http.StatusForbidden, "unauthorized_client", "The given credential is rejected by the attribute condition.")
		return
	}
	// A federated token does not outlive the token that it was made of.
	life := min(g.life(), time.Until(token.Expiry))
	access := g.issue("d.", time.Now().Add(life))
	g.mu.Lock()
	g.principals[access] = provider.principal(token.Subject)
	g.mu.Unlock()
	AnswerJSON(w, http.StatusOK, map[string]any{
		"access_token": access, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"token_type": "Bearer", "expires_in": int(life.Seconds()),
	})
}

func (p GoogleProvider) allows(audience string) bool {
	if len(p.Audiences) > 0 {
		return slices.Contains(p.Audiences, audience)
	}
	return audience == "https://iam.googleapis.com/"+p.Name || audience == "//iam.googleapis.com/"+p.Name
}

func (p GoogleProvider) principal(subject string) string {
	pool, _, _ := strings.Cut(p.Name, "/providers/")
	return "principal://iam.googleapis.com/" + pool + "/subject/" + subject
}

func (g *Google) impersonate(w http.ResponseWriter, r *http.Request, email string) {
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !g.valid(bearer) {
		rpcError(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
		return
	}
	g.mu.Lock()
	bound := slices.Contains(g.bindings[email], g.principals[bearer])
	g.mu.Unlock()
	if !bound {
		rpcError(w, http.StatusForbidden, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).", map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED", "domain": "iam.googleapis.com",
			"metadata": map[string]string{"permission": "iam.serviceAccounts.getAccessToken"},
		})
		return
	}
	var request struct {
		Scope    []string `json:"scope"`
		Lifetime string   `json:"lifetime"`
	}
	body, err := readBody(r)
	if err != nil || json.Unmarshal(body, &request) != nil || len(request.Scope) == 0 {
		rpcError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "The scope is missing.")
		return
	}
	life, err := time.ParseDuration(request.Lifetime)
	if request.Lifetime == "" {
		life, err = time.Hour, nil
	}
	if err != nil || life <= 0 || life > time.Hour {
		rpcError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "The token lifetime must be between 0 and 3600 seconds.")
		return
	}
	expiry := time.Now().Add(min(life, g.life())).Truncate(time.Second)
	AnswerJSON(w, http.StatusOK, map[string]string{
		"accessToken": g.issue("c.", expiry), "expireTime": expiry.UTC().Format(time.RFC3339),
	})
}

// GoogleTokenPrefix is how Google's access tokens begin.
const GoogleTokenPrefix = "ya29."

func (g *Google) issue(kind string, expiry time.Time) string {
	token := GoogleTokenPrefix + kind + "b0Aaek" + rand.Text() + strings.ToLower(rand.Text())
	g.remember(token, expiry)
	return token
}

func oauthError(w http.ResponseWriter, status int, code, description string) {
	AnswerJSON(w, status, map[string]string{"error": code, "error_description": description})
}

func rpcError(w http.ResponseWriter, status int, code, message string, details ...map[string]any) {
	AnswerJSON(w, status, map[string]any{"error": map[string]any{"code": status, "message": message, "status": code, "details": details}})
}
