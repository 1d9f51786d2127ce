// Package kubeerr explains the errors of API servers: what is wrong, at which
// server, and what to do about it, including the RBAC rule that is missing.
package kubeerr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrForbidden is wrapped by errors of requests that RBAC does not allow (HTTP
// 403).
var ErrForbidden = errors.New("not allowed")

// Server is the API server that answered, or did not.
type Server struct {
	URL *url.URL
	// Proxy is the host and port of the proxy on the way, "" for none.
	Proxy string
	// User returns the name of the user whose credentials were sent, "" if
	// unknown.
	User func() string
}

// Address returns the server's host and port, never with user information.
func (s Server) Address() string {
	switch {
	case s.URL.Port() != "":
		return s.URL.Host
	case s.URL.Scheme == "http":
		return s.URL.Host + ":80"
	default:
		return s.URL.Host + ":443"
	}
}

// Request is a request to an API server.
type Request struct {
	// Verb is the verb in RBAC's terms, such as "get".
	Verb string
	// Object is what the verb applies to: "secret s in namespace n", or a path.
	Object string
	// Allow returns the commands by which an administrator allows the request
	// to a subject, which is a flag of kubectl like --user=NAME.
	Allow func(subject string) string
	// Timeout is how long the client waited for an answer.
	Timeout time.Duration
}

func (r Request) String() string { return r.Verb + " " + r.Object }

// Explain explains an error of a client-go REST client. An answer that is about
// the object (absent, in conflict, not admitted) is returned unchanged.
func (s Server) Explain(ctx context.Context, r Request, err error) error {
	var answered apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &answered):
		return s.NoAnswer(ctx, r, err)
	}
	status := answered.Status()
	a := refusal{code: int(status.Code), header: http.Header{}, message: status.Message}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		a.header.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	a.genuine = !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
	switch {
	case a.genuine && a.code == http.StatusForbidden && !strings.Contains(a.message, `: User "`): // admission
		return err
	case a.code == http.StatusNotFound, a.genuine && a.code >= 400 && a.code < 500 && // not about the server, its load or the credentials
		!slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests}, a.code):
		return err
	case a.genuine && a.code >= 500 && a.code != http.StatusServiceUnavailable:
		return fmt.Errorf("API server %s: %w", s.Address(), err)
	case a.genuine && a.code == http.StatusForbidden:
		// The verb that the API server names: server-side apply of an absent
		// object needs the right to create it too.
		_, rest, _ := strings.Cut(a.message, `" cannot `)
		if verb, _, found := strings.Cut(rest, " "); found {
			r.Verb = verb
		}
	}
	return s.explain(r, a)
}
