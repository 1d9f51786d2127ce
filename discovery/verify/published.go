package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// Published proves that exactly these two documents are public: it reads the
// issuer's document, and the keys at the jwks_uri of wantDocument, anonymously
// and without following redirects, and compares bytes. It reads the keys first,
// as they are published first.
//
// A nil client is an anonymous one with a timeout of 10 s per request; of any
// other only its transport and timeout are used. At most four requests are sent.
//
// The error is *UnreachableError, *StatusError, *StaleError or *DifferentError; Temporary reports whether to try again. Any other error is an
// invalid wantDocument.
func Published(ctx context.Context, client *http.Client, issuer discovery.Issuer, wantDocument, wantKeys []byte) error {
	document, err := discovery.ParseDocument(wantDocument)
	if err != nil {
		return fmt.Errorf("proof of publication: %w", err)
	}
	client = strict(client)
	if err := proveBody(ctx, client, document.JWKSURI(), wantKeys); err != nil {
		return err
	}
	return proveBody(ctx, client, issuer.ConfigurationURL(), wantDocument)
}

// Temporary reports whether waiting may resolve an error of Published: object
// stores grant public access with a delay, and caches hold old copies.
func Temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func proveBody(ctx context.Context, client *http.Client, target string, want []byte) error {
	a, err := getOK(ctx, client, target, false)
	if err != nil {
		return err
	}
	if bytes.Equal(a.body, want) {
		return nil
	}
	f := httpx.FreshnessOf(a.header)
	if f.Age > 0 && f.Remaining() > 0 || fresherExists(ctx, client, target, want) {
		return &StaleError{URL: target, FreshIn: f.Remaining()}
	}
	return &DifferentError{URL: target, FreshIn: f.Remaining()}
}

// getOK is get, but returns an error for every status except 200.
func getOK(ctx context.Context, client *http.Client, target string, noCache bool) (answer, error) {
	a, err := get(ctx, client, target, noCache)
	switch {
	case errors.Is(err, httpx.ErrTooLarge) && a.status == http.StatusOK:
		return a, &DifferentError{URL: target}
	case err != nil && !errors.Is(err, httpx.ErrTooLarge):
		return a, err
	case a.status != http.StatusOK:
		return a, &StatusError{URL: target, Code: a.status, redirect: a.redirectHost()}
	}
	return a, nil
}

// fresherExists fetches again and asks caches to revalidate. Not every cache
// does: GCS ignores the request header.
func fresherExists(ctx context.Context, client *http.Client, target string, want []byte) bool {
	a, err := getOK(ctx, client, target, true)
	return err == nil && bytes.Equal(a.body, want)
}

// UnreachableError means that there was no answer.
type UnreachableError struct {
	URL     string
	Failure httpx.Failure
	// Err is the HTTP client's error. Its text may quote the remote side, so
	// Error leaves it out.
	Err error
}

func (e *UnreachableError) Error() string {
	cause, cure := e.explain()
	return fmt.Sprintf("%s is not reachable: %s: %s", httpx.Clip(e.URL), cause, cure)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Temporary is false for a TLS failure and a canceled request, and true for all
// other network failures.
func (e *UnreachableError) Temporary() bool {
	return !e.Failure.TLS() && e.Failure != httpx.Canceled
}

// StatusError means that the answer was not 200. Relying parties such as AWS STS
// do not follow a redirect.
type StatusError struct {
	URL string
	// Code is the HTTP status.
	Code int
	// redirect is the scheme and host that a redirect leads to.
	redirect string
}

func (e *StatusError) Error() string {
	if e.redirect != "" {
		return fmt.Sprintf("%s redirects to %q and relying parties do not follow: make the address without a redirect the issuer, and publish under it", httpx.Clip(e.URL), e.redirect)
	}
	cause, cure := badStatus(e.Code, hostOf(e.URL))
	return fmt.Sprintf("%s answers %d: %s: %s", httpx.Clip(e.URL), e.Code, cause, cure)
}

// NotPublic reports whether the server refuses anonymous requests.
func (e *StatusError) NotPublic() bool {
	return e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden
}

// NotThere reports whether there is no object at the address.
func (e *StatusError) NotThere() bool {
	return e.Code == http.StatusNotFound || e.Code == http.StatusGone
}

// Temporary is true for a status that may change by itself: public access and new
// objects appear with a delay, and overload passes.
func (e *StatusError) Temporary() bool {
	return e.NotPublic() || e.NotThere() || e.Code == http.StatusTooManyRequests || e.Code >= 500
}

// StaleError means that a cache still serves an older copy.
type StaleError struct {
	URL string
	// FreshIn is how long that copy may still be served, 0 for a cache that
	// exceeds its own lifetime.
	FreshIn time.Duration
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("%s: a cache still serves an older copy, for up to %v: wait, and use a short Cache-Control next time", httpx.Clip(e.URL), e.FreshIn)
}

// Temporary is always true: the copy expires by itself.
func (e *StaleError) Temporary() bool { return true }

// DifferentError means that other content is public, and nothing indicates that
// a cache is the reason.
type DifferentError struct {
	URL string
	// FreshIn is the lifetime that the answer announces. Until it is over, a
	// cache that adds no headers may be the reason. 0 if it announces none.
	FreshIn time.Duration
}

func (e *DifferentError) Error() string {
	return fmt.Sprintf("%s serves other content than was published: check that the issuer leads to this target, and that only this program writes there", httpx.Clip(e.URL))
}

// Temporary is true while a cache can be the reason.
func (e *DifferentError) Temporary() bool { return e.FreshIn > 0 }

func hostOf(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
