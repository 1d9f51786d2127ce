package publish

import (
	"bytes"
	"context"
	"errors"
)

// MaxObjectSize is the size in bytes above which a Backend refuses to read or
// write an object: the documents are a few kilobytes, so anything larger is a
// mistake or an attack.
const MaxObjectSize = 1 << 20

var (
	// ErrPrecondition is wrapped by the error of a Put whose Precondition did
	// not hold: another writer changed the object first.
	ErrPrecondition = errors.New("the object changed since it was read")

	// ErrTooLarge is wrapped by the error of a Get or Put of an object above
	// MaxObjectSize.
	ErrTooLarge = errors.New("object is larger than 1 MiB")

	// ErrInvalidName is wrapped by the error of a Get or Put of an object whose
	// name is not a slash-separated relative path in the sense of fs.ValidPath.
	ErrInvalidName = errors.New("invalid object name")

	// ErrClosed is wrapped by the error of any call after Close.
	ErrClosed = errors.New("backend is closed")
)

// Backend is a place that holds published objects: a bucket, a directory, a
// web server's memory. It is safe for concurrent use, and every operation
// honours its context.
type Backend interface {
	// Get returns the object of that name with its metadata and version. The
	// error of an absent object wraps fs.ErrNotExist; a missing bucket is a
	// different error, which names the fix.
	Get(ctx context.Context, name string) (Object, error)

	// Put writes the whole object if the precondition holds, and otherwise
	// changes nothing. When it returns nil the object is durable and Get returns
	// it. If the precondition does not hold, the error wraps ErrPrecondition. If
	// the acknowledgement of a write is lost, the error is the one of the
	// store's client: the caller reads the object back and compares.
	//
	// Object.Version is ignored: only Precondition decides what is overwritten.
	Put(ctx context.Context, object Object, precondition Precondition) error

	// Close frees what the backend holds. Calls after it fail with ErrClosed.
	Close() error
}

// Object is one published file with everything that its readers see.
type Object struct {
	// Name is the slash-separated path below the target's root, valid in the
	// sense of fs.ValidPath.
	Name string
	Body []byte
	// ContentType and CacheControl are HTTP header values.
	ContentType  string
	CacheControl string
	// BytesOnly is set by a backend without metadata in its store (a
	// directory): ContentType and CacheControl are then unknown, not empty.
	BytesOnly bool
	// Version identifies this state of the object for the backend that returned
	// it (ETag, generation, content hash). It is opaque to everyone else.
	Version string
}

// Same reports whether a reader of the two objects would see no difference.
// Metadata that either side can't hold is not compared, nor is the version.
func (o Object) Same(other Object) bool {
	return o.Name == other.Name && bytes.Equal(o.Body, other.Body) &&
		(o.BytesOnly || other.BytesOnly ||
			o.ContentType == other.ContentType && o.CacheControl == other.CacheControl)
}

// Precondition is the state of the store that a Put requires. The zero value
// requires that the object is absent.
type Precondition struct{ version string }

// IfAbsent requires that no object with that name exists.
func IfAbsent() Precondition { return Precondition{} }

// IfVersion requires that the object still has the version that Get returned.
func IfVersion(version string) Precondition { return Precondition{version: version} }

// Version returns the required version, or false if the object must be absent.
func (p Precondition) Version() (string, bool) { return p.version, p.version != "" }
