// Package exchange turns a service account token into a credential of a
// service that trusts the cluster's published issuer: the token exchanges of
// Cloudsmith and of Google Cloud.
package exchange

import (
	"context"
	"time"

	"oidc-publisher/discovery"
)

// Exchanger is one service's token exchange.
type Exchanger interface {
	// Exchange presents the subject token and returns what it was exchanged
	// for. A service that answered with a refusal is a *RefusedError; anything
	// else may pass when tried again. Neither carries the token nor a text of
	// the service that was not taken apart and cleaned.
	Exchange(ctx context.Context, subject discovery.Token) (Credential, error)
}

// Credential is what a registry, or any other client of the service, takes.
type Credential struct {
	// Username is the registry's user name: "token" for Cloudsmith,
	// "oauth2accesstoken" for Google Cloud.
	Username string
	// Password is the access token.
	Password discovery.Token
	// Expiry is when the service stops to take it; zero where the service
	// does not say.
	Expiry time.Time
}

// RefusedError is an answer of the service that says no: the same token will
// be refused again.
type RefusedError struct {
	// Service is who refused, as a person would call it.
	Service string
	// Status is the HTTP status code of the answer.
	Status int
	// Reason is what the service gave as its reason, cleaned and bounded.
	Reason string
}

// Error says who refused and why.
func (e *RefusedError) Error() string {
	return e.Service + " refused the token: " + e.Reason
}
