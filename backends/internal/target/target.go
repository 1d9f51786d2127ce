// Package target describes the kinds of targets, and reads what the URLs of
// object stores have in common.
package target

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"oidc-publisher/publish"
)

// Scheme is a kind of target. Every backend's package has one, and the table of
// package backends lists it.
type Scheme struct {
	// Name is the scheme of the URL.
	Name string
	// Form is the URL with all its parameters, for usage texts and errors.
	Form string
	// Aliases are schemes that users may write by mistake. They are refused, and
	// the error suggests Form.
	Aliases []string
	// Local is set for a directory: the URL under which it is served is unknown.
	Local bool
	// Parse reads a URL that has no credentials and no fragment.
	Parse func(*url.URL) (Place, error)
	// ParsePath reads a target that is not a URL. One scheme of the table has
	// it.
	ParsePath func(path string) (Place, error)
	// OfIssuer returns the place that an issuer with this host and path is read
	// from, or false if the host is not one of the store's own. The host is in
	// lower case, and the path has no slash at either end. It is nil for stores
	// without host names of their own.
	OfIssuer func(host, path string) (Place, bool)
}

// Place is a parsed target. Places can be compared with ==.
type Place interface {
	// String returns a URL or path that is parsed to the same place.
	fmt.Stringer
	// Open opens the backend. It makes no request yet.
	Open(context.Context) (publish.Backend, error)
	// Nearest returns the place itself if its objects can be read at want, which
	// OfIssuer returned. Otherwise it returns want, with the parameters of the
	// place that still apply.
	Nearest(want Place) Place
}

// Bucket reads the bucket and the prefix of object names from a URL. Both are
// checked, the bucket's name by the store's own pattern.
func Bucket(u *url.URL, isName *regexp.Regexp) (bucket, prefix string, err error) {
	bucket = u.Host
	if bucket == "" {
		return "", "", errors.New("no bucket")
	}
	if !isName.MatchString(bucket) || strings.Contains(bucket, "..") || net.ParseIP(bucket) != nil {
		return "", "", fmt.Errorf("%q can't be a bucket's name (lower-case letters, digits, dots and hyphens)", bucket)
	}
	prefix = strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/")
	if prefix != "" && (!fs.ValidPath(prefix) || prefix == "." || strings.Contains(prefix, `\`) || strings.ContainsFunc(prefix, unicode.IsControl)) {
		return "", "", fmt.Errorf("%q can't be a prefix (names with single slashes between, and no . or .. among them)", prefix)
	}
	return bucket, prefix, nil
}

// Parameters reads the parameters of a URL. Each may be given once.
func Parameters(u *url.URL, accepted ...string) (map[string]string, error) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("the parameters are not well-formed")
	}
	parameters := map[string]string{}
	for name, value := range values {
		switch {
		case !slices.Contains(accepted, name):
			return nil, fmt.Errorf("unknown parameter %.20q", name)
		case len(value) != 1:
			return nil, fmt.Errorf("parameter %s is given %d times", name, len(value))
		case value[0] == "":
			return nil, fmt.Errorf("parameter %s is empty", name)
		}
		parameters[name] = value[0]
	}
	return parameters, nil
}

// BucketURL is the inverse of Bucket. The query must be escaped already.
func BucketURL(scheme, bucket, prefix, query string) string {
	s := scheme + "://" + bucket
	if prefix != "" {
		s += EscapePath("/" + prefix)
	}
	if query != "" {
		s += "?" + query
	}
	return s
}

// EscapePath escapes the path of a target's URL, which must have no @.
func EscapePath(path string) string {
	return strings.ReplaceAll((&url.URL{Path: path}).EscapedPath(), "@", "%40")
}
