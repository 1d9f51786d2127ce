package kubeerr

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// Refused explains an HTTP status other than the one that was expected. It
// never repeats the body: only the user name is taken from it.
func (s Server) Refused(r Request, code int, header http.Header, body []byte) error {
	a := refusal{code: code, header: header}
	var status metav1.Status
	if status, a.genuine = ParseStatus(body); a.genuine {
		a.message = status.Message
	}
	return s.explain(r, a)
}

// ParseStatus reads an API server's own error object, and returns false for an
// answer that no API server wrote.
func ParseStatus(body []byte) (metav1.Status, bool) {
	var status metav1.Status
	err := json.Unmarshal(body, &status)
	return status, err == nil && status.Kind == "Status"
}

// refusal is an answer other than the one that was expected.
type refusal struct {
	code    int
	header  http.Header
	message string
	// genuine is set if an API server wrote it, and not a proxy.
	genuine bool
}

func (s Server) explain(r Request, a refusal) error {
	where := "API server " + s.Address()
	switch {
	case a.code == http.StatusUnauthorized:
		return fmt.Errorf("%s: credentials were not accepted (HTTP 401): the token or certificate is wrong, expired or of another cluster: log in again or renew the kubeconfig", where)
	case a.code == http.StatusForbidden && a.genuine:
		return s.explainForbidden(r, a.message)
	case a.code == http.StatusForbidden:
		return fmt.Errorf("%s: %w to %s (HTTP 403), and the answer is not from an API server: check proxies and firewalls on the way", where, ErrForbidden, r)
	case a.code == http.StatusNotFound && (r.Object == "/"+discovery.ConfigurationPath || r.Object == "/"+discovery.JWKSPath):
		hint := ""
		if path := strings.TrimSuffix(s.URL.Path, "/"); path != "" {
			hint = fmt.Sprintf("; the kubeconfig's server has the path %q: check that too", path)
		}
		return fmt.Errorf("%s: discovery is not installed (HTTP 404 for %s): kube-apiserver leaves it out when --service-account-issuer is not an https URL "+
			"without query and fragment: set --service-account-issuer=https://… (its log says \"issuer URL must use https scheme\")%s",
			where, r.Object, hint)
	case a.code >= 300 && a.code < 400:
		return fmt.Errorf("%s: redirects %s to %s (HTTP %d), and credentials are not sent there: set the kubeconfig's server to the API server itself",
			where, r, redirectHost(a.header), a.code)
	case a.code == http.StatusTooManyRequests || a.code == http.StatusServiceUnavailable:
		return &busyError{s.Address(), a.code, httpx.RetryAfter(a.header, time.Now())}
	case a.code == http.StatusBadRequest && s.URL.Scheme == "http":
		return fmt.Errorf("%s: HTTP 400: it may expect https: check the kubeconfig's server", where)
	case a.code == http.StatusMethodNotAllowed, a.code == http.StatusNotAcceptable, !a.genuine:
		return fmt.Errorf("%s: failed to %s (HTTP %d), and the answer is not from an API server: "+
			"check the kubeconfig's server, any proxy on the way, and the API server's log", where, r, a.code)
	case a.code >= 500:
		return fmt.Errorf("%s: failed to %s (HTTP %d): its log says why", where, r, a.code)
	default:
		return fmt.Errorf("%s: unexpected HTTP status %d for %s", where, a.code, r)
	}
}

// Content explains a successful answer whose content is not what was expected.
func (s Server) Content(r Request, header http.Header, err error) error {
	media, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	media = strings.ToLower(strings.TrimSpace(media))
	if media != "" && !strings.HasSuffix(media, "/json") && !strings.HasSuffix(media, "+json") {
		return fmt.Errorf("API server %s: answered %s with %q and not JSON: a login page or gateway answers in its place: "+
			"set the kubeconfig's server to the API server itself", s.Address(), r, httpx.Clip(media))
	}
	return fmt.Errorf("API server %s: %s: %w", s.Address(), r.Object, err)
}

func redirectHost(header http.Header) string {
	u, err := url.Parse(header.Get("Location"))
	if err != nil || u.Host == "" {
		return "another path"
	}
	return strconv.Quote(httpx.Clip(u.Host))
}

// busyError means that an API server is overloaded or not ready.
type busyError struct {
	address string
	status  int
	after   time.Duration
}

func (e *busyError) Error() string {
	after := ""
	if e.after > 0 {
		after = fmt.Sprintf(", after at least %d s", int(e.after.Seconds()))
	}
	return fmt.Sprintf("API server %s: overloaded or not ready (HTTP %d): try again later%s", e.address, e.status, after)
}

// RetryAfter is how long the server asks clients to wait, 0 if it does not say.
func (e *busyError) RetryAfter() time.Duration { return e.after }
