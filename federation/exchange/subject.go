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

// ErrNoSubject says that what was given for a service account token is not one,
// and so was not sent. It shows nothing of it.
var ErrNoSubject = errors.New("what was given is not a service account token, and was not sent: one is three base64url parts with dots between them, " +
	"a header with alg, claims with iss, sub and aud, and a signature. Give the token alone, as kubectl create token prints it or as a projected volume has it")

// checkSubject returns ErrNoSubject for whatever is not shaped like a service
// account token: it may be another secret, given by mistake.
func checkSubject(token discovery.Token) error {
	claims, err := token.Claims()
	unsigned := claims.Algorithm == "" || strings.HasSuffix(token.Reveal(), ".")
	if err != nil || unsigned || claims.Issuer == "" || claims.Subject == "" || !slices.ContainsFunc(claims.Audience, func(a string) bool { return a != "" }) {
		return ErrNoSubject
	}
	return nil
}

// APITokenError refuses a token that the API server itself takes.
type APITokenError struct {
	// Why is how it was recognised.
	Why string
}

// Error says what to use instead.
func (e *APITokenError) Error() string {
	return "the token is for the API server itself (" + e.Why + "): whoever receives it could act in the cluster with it. " +
		"Project one with the service's own audience (a serviceAccountToken volume with audience and path), or mint one"
}

// RefuseAPIToken returns an *APITokenError for a token that the API server
// takes as well, whose file, if any, is given: the one that is mounted into
// every pod, or one whose audience is the API server's default, which is the
// issuer, or none at all. What else an API server was told to take
// (--api-audiences, a second --service-account-issuer) is not in a token.
func RefuseAPIToken(token discovery.Token, file string) error {
	const mounted = "/run/secrets/kubernetes.io/serviceaccount/token"
	if clean := path.Clean(file); clean == mounted || clean == "/var"+mounted {
		return &APITokenError{Why: "it is the one at " + clean}
	}
	claims, err := token.Claims()
	if err != nil {
		return nil //nolint:nilerr // what is no token of a cluster is the service's to refuse
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

// apiAudience recognises what API servers are usually told to take: their own
// service, by whatever name and cluster domain, and the words of old guides.
func apiAudience(audience string) bool {
	name := strings.ToLower(audience)
	name, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://"), "/")
	name, _, _ = strings.Cut(name, ":")
	name = strings.TrimRight(name, ".")
	return slices.Contains([]string{"api", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, name) || strings.HasPrefix(name, "kubernetes.default.svc.")
}
