// Package answer reads what a store answers, and decides what an error may
// repeat of it.
package answer

import (
	"context"
	"errors"
	"io"
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

// Ended returns why an operation was given up, if it was: context.Canceled or
// context.DeadlineExceeded, even where the client's error hides it.
func Ended(ctx context.Context, err error) error {
	for _, reason := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, reason) || errors.Is(ctx.Err(), reason) {
			return reason
		}
	}
	return nil
}

// Missing describes the error of a request that got no answer, and what to do
// about it. No part of the text comes from a server.
func Missing(err error) string {
	return err.Error() + httpx.FailureOf(err).Cure()
}

// IsCode reports whether an error may repeat what the store calls its error:
// that is a name like AccessDenied, and no sentence that quotes the request.
func IsCode(text string) bool { return code.MatchString(text) }

var code = regexp.MustCompile(`^[A-Za-z0-9._-]{1,60}$`)
