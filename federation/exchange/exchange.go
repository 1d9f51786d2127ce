// Package exchange turns a service account token into a credential of a
// service that trusts the cluster's published issuer: the token exchanges of
// Cloudsmith and of Google Cloud.
package exchange

import (
	"context"
	"fmt"
	"time"

	"oidc-publisher/discovery"
)

// Exchanger is one service's token exchange.
type Exchanger interface {
	// Exchange presents the subject token and returns what it was exchanged
	// for. What is not shaped like a service account token is not sent:
	// ErrNoSubject. A service that answered with a refusal is a *RefusedError; anything
	// else may pass when tried again, an *UnavailableError by itself. None
	// carries the token, nor a text of the service that was not taken apart
	// and cleaned. A context without a deadline gets one of 25 s.
	Exchange(ctx context.Context, subject discovery.Token) (Credential, error)
}

// Credential is what a registry, or any other client of the service, takes.
type Credential struct {
	// Username is the registry's user name: "token" for Cloudsmith,
	// "oauth2accesstoken" for Google Cloud.
	Username string
	// Password is the access token.
	Password discovery.Secret
	// Expiry is when the password expires, zero if the service does not say.
	Expiry time.Time
}

// RefusedError is an answer of the service that says no: the same token will
// be refused again.
type RefusedError struct {
	// Service is who refused, as a person would call it, and Host where.
	Service, Host string
	// Status is the HTTP status code of the answer.
	Status int
	// Code is the service's own name for its reason ("invalid_grant",
	// "PERMISSION_DENIED"), cleaned; "" where it has none.
	Code string
	// Reason is what the service gave as its reason, cleaned and bounded.
	Reason string
}

// Error says who refused and why.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s refused the token (HTTP %d): %s", e.Service, e.Status, e.Reason)
}
