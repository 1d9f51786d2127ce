package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// StandIn is what the fake services have in common: they listen on loopback,
// fetch public issuers through an Internet, verify tokens with go-oidc, and keep
// a list of what they issued. Once routed in an Internet they answer under the
// service's own name.
type StandIn struct {
	// URL is the base of the service, plain HTTP on loopback.
	URL string

	internet *Internet

	mu       sync.Mutex
	next     []http.HandlerFunc
	requests int
	lifetime time.Duration
	issued   map[string]time.Time // expiry by credential
}

func (s *StandIn) start(t testing.TB, internet *Internet, handler http.Handler, lifetime time.Duration) {
	t.Helper()
	s.internet, s.lifetime, s.issued = internet, lifetime, map[string]time.Time{}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	s.URL = server.URL
}

// Next makes these handlers answer the next requests, one each, instead of the
// service.
func (s *StandIn) Next(handlers ...http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, handlers...)
}

// Requests counts the requests so far, those that Next answered too.
func (s *StandIn) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// SetLifetime is how long credentials live that are issued from now on.
func (s *StandIn) SetLifetime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lifetime = d
}

// Issued lists every credential so far: no log may contain one of them.
func (s *StandIn) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for credential := range s.issued {
		all = append(all, credential)
	}
	return all
}

// Expire makes every credential so far expire.
func (s *StandIn) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for credential := range s.issued {
		s.issued[credential] = time.Now().Add(-time.Second)
	}
}

// valid reports whether the credential was issued and has not expired.
func (s *StandIn) valid(credential string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	expiry, ok := s.issued[credential]
	return ok && time.Now().Before(expiry)
}

func (s *StandIn) remember(credential string, expiry time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued[credential] = expiry
}

// intercept counts the request and hands it to what Next was given, if any.
func (s *StandIn) intercept(w http.ResponseWriter, r *http.Request) (done bool) {
	s.mu.Lock()
	s.requests++
	var handler http.HandlerFunc
	if len(s.next) > 0 {
		handler, s.next = s.next[0], s.next[1:]
	}
	s.mu.Unlock()
	if handler != nil {
		handler(w, r)
	}
	return handler != nil
}

func (s *StandIn) life() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lifetime
}

// verify does what a relying party does: it reads the issuer's public
// documents and checks the token by them. The audience is the caller's.
func (s *StandIn) verify(ctx context.Context, issuer, token string) (*oidc.IDToken, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, s.internet.Client()), 10*time.Second)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return nil, errors.Join(errNoIssuer, err)
	}
	config := &oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: []string{"RS256", "ES256", "ES384", "ES512"}}
	return provider.VerifierContext(ctx, config).Verify(ctx, token)
}

// errNoIssuer is the error for an issuer whose documents can't be fetched.
var errNoIssuer = errors.New("the issuer can't be read")

// unverifiedIssuer is the iss of a token, "" if it has none.
func unverifiedIssuer(token string) string {
	var claims struct {
		Issuer string `json:"iss"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || decodePart(parts[1], &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// readBody reads a request's body up to a limit.
func readBody(r *http.Request) ([]byte, error) { return io.ReadAll(io.LimitReader(r.Body, 1<<20)) }

// AnswerJSON answers with the status and the body as JSON.
func AnswerJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// AnswerWith is for Next: a fixed answer, with pairs of header names and values.
func AnswerWith(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = readBody(r)
		w.Header().Set("Content-Type", "application/json")
		for pair := range slices.Chunk(header, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// claimText returns the values of a claim, which may be a list.
func claimText(value any) []string {
	switch value := value.(type) {
	case []any:
		var all []string
		for _, v := range value {
			all = append(all, fmt.Sprint(v))
		}
		return all
	case nil:
		return nil
	default:
		return []string{fmt.Sprint(value)}
	}
}

// PublicSite serves the server's documents as a publication of them at the
// root of its issuer's host would.
func (e *APIServer) PublicSite() http.Handler {
	serve := func(kind string, render func() ([]byte, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			body, err := render()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "public, max-age=60")
			_, _ = w.Write(body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openid/v1/jwks", serve("application/jwk-set+json", e.jwks))
	mux.HandleFunc("GET /.well-known/openid-configuration", serve("application/json", func() ([]byte, error) {
		body, err := e.document()
		if err != nil {
			return nil, err
		}
		var document map[string]any
		if err := json.Unmarshal(body, &document); err != nil {
			return nil, err
		}
		document["jwks_uri"] = e.Issuer() + "/openid/v1/jwks"
		return json.Marshal(document)
	}))
	return mux
}
