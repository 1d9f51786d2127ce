package publish

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"unicode"
)

// maxName is the length in bytes up to which S3 and GCS accept object names.
const maxName = 1024

// Gate refuses what no Backend accepts: calls after Close, contexts that have
// ended, invalid names, and objects that are too large. Every backend checks
// each call with one first. The zero value is open. It is safe for concurrent
// use.
type Gate struct{ closed atomic.Bool }

// Get returns why a Get of that name is refused, or nil.
func (g *Gate) Get(ctx context.Context, name string) error {
	if g.closed.Load() {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return checkName(name)
}

// Put returns why a Put of that object is refused, or nil.
func (g *Gate) Put(ctx context.Context, object Object) error {
	if err := g.Get(ctx, object.Name); err != nil {
		return err
	}
	if len(object.Body) > MaxObjectSize {
		return fmt.Errorf("%s: %w", object.Name, ErrTooLarge)
	}
	return nil
}

// Close closes the gate and reports whether it was open.
func (g *Gate) Close() bool { return !g.closed.Swap(true) }

// checkName accepts the names of fs.ValidPath, except those that some store
// would read differently: backslashes, control characters and names that the
// object stores refuse.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return fmt.Errorf("%w: longer than %d bytes", ErrInvalidName, maxName)
	case name == ".", !fs.ValidPath(name),
		strings.Contains(name, `\`), strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: %q: want a relative path such as openid/v1/jwks", ErrInvalidName, name)
	}
	return nil
}
