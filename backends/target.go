package backends

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"oidc-publisher/publish"
)

// Target is a place to publish to, as --to names it. The zero value is none.
// Targets are comparable; equal ones are the same place.
type Target struct {
	scheme    string
	bucket    string
	prefix    string // of object names, or the path of a directory
	region    string
	endpoint  string
	pathStyle bool
}

// Parse reads a target. Credentials have no place in one: what looks like them
// is refused and not repeated.
func Parse(raw string) (Target, error) {
	name, _, isURL := strings.Cut(raw, "://")
	if !isURL {
		return parsePath(raw)
	}
	i := slices.IndexFunc(schemes, func(s scheme) bool { return s.name == strings.ToLower(name) })
	if i < 0 {
		return Target{}, unknownScheme(raw, name)
	}
	return schemes[i].parse(raw)
}

// Open opens the target's backend.
func (t Target) Open(ctx context.Context) (publish.Backend, error) {
	for _, s := range schemes {
		if s.name == t.scheme {
			return s.open(ctx, t)
		}
	}
	return nil, errors.New("no target: want " + Accepted)
}

// Local reports whether the target is a directory, of which nobody here knows
// under what URL it is served.
func (t Target) Local() bool { return t.scheme == "file" }

// String returns the target in a form that Parse reads as the same.
func (t Target) String() string {
	switch {
	case t.scheme == "":
		return ""
	case t.Local() && filepath.IsAbs(t.prefix):
		return "file://" + escapePath(t.prefix)
	case t.Local() && t.prefix[0] == '.':
		return t.prefix
	case t.Local():
		return "./" + t.prefix
	}
	s := t.scheme + "://" + t.bucket
	if t.prefix != "" {
		s += escapePath("/" + t.prefix)
	}
	if query := t.query(); query != "" {
		s += "?" + query
	}
	return s
}

func (t Target) query() string {
	var parameters []string
	if t.region != "" {
		parameters = append(parameters, "region="+url.QueryEscape(t.region))
	}
	if t.endpoint != "" {
		// Slashes and colons may stay as they are, and read better so.
		endpoint := strings.NewReplacer("%3A", ":", "%2F", "/").Replace(url.QueryEscape(t.endpoint))
		parameters = append(parameters, "endpoint="+endpoint)
	}
	if t.pathStyle {
		parameters = append(parameters, "path-style=true")
	}
	return strings.Join(parameters, "&")
}

func escapePath(path string) string {
	return strings.ReplaceAll((&url.URL{Path: path}).EscapedPath(), "@", "%40")
}

func parsePath(raw string) (Target, error) {
	switch head, _, found := strings.Cut(raw, ":"); {
	case raw == "":
		return Target{}, errors.New("empty target: want " + Accepted)
	case found && slices.ContainsFunc(schemes, func(s scheme) bool { return s.name == strings.ToLower(head) }):
		return Target{}, fmt.Errorf("target: %s: wants two slashes: %s://… (for a directory of that name write ./%s:…)", head, head, head)
	case strings.ContainsRune(raw, 0):
		return Target{}, errors.New("target: a path has no NUL character")
	}
	return Target{scheme: "file", prefix: filepath.Clean(raw)}, nil
}

// unknownScheme suggests what was meant, without repeating what may hold
// credentials.
func unknownScheme(raw, name string) error {
	if derived, ok := ForIssuer(raw); ok {
		return fmt.Errorf("target: that is a public URL, not where to write: use %s", derived)
	}
	meant, ok := map[string]string{
		"gcs": "gs", "google": "gs", "aws": "s3", "s3a": "s3", "s3n": "s3", "minio": "s3", "dir": "file",
		"https": "s3", "http": "s3",
	}[strings.ToLower(name)]
	if !ok {
		return fmt.Errorf("target: unknown scheme %.20q: want %s", name, Accepted)
	}
	i := slices.IndexFunc(schemes, func(s scheme) bool { return s.name == meant })
	return fmt.Errorf("target: unknown scheme %.20q: did you mean %s?", name, schemes[i].example)
}

