package serve

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// generation is one consistent pair, or nothing.
type generation struct {
	issuer         discovery.Issuer
	document, keys *page
}

// location is a path as net/http parses it from a request. The raw form is
// compared too: there is one spelling of each path, and every other is unknown.
type location struct{ path, raw string }

func (l location) is(u *url.URL) bool { return u.Path == l.path && u.RawPath == l.raw }

type paths struct {
	issuer         discovery.Issuer
	document, keys location
}

// pathsOf reads from a document where the pair has to be served.
func pathsOf(object publish.Object) (paths, error) {
	document, err := discovery.ParseDocument(object.Body)
	if err != nil {
		return paths{}, err
	}
	p := paths{issuer: document.Issuer()}
	for _, place := range []struct {
		url  string
		into *location
	}{{p.issuer.ConfigurationURL(), &p.document}, {p.issuer.JWKSURI(), &p.keys}} {
		u, err := url.Parse(place.url)
		if err != nil {
			return paths{}, fmt.Errorf("issuer %q: its documents have no URL", p.issuer)
		}
		*place.into = location{u.Path, u.RawPath}
	}
	return p, nil
}

// page is a document ready to be served. Header values are slices because that
// is what http.Header holds; nobody may change them.
type page struct {
	location
	modified time.Time // in whole seconds, as HTTP has no finer

	contentType, cacheControl, lastModified []string
	identity, gzip                          variant // gzip has no body where it would be no smaller
}

// variant is one encoding of a page.
type variant struct {
	body                           []byte
	encoding, entityTag, bodyBytes []string
}

func newPage(object publish.Object, at location, before *page, now time.Time) *page {
	sum := sha256.Sum256(object.Body)
	hash := hex.EncodeToString(sum[:16])
	p := &page{
		location:     at,
		contentType:  header(object.ContentType),
		cacheControl: header(object.CacheControl),
		identity:     newVariant(bytes.Clone(object.Body), "", hash),
	}
	if small := compress(object.Body); len(small) < len(object.Body) {
		p.gzip = newVariant(small, "gzip", hash+"-gzip")
	}
	p.modified = modified(p, before, now)
	p.lastModified = header(p.modified.UTC().Format(http.TimeFormat))
	return p
}

// modified is when the body last changed. Two bodies never share a second: a
// client that compares times alone would keep the first one for ever.
func modified(p, before *page, now time.Time) time.Time {
	now = now.Truncate(time.Second)
	switch {
	case before == nil:
		return now
	case bytes.Equal(before.identity.body, p.identity.body):
		return before.modified
	case !now.After(before.modified):
		return before.modified.Add(time.Second)
	}
	return now
}

func newVariant(body []byte, encoding, hash string) variant {
	return variant{
		body:      body,
		encoding:  header(encoding),
		entityTag: header(`"` + hash + `"`),
		bodyBytes: header(strconv.Itoa(len(body))),
	}
}

// header is a value as http.Header holds it, nil for none.
func header(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func compress(body []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		panic(err) // the level exists
	}
	if _, err := w.Write(body); err != nil {
		panic(err) // a buffer takes everything
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}
