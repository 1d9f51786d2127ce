// Package answer reads what a store answers, and decides what an error may
// repeat of it.
package answer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"

	"oidc-publisher/internal/httpx"
	"oidc-publisher/publish"
)

// Body reads an object's body. The error of one that is too large wraps
// publish.ErrTooLarge.
func Body(r io.Reader) ([]byte, error) {
	body, err := httpx.Read(r, publish.MaxObjectSize)
	if errors.Is(err, httpx.ErrTooLarge) {
		return nil, publish.ErrTooLarge
	}
	return body, err
}

// CredentialsError is why there are no credentials to ask the store with.
type CredentialsError struct{ Err error }

func (e *CredentialsError) Error() string { return e.Err.Error() }
func (e *CredentialsError) Unwrap() error { return e.Err }

// Explain turns the error of an operation into one that names the target. An
// error of the SDK is not wrapped, because a missing credentials file must not
// pass for an absent object: describe gives its cause and cure without any text
// that a server may have written. ended is why the operation was given up, if it
// was, even where the SDK's error hides it.
func Explain(ctx context.Context, target string, err error, fromSDK bool, describe func(ended error) string) error {
	if err == nil {
		return nil
	}
	for _, ours := range []error{
		fs.ErrNotExist, publish.ErrPrecondition, publish.ErrTooLarge, publish.ErrInvalidName, publish.ErrClosed,
	} {
		if errors.Is(err, ours) && !fromSDK {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	var ended error
	for _, reason := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, reason) || errors.Is(ctx.Err(), reason) {
			ended = reason
			break
		}
	}
	if text := describe(ended); text != "" {
		target += ": " + text
	}
	if ended != nil {
		return fmt.Errorf("%s: %w", target, ended)
	}
	return errors.New(target)
}

// Missing describes the error of a request that got no answer, and what to do
// about it. No part of the text comes from a server.
func Missing(err error) string {
	return err.Error() + httpx.FailureOf(err).Cure()
}

// IsCode reports whether an error may repeat the store's error code: it must be
// a name like AccessDenied, and not a sentence that may quote the request.
func IsCode(text string) bool { return code.MatchString(text) }

var code = regexp.MustCompile(`^[A-Za-z0-9._-]{1,60}$`)
