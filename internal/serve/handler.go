package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

const (
	allowed = "GET, HEAD, OPTIONS"
	// retryAfter is the time in seconds after which to ask again for documents
	// that do not exist yet.
	retryAfter = "5"
)

// page is one document, ready to be served.
type page struct {
	path   *url.URL
	body   []byte
	header http.Header
	// modified is the time at which the body last changed.
	modified time.Time
}

// newPage makes the page of an object. before is the page that it replaces, or
// nil.
func newPage(object publish.Object, path *url.URL, before *page) *page {
	sum := sha256.Sum256(object.Body)
	p := &page{path: path, body: object.Body, header: publicHeader(), modified: modified(object.Body, before, time.Now().Truncate(time.Second))}
	p.header.Set("Content-Type", object.ContentType)
	p.header.Set("Etag", `"`+hex.EncodeToString(sum[:16])+`"`)
	if object.CacheControl != "" {
		p.header.Set("Cache-Control", object.CacheControl)
	}
	return p
}

// publicHeader lets scripts of any origin read an answer.
func publicHeader() http.Header {
	return http.Header{"Access-Control-Allow-Origin": {"*"}, "X-Content-Type-Options": {"nosniff"}}
}

// modified returns a time for the body. Two bodies never get the same second,
// the resolution of HTTP dates, because a client that compares only dates would
// keep the first body.
func modified(body []byte, before *page, now time.Time) time.Time {
	switch {
	case before == nil:
		return now
	case bytes.Equal(before.body, body):
		return before.modified
	case !now.After(before.modified):
		return before.modified.Add(time.Second)
	}
	return now
}

// is reports whether the URL is that of the page. It compares the raw path too,
// so that no other spelling of the path matches.
func (p *page) is(u *url.URL) bool { return p.path.Path == u.Path && p.path.RawPath == u.RawPath }

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	maps.Copy(w.Header(), p.header)
	http.ServeContent(w, r, "", p.modified, bytes.NewReader(p.body))
}

// ServeHTTP serves the two documents.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	recorder := &statusRecorder{ResponseWriter: w}
	what, page := s.current.Load().find(r.URL)
	answer(recorder, r, what, page)
	s.metrics.count(what, recorder.status)
	if s.log.Enabled(r.Context(), slog.LevelDebug) {
		s.log.DebugContext(r.Context(), "access", "method", r.Method, "path", r.URL.Path, "status", recorder.status, "from", r.RemoteAddr)
	}
}

// statusRecorder remembers the status of a response.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// ReadFrom lets the ResponseWriter use its own buffer: there would be a new one
// for each request.
func (r *statusRecorder) ReadFrom(body io.Reader) (int64, error) {
	return io.Copy(r.ResponseWriter, body)
}

// find returns no page if there is no such document (yet).
func (p *pages) find(u *url.URL) (resource, *page) {
	switch {
	case p.document == nil:
		return expected(u), nil
	case p.document.is(u):
		return documentResource, p.document
	case p.keys.is(u):
		return keysResource, p.keys
	}
	return otherResource, nil
}

// expected returns which document a path may belong to while the issuer is
// unknown.
func expected(u *url.URL) resource {
	switch {
	case strings.HasSuffix(u.Path, "/"+discovery.ConfigurationPath):
		return documentResource
	case strings.HasSuffix(u.Path, "/"+discovery.JWKSPath):
		return keysResource
	}
	return otherResource
}

func answer(w http.ResponseWriter, r *http.Request, what resource, p *page) {
	if p != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		p.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	maps.Copy(h, publicHeader())
	switch {
	case what == otherResource:
		fail(w, http.StatusNotFound, "not_found", "only the issuer's two documents are served here")
	case r.Method == http.MethodOptions:
		preflight(w)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", allowed)
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "use GET or HEAD")
	default:
		h.Set("Retry-After", retryAfter)
		fail(w, http.StatusServiceUnavailable, "unavailable", "there are no documents yet: retry soon")
	}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"error":"` + code + `","message":"` + message + `"}` + "\n")) // the client may be gone
}

// preflight answers a browser that asks whether a script may read the documents
// (Fetch standard, section 3.2).
func preflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Allow", allowed)
	h.Set("Access-Control-Allow-Methods", allowed)
	h.Set("Access-Control-Allow-Headers", "*")
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}
