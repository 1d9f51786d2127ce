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
	// ErrNoSubject, and sends nothing, if this can't be a service account
	// token; a *RefusedError if the service refused it; an *UnavailableError
	// for a failure that may pass. No error contains the token, or text of the
	// service that was not cleaned. A context without a deadline gets one of
	// 25 s.
	Exchange(ctx context.Context, subject discovery.Token) (Credential, error)
}

// Credential is what the service, or its registry, accepts.
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
