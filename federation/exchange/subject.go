package exchange

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// ErrNoSubject is returned instead of sending something that is not a service
// account token. It does not quote it.
var ErrNoSubject = errors.New("not a service account token (expected a signed JWT with iss, sub and aud); nothing was sent: " +
	"give the token alone, as kubectl create token prints it or a projected volume contains it")

// checkSubject returns ErrNoSubject unless the token can be a service account
// token: it may be another secret, given by mistake.
func checkSubject(token discovery.Token) error {
	claims, err := token.Claims()
	unsigned := claims.Algorithm == "" || strings.HasSuffix(token.Reveal(), ".")
	if err != nil || unsigned || claims.Issuer == "" || claims.Subject == "" || !slices.ContainsFunc(claims.Audience, func(a string) bool { return a != "" }) {
		return ErrNoSubject
	}
	return nil
}

// APITokenError refuses a token that the API server itself accepts.
type APITokenError struct {
	// Why says how the token was recognised.
	Why string
}

// Error explains what to use instead.
func (e *APITokenError) Error() string {
	return "the token is for the API server itself (" + e.Why + "): its receiver could act in the cluster with it. " +
		"Project a token with the service's own audience (a serviceAccountToken volume with audience and path), or mint one"
}

// RefuseAPIToken returns an *APITokenError for a token that the API server
// itself accepts: it was read from the file that is mounted into every pod, or
// its audience is the API server's default, which is the issuer, or it has
// none. Other audiences that an API server accepts (--api-audiences, a second
// --service-account-issuer) can't be recognised.
func RefuseAPIToken(token discovery.Token, file string) error {
	const mounted = "/run/secrets/kubernetes.io/serviceaccount/token"
	if clean := path.Clean(file); clean == mounted || clean == "/var"+mounted {
		return &APITokenError{Why: "it is the one at " + clean}
	}
	claims, err := token.Claims()
	if err != nil {
		return nil //nolint:nilerr // the exchange itself refuses a malformed token
	}
	if len(claims.Audience) == 0 {
		return &APITokenError{Why: "it has no audience"}
	}
	for _, audience := range claims.Audience {
		if strings.TrimRight(audience, "/") == strings.TrimRight(claims.Issuer, "/") || apiAudience(audience) {
			return &APITokenError{Why: fmt.Sprintf("its audience is %q", httpx.MaskForeign(audience))}
		}
	}
	return nil
}

// apiAudience recognises the usual --api-audiences: the API server's own
// service under any cluster domain, and the names that old guides use.
func apiAudience(audience string) bool {
	name := strings.ToLower(audience)
	name, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://"), "/")
	name, _, _ = strings.Cut(name, ":")
	name = strings.TrimRight(name, ".")
	return slices.Contains([]string{"api", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, name) || strings.HasPrefix(name, "kubernetes.default.svc.")
}
