// Package gate refuses, in one place, what no backend takes: calls after
// Close, contexts that have ended, names that are no relative path, and
// objects that are too large. It also knows what may be told of a store's
// answer.
package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"sync/atomic"
	"unicode"

	"oidc-publisher/internal/httpx"
	"oidc-publisher/publish"
)

// maxName is the length in bytes up to which S3 and GCS take object names.
const maxName = 1024

// Gate is the part of a backend that each operation passes first. The zero
// value is open. It is safe for concurrent use.
type Gate struct{ closed atomic.Bool }

// Get says why a Get of that name is refused, or nil.
func (g *Gate) Get(ctx context.Context, name string) error {
	if g.closed.Load() {
		return publish.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return checkName(name)
}

// Put says why a Put of that object is refused, or nil.
func (g *Gate) Put(ctx context.Context, object publish.Object) error {
	if err := g.Get(ctx, object.Name); err != nil {
		return err
	}
	if len(object.Body) > publish.MaxObjectSize {
		return fmt.Errorf("%s: %w", object.Name, publish.ErrTooLarge)
	}
	return nil
}

// Close closes the gate and reports whether it was open.
func (g *Gate) Close() bool { return !g.closed.Swap(true) }

// ReadAll reads a body, and of one that is too large no more than it takes to
// tell.
func ReadAll(r io.Reader) ([]byte, error) {
	body, err := httpx.Read(r, publish.MaxObjectSize)
	if errors.Is(err, httpx.ErrTooLarge) {
		return nil, publish.ErrTooLarge
	}
	return body, err
}

// Ended returns why an operation was given up, if it was: context.Canceled or
// context.DeadlineExceeded, whichever way a client wrapped or hid it.
func Ended(ctx context.Context, err error) error {
	for _, reason := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, reason) || errors.Is(ctx.Err(), reason) {
			return reason
		}
	}
	return nil
}

// Unanswered describes the error of a request that got no answer, by what this
// machine knows of it.
func Unanswered(err error) string {
	return err.Error() + httpx.FailureOf(err).Cure()
}

// IsWord reports whether what a store calls an error may be repeated: it is a
// name like AccessDenied, and no sentence that quotes the request.
func IsWord(text string) bool { return word.MatchString(text) }

var word = regexp.MustCompile(`^[A-Za-z0-9._-]{1,60}$`)

// checkName is fs.ValidPath without what some store would read differently:
// backslashes, control characters and names that the object stores refuse.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return fmt.Errorf("%w: longer than %d bytes", publish.ErrInvalidName, maxName)
	case name == ".", !fs.ValidPath(name),
		strings.Contains(name, `\`), strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: %q: want a relative path such as openid/v1/jwks", publish.ErrInvalidName, name)
	}
	return nil
}
