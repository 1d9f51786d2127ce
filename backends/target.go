package backends

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"oidc-publisher/backends/internal/target"
	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// Target is a place to publish to, as --to names it.
type Target struct {
	given  string
	place  target.Place
	scheme target.Scheme
	table  table
}

// Open opens the target that a URL or path names.
func Open(ctx context.Context, raw string) (publish.Target, error) {
	t, err := Parse(raw)
	if err != nil {
		return publish.Target{}, err
	}
	return t.Open(ctx)
}

// Parse reads a target without opening it. It refuses anything that looks like
// credentials, and does not repeat it.
func Parse(raw string) (Target, error) { return schemes.parse(raw) }

// ForIssuer returns the target of an issuer that is the URL of a bucket under
// the store's own host name. It is false for every other issuer, such as a
// domain in front of a bucket.
func ForIssuer(issuer string) (Target, bool) { return schemes.forIssuer(issuer) }

// Accepted lists the forms of a target, for usage texts.
func Accepted() string { return schemes.accepted() }

// String returns the same text for equal targets, however they were written.
func (t Target) String() string { return t.place.String() }

// Open opens the target for publish.
func (t Target) Open(ctx context.Context) (publish.Target, error) {
	backend, err := t.place.Open(ctx)
	if err != nil {
		return publish.Target{}, err
	}
	opened := publish.Target{Name: t.given, Backend: backend, Local: t.scheme.Local}
	if !t.scheme.Local {
		opened.CheckIssuer = t.checkIssuer
	}
	return opened, nil
}

// checkIssuer returns an error if the issuer is the URL of another bucket:
// relying parties would not read what is published here. An issuer under a
// domain of its own fits every target.
func (t Target) checkIssuer(issuer discovery.Issuer) error {
	want, ok := t.table.forIssuer(string(issuer))
	if !ok {
		return nil
	}
	if nearest := t.place.Nearest(want.place); nearest != t.place {
		return fmt.Errorf("target %s is not where issuer %s is read from: use --to '%s'", t, issuer, nearest)
	}
	return nil
}

func (schemes table) accepted() string {
	var forms []string
	for _, s := range schemes {
		forms = append(forms, s.Form)
	}
	return strings.Join(forms, ", ")
}

func (schemes table) find(is func(target.Scheme) bool) (target.Scheme, bool) {
	i := slices.IndexFunc(schemes, is)
	if i < 0 {
		return target.Scheme{}, false
	}
	return schemes[i], true
}

func (schemes table) named(name string) (target.Scheme, bool) {
	return schemes.find(func(s target.Scheme) bool { return s.Name == strings.ToLower(name) })
}

func (schemes table) parse(raw string) (Target, error) {
	name, _, isURL := strings.Cut(raw, "://")
	if !isURL {
		return schemes.parsePath(raw)
	}
	s, ok := schemes.named(name)
	if !ok {
		return Target{}, schemes.unknown(raw, name)
	}
	u, err := parseURL(raw, s.Form)
	if err != nil {
		return Target{}, err
	}
	place, err := s.Parse(u)
	if err != nil {
		return Target{}, fmt.Errorf("target %s://%s: %w: use %s", s.Name, u.Host, err, s.Form)
	}
	return Target{given: raw, place: place, scheme: s, table: schemes}, nil
}

// parseURL refuses credentials and fragments. Its errors repeat nothing of the
// target, which may be a secret.
func parseURL(raw, form string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case strings.Contains(raw, "@"), err == nil && u.User != nil:
		return nil, errors.New("target: credentials don't belong in a target, they come from the environment: write %40 for an @ in a name")
	case err != nil:
		return nil, fmt.Errorf("target: not a valid URL: use %s", form)
	case strings.Contains(raw, "#"):
		return nil, fmt.Errorf("target: has a fragment (#): use %s, and write %%23 for a # in a name", form)
	}
	return u, nil
}

func (schemes table) parsePath(raw string) (Target, error) {
	if raw == "" {
		return Target{}, fmt.Errorf("empty target: use %s", schemes.accepted())
	}
	if head, _, found := strings.Cut(raw, ":"); found {
		if _, ok := schemes.named(head); ok {
			return Target{}, fmt.Errorf("target: two slashes are missing: use %s://… (for a directory of that name write ./%s:…)", head, head)
		}
	}
	s, ok := schemes.find(func(s target.Scheme) bool { return s.ParsePath != nil })
	if !ok {
		return Target{}, fmt.Errorf("target: not a URL: use %s", schemes.accepted())
	}
	place, err := s.ParsePath(raw)
	if err != nil {
		return Target{}, fmt.Errorf("target: %w", err)
	}
	return Target{given: raw, place: place, scheme: s, table: schemes}, nil
}

// unknown suggests what was meant, without repeating what may hold credentials.
func (schemes table) unknown(raw, name string) error {
	if derived, ok := schemes.forIssuer(raw); ok {
		return fmt.Errorf("target: that is a public URL, not a place to write to: use %s", derived)
	}
	meant, ok := schemes.find(func(s target.Scheme) bool { return slices.Contains(s.Aliases, strings.ToLower(name)) })
	if !ok {
		return fmt.Errorf("target: unknown scheme %.20q: use %s", name, schemes.accepted())
	}
	return fmt.Errorf("target: unknown scheme %.20q: did you mean %s?", name, meant.Form)
}

func (schemes table) forIssuer(issuer string) (Target, bool) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() != "" {
		return Target{}, false
	}
	host, path := strings.ToLower(u.Host), strings.Trim(u.Path, "/")
	for _, s := range schemes {
		if s.OfIssuer == nil {
			continue
		}
		if place, ok := s.OfIssuer(host, path); ok {
			// The host may be well-formed where the bucket's name is not.
			t, err := schemes.parse(place.String())
			return t, err == nil && t.place == place
		}
	}
	return Target{}, false
}