func (s scheme) parse(raw string) (Target, error) {
	u, err := url.Parse(raw)
	switch {
	case strings.Contains(raw, "@"), err == nil && u.User != nil:
		return Target{}, fmt.Errorf("target %s: has an @: credentials don't belong into a target, they come from the environment; write %%40 for an @ in a name", s.example)
	case err != nil: // whose text repeats the target
		return Target{}, fmt.Errorf("target: not a valid URL: want %s", s.example)
	case strings.Contains(raw, "#"):
		return Target{}, fmt.Errorf("target: has a fragment (#): want %s; write %%23 for a # in a name", s.example)
	}
	t := Target{scheme: s.name}
	if t, err = s.parseParameters(t, u.RawQuery); err != nil {
		return Target{}, fmt.Errorf("target %s://%s: %w", s.name, u.Host, err)
	}
	if s.bucket == nil {
		return s.parseFile(t, u)
	}
	return s.parseBucket(t, u)
}

func (s scheme) parseFile(t Target, u *url.URL) (Target, error) {
	if u.Host != "" || u.Path == "" {
		return Target{}, fmt.Errorf("target: a file URL has three slashes and an absolute path: want %s, or a plain path", s.example)
	}
	if strings.ContainsRune(u.Path, 0) {
		return Target{}, errors.New("target: a path has no NUL character")
	}
	t.prefix = filepath.Clean(u.Path)
	return t, nil
}

func (s scheme) parseBucket(t Target, u *url.URL) (Target, error) {
	t.bucket = u.Host
	if t.bucket == "" {
		return Target{}, fmt.Errorf("target: no bucket: want %s", s.example)
	}
	if !s.bucket.MatchString(t.bucket) || strings.Contains(t.bucket, "..") || net.ParseIP(t.bucket) != nil {
		return Target{}, fmt.Errorf("target: %q can't be a bucket's name (lower-case letters, digits, dots and hyphens): want %s", t.bucket, s.example)
	}
	t.prefix = strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/")
	if t.prefix != "" && !validPrefix(t.prefix) {
		return Target{}, fmt.Errorf("target %s://%s: %q can't be a prefix: want names with single slashes between, with no . or .. among them", s.name, t.bucket, t.prefix)
	}
	return t, nil
}

func validPrefix(prefix string) bool {
	return fs.ValidPath(prefix) && prefix != "." && !strings.Contains(prefix, `\`) && !strings.ContainsFunc(prefix, unicode.IsControl)
}

func (s scheme) parseParameters(t Target, query string) (Target, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return Target{}, fmt.Errorf("parameters are not well-formed: want %s", s.example)
	}
	for name, value := range values {
		switch {
		case !slices.Contains(s.parameters, name):
			return Target{}, fmt.Errorf("unknown parameter %.20q: want %s", name, s.acceptedParameters())
		case len(value) != 1:
			return Target{}, fmt.Errorf("parameter %s is given %d times", name, len(value))
		case value[0] == "":
			return Target{}, fmt.Errorf("parameter %s is empty", name)
		}
		if err := t.set(name, value[0]); err != nil {
			return Target{}, err
		}
	}
	return t, nil
}

func (s scheme) acceptedParameters() string {
	if len(s.parameters) == 0 {
		return "none"
	}
	return strings.Join(s.parameters, ", ")
}

var isRegion = regexp.MustCompile(`^[a-z0-9-]{1,40}$`).MatchString

func (t *Target) set(name, value string) error {
	switch name {
	case "region":
		if !isRegion(value) {
			return errors.New("region: want one such as eu-west-1")
		}
		t.region = value
	case "endpoint":
		if !isBaseURL(value) {
			return errors.New("endpoint: want the base URL of the store, such as https://minio.example.com:9000")
		}
		t.endpoint = strings.TrimSuffix(value, "/")
	case "path-style":
		if value != "true" && value != "false" {
			return errors.New("path-style: want true or false")
		}
		t.pathStyle = value == "true"
	}
	return nil
}

// isBaseURL refuses credentials above all.
func isBaseURL(value string) bool {
	u, err := url.Parse(value)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" &&
		u.User == nil && u.RawQuery == "" && !u.ForceQuery && !strings.Contains(value, "#")
}
