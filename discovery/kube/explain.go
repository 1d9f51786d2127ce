package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Asked is a request of another client that was made of RESTConfig.
type Asked struct {
	// What is what it was to do, such as "patch secret s in namespace n".
	What string
	// Allow are the commands by which an administrator allows it to a subject,
	// which is a flag of kubectl like --user=NAME.
	Allow func(subject string) string
	// Within is for how long the client waited.
	Within time.Duration
}

// Explain says of the error of such a request what is wrong, where, and what to
// do, as Fetch does of its own. An answer that is about the object, such as that
// it is absent, in conflict or not admitted, is returned as it is.
func (s *Source) Explain(ctx context.Context, asked Asked, err error) error {
	var said apierrors.APIStatus
	at := s.home
	at.timeout = asked.Within
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &said):
		return at.explain(ctx, request{path: pathOf(err)}, err)
	}
	status := said.Status()
	genuine := !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
	switch code := int(status.Code); {
	case code == http.StatusForbidden && genuine && !strings.Contains(status.Message, `: User "`): // admission
		return err
	case code == http.StatusForbidden && genuine:
		return at.explainForbidden(refused(asked.What, status.Message), asked.Allow, status.Message)
	case code == http.StatusForbidden:
		return fmt.Errorf("API server %s: %w to %s (HTTP 403) by something that is no API server: a proxy or firewall on the way?", at.address(), ErrForbidden, asked.What)
	case code >= 300 && code < 400:
		return fmt.Errorf("API server %s: redirects (HTTP %d), and credentials are not sent there: set the kubeconfig's server to the API server itself", at.address(), code)
	case code == http.StatusUnauthorized, code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return at.explainStatus(request{}, answerOf(status))
	case !genuine && code != http.StatusNotFound: // a stranger's text, which may repeat what was sent
		return fmt.Errorf("API server %s: failed to %s (HTTP %d), and the answer is no API server's: look at its log, and at a proxy or firewall on the way", at.address(), asked.What, code)
	case code >= 500:
		return fmt.Errorf("API server %s: %w", at.address(), err)
	default:
		return err
	}
}

// refused is what was asked, by the verb that the API server names: who applies
// an object that is absent needs the right to create it too.
func refused(what, message string) string {
	_, says, found := strings.Cut(message, `" cannot `)
	verb, _, isVerb := strings.Cut(says, " ")
	_, object, isObject := strings.Cut(what, " ")
	if !found || !isVerb || !isObject {
		return what
	}
	return verb + " " + object
}

// pathOf is the path of the URL that was asked for.
func pathOf(err error) string {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return ""
	}
	u, err := url.Parse(failed.URL)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(u.Path, "/")
}

// answerOf is what explainStatus looks at, without the API server's text.
func answerOf(status metav1.Status) answer {
	a := answer{status: int(status.Code), header: http.Header{}}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		a.header.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	return a
}
