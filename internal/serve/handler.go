package serve

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"oidc-publisher/discovery"
)

// retryAfter is in seconds: how soon a reader may hope for documents that are
// not there yet.
const retryAfter = "5"

const allowed = "GET, HEAD, OPTIONS"

// fixed are header values that never change; nobody may change them.
type fixed struct {
	anyOrigin, nosniff, vary, allow, json, noStore, retry []string
	preflightHeaders, preflightAge                        []string
}

var headers = fixed{
	anyOrigin:        []string{"*"},
	nosniff:          []string{"nosniff"},
	vary:             []string{"Accept-Encoding"},
	allow:            []string{allowed},
	json:             []string{"application/json"},
	noStore:          []string{"no-store"},
	retry:            []string{retryAfter},
	preflightHeaders: []string{"*"},
	preflightAge:     []string{"86400"},
}

// failure is an answer that is none of the documents.
type failure struct {
	status int
	body   []byte
	length []string
}

var (
	notFound    = newFailure(http.StatusNotFound, "not_found", "this server has the two documents of its issuer, and nothing else")
	notAllowed  = newFailure(http.StatusMethodNotAllowed, "method_not_allowed", "documents can be read with GET and HEAD")
	unavailable = newFailure(http.StatusServiceUnavailable, "unavailable", "the documents are not known yet: try again soon")
)

func newFailure(status int, code, message string) failure {
	v := newVariant([]byte(`{"error":"`+code+`","message":"`+message+`"}`+"\n"), "", "")
	return failure{status: status, body: v.body, length: v.bodyBytes}
}

// ServeHTTP serves the two documents.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what, page := s.current.Load().find(r.URL)
	status := answer(w, r, what, page)
	s.metrics.count(what, status)
	if s.debug {
		s.log.DebugContext(r.Context(), "access", "method", r.Method, "path", r.URL.Path, "status", status, "from", r.RemoteAddr)
	}
}

// find returns no page for what is not there (yet).
func (g *generation) find(u *url.URL) (resource, *page) {
	switch {
	case g.document == nil:
		return expected(u), nil
	case g.document.is(u):
		return documentResource, g.document
	case g.keys.is(u):
		return keysResource, g.keys
	}
	return otherResource, nil
}

// expected tells whether a path may turn out to be a document's, while the
// issuer is not known.
func expected(u *url.URL) resource {
	switch {
	case strings.HasSuffix(u.Path, "/"+discovery.ConfigurationPath):
		return documentResource
	case strings.HasSuffix(u.Path, "/"+discovery.JWKSPath):
		return keysResource
	}
	return otherResource
}

// answer returns the status that it sent.
func answer(w http.ResponseWriter, r *http.Request, what resource, p *page) int {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = headers.anyOrigin
	h["X-Content-Type-Options"] = headers.nosniff
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case what == otherResource:
		return notFound.send(w, r)
	case r.Method == http.MethodOptions:
		return preflight(w)
	case !read:
		h["Allow"] = headers.allow
		return notAllowed.send(w, r)
	case p == nil:
		h["Retry-After"] = headers.retry
		return unavailable.send(w, r)
	}
	return p.send(w, r)
}

func (f failure) send(w http.ResponseWriter, r *http.Request) int {
	h := w.Header()
	h["Content-Type"] = headers.json
	h["Cache-Control"] = headers.noStore
	h["Content-Length"] = f.length
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(f.body) // the reader may be gone
	}
	return f.status
}

// preflight answers what a browser asks before it lets a script read (Fetch
// standard, section 3.2).
func preflight(w http.ResponseWriter) int {
	h := w.Header()
	h["Allow"] = headers.allow
	h["Access-Control-Allow-Methods"] = headers.allow
	h["Access-Control-Allow-Headers"] = headers.preflightHeaders
	h["Access-Control-Max-Age"] = headers.preflightAge
	w.WriteHeader(http.StatusNoContent)
	return http.StatusNoContent
}

func (p *page) send(w http.ResponseWriter, r *http.Request) int {
	v := &p.identity
	if p.gzip.body != nil && prefersGzip(r.Header["Accept-Encoding"]) {
		v = &p.gzip
	}
	h := w.Header()
	h["Vary"] = headers.vary
	h["Etag"] = v.entityTag
	h["Last-Modified"] = p.lastModified
	if p.cacheControl != nil {
		h["Cache-Control"] = p.cacheControl
	}
	if p.unchanged(r.Header, v) {
		w.WriteHeader(http.StatusNotModified)
		return http.StatusNotModified
	}
	if v.encoding != nil {
		h["Content-Encoding"] = v.encoding
	}
	h["Content-Type"] = p.contentType
	h["Content-Length"] = v.bodyBytes
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(v.body) //nolint:gosec // JSON that was judged, sent as such with nosniff; the reader may be gone
	}
	return http.StatusOK
}

// unchanged is the order of RFC 9110 section 13.2.2: tags, and times only
// without them.
func (p *page) unchanged(h http.Header, v *variant) bool {
	if tags := h["If-None-Match"]; len(tags) > 0 {
		return anyTag(tags, v.entityTag[0])
	}
	since := h["If-Modified-Since"]
	if len(since) != 1 {
		return false
	}
	if since[0] == p.lastModified[0] {
		return true
	}
	t, err := http.ParseTime(since[0])
	return err == nil && !p.modified.After(t) && !t.After(time.Now())
}
