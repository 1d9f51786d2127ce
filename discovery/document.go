package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// UnfitError reports all faults that make a well-formed document unfit for
// publication. Bytes that are not one strict JSON object give a plain error
// instead, because they are a bad response rather than a document.
type UnfitError struct{ Faults []error }

func (e *UnfitError) Error() string { return errors.Join(e.Faults...).Error() }

// Unwrap returns the faults.
func (e *UnfitError) Unwrap() []error { return e.Faults }

// Document is an OpenID provider configuration. It keeps the bytes it was
// parsed from; a rewrite changes only the value that it is for.
type Document struct {
	raw     []byte
	issuer  string
	jwksURI string
}

// ParseDocument reads a provider configuration and reports every fault that
// makes it unfit for publication as one *UnfitError: no usable issuer, no
// jwks_uri, private key material anywhere in it. Data that is not one strict
// JSON object of at most MaxSize bytes is a plain error.
func ParseDocument(data []byte) (Document, error) {
	members, err := parseObject(data)
	if err != nil {
		return Document{}, fmt.Errorf("discovery document %w", err)
	}
	var faults []error
	d := Document{raw: append([]byte(nil), data...)}
	if d.issuer, err = stringMember(data, members, "issuer"); err != nil {
		faults = append(faults, fmt.Errorf("discovery document %w", err))
	} else if _, err := ParseIssuer(d.issuer); err != nil {
		faults = append(faults, fmt.Errorf("discovery document: %w", err))
	}
	if d.jwksURI, err = stringMember(data, members, "jwks_uri"); err != nil {
		faults = append(faults, fmt.Errorf("discovery document %w", err))
	}
	if containsPrivateKey(data) {
		faults = append(faults, errors.New("discovery document holds private key material"))
	}
	if len(faults) > 0 {
		return Document{}, &UnfitError{faults}
	}
	return d, nil
}

// Issuer returns the document's own issuer, exactly as written.
func (d Document) Issuer() Issuer { return Issuer(d.issuer) }

// JWKSURI returns the document's jwks_uri.
func (d Document) JWKSURI() string { return d.jwksURI }

// Bytes returns the document as it was parsed or last rewritten.
func (d Document) Bytes() []byte { return append([]byte(nil), d.raw...) }

// WithJWKSURI returns the document with another jwks_uri. All other bytes are
// kept, unknown members included.
func (d Document) WithJWKSURI(uri string) Document {
	d.raw = d.rewrite("jwks_uri", uri)
	d.jwksURI = uri
	return d
}

// WithIssuer returns the document with another issuer, for publication ahead of
// an issuer change. The tokens that the cluster issues until then do not verify
// against it.
func (d Document) WithIssuer(issuer Issuer) Document {
	d.raw = d.rewrite("issuer", string(issuer))
	d.issuer = string(issuer)
	return d
}

// algorithmsMember lists the algorithms that relying parties accept (OpenID
// Connect Discovery 1.0 section 3); go-oidc, for example, accepts no others.
const algorithmsMember = "id_token_signing_alg_values_supported"

// Algorithms returns those that tokens may be signed with, nil if the document
// has no such list.
func (d Document) Algorithms() []string {
	var document struct {
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if json.Unmarshal(d.raw, &document) != nil {
		return nil // not a list of strings
	}
	return document.Algorithms
}

// WithAlgorithms returns the document with these algorithms added to the list
// of those that tokens may be signed with. A document that lists them all, or
// has no such list, is returned unchanged.
func (d Document) WithAlgorithms(algorithms []string) Document {
	members, err := parseObject(d.raw)
	if err != nil {
		return d
	}
	m, ok := find(members, algorithmsMember)
	if !ok {
		return d
	}
	var listed []string
	if err := json.Unmarshal(d.raw[m.start:m.end], &listed); err != nil {
		return d // not a list of strings: leave it unchanged
	}
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(listed, algorithms))))
	missing := slices.ContainsFunc(all, func(a string) bool { return !slices.Contains(listed, a) })
	if !missing {
		return d
	}
	value, err := json.Marshal(all)
	if err != nil {
		return d
	}
	d.raw = splice(d.raw, m, value)
	return d
}

func (d Document) rewrite(name, value string) []byte {
	members, err := parseObject(d.raw)
	if err != nil {
		return nil // the zero Document: there is nothing to rewrite
	}
	m, ok := find(members, name)
	if !ok {
		return nil
	}
	return splice(d.raw, m, quote(value))
}
