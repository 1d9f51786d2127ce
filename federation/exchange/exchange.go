// Package exchange exchanges a service account token for a credential of a
// service that trusts the cluster's published issuer: Cloudsmith or Google Cloud.
package exchange

import (
	"context"
	"fmt"
	"time"

	"oidc-publisher/discovery"
)

// Exchanger is one service's token exchange.
type Exchanger interface {
	// Exchange exchanges the subject token for a credential. It returns
	// ErrNoSubject, and sends nothing, if this can't be a service account token;
	// a *RefusedError if the service refused it; an *UnavailableError for a
	// temporary failure. No error contains the token, or text of the service
	// that was not cleaned. A context without a deadline gets one of 25 s.
	Exchange(ctx context.Context, subject discovery.Token) (Credential, error)
}

// Credential is a login for the service or its registry.
type Credential struct {
	// Username is the registry's user name: "token" for Cloudsmith,
	// "oauth2accesstoken" for Google Cloud.
	Username string
	// Password is the access token.
	Password discovery.Secret
	// Expiry is when the password expires, zero if the service does not say.
	Expiry time.Time
}

// RefusedError is a refusal by the service. It would refuse the same token again.
type RefusedError struct {
	// Service is the name of the service, and Host its address.
	Service, Host string
	// Status is the HTTP status code of the answer.
	Status int
	// Code is the service's error code ("invalid_grant", "PERMISSION_DENIED"),
	// cleaned; "" for none.
	Code string
	// Reason is the reason of the service, cleaned and bounded.
	Reason string
}

// Error names the service and its reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s refused the token (HTTP %d): %s", e.Service, e.Status, e.Reason)
}

// UnavailableError means that a service neither accepted nor refused the token.
// It may do so later.
type UnavailableError struct {
	// Service is the name of the service, and Host its address.
	Service, Host string
	// Status is the HTTP status code of the last answer, 0 without an answer.
	Status int
	// Attempts is the number of times the request was sent.
	Attempts int
	// Reason is the reason of the service, cleaned and bounded, or why there
	// is no answer.
	Reason string
	// RetryAfter is the delay that the service asks for, 0 for none.
	RetryAfter time.Duration
	// Err is the error of the context, if it ended.
	Err error

	final bool
}

// Error names the service, the reason and when to retry.
func (e *UnavailableError) Error() string {
	text := fmt.Sprintf("%s (%s) can't be reached: %s", e.Service, e.Host, e.Reason)
	if e.Status != 0 {
		text = fmt.Sprintf("%s (%s) answered HTTP %d: %s", e.Service, e.Host, e.Status, e.Reason)
	}
	if e.Attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; retry after %v", e.RetryAfter.Round(time.Second))
	}
	return text
}

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }
