package exchange

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
	"oidc-publisher/internal/service/retry"
)

const (
	// maxAnswer bounds a response body in bytes, after decompression.
	maxAnswer = 1 << 20
	// maxCredential bounds the size of a token: more than fits into an HTTP
	// header.
	maxCredential = 64 << 10
	// maxAttempts is the largest number of attempts for one request.
	maxAttempts = 4
	// defaultLimit bounds an exchange if its context has no deadline.
	defaultLimit   = 25 * time.Second
	defaultTimeout = 10 * time.Second
	defaultBackoff = 500 * time.Millisecond
)

// Calling configures the requests to a service. The zero value is ready for use.
type Calling struct {
	// Transport carries the requests. Nil is a copy of
	// http.DefaultTransport: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and
	// SSL_CERT_DIR are honoured.
	Transport http.RoundTripper
	// Timeout bounds one attempt, 0 for 10 s. All attempts together are
	// bounded by the context, or by 25 s if that has no deadline.
	Timeout time.Duration
	// Backoff is the wait before the second attempt, 0 for 500 ms; it
	// doubles with each attempt.
	Backoff time.Duration
}

// caller sends requests to one service until it accepts or refuses.
type caller struct {
	Calling
	// service is its name in messages.
	service string
	// reason parses an error body into the service's own code and text.
	reason func(body []byte) (code, text string)
}

// unusable is the error for a success status without a usable credential.
func (c caller) unusable(why string) error {
	return fmt.Errorf("%s accepted the token, but %s", c.service, why)
}

// credential returns an issued token as a credential. It refuses what can't be
// a token, and the token that was sent: otherwise a pull secret would fail only
// when it is used.
func (c caller) credential(username, issued string, expiry time.Time, sent ...string) (Credential, error) {
	foreign := func(r rune) bool { return r <= ' ' || r > '~' }
	switch {
	case strings.TrimSpace(issued) == "":
		return Credential{}, c.unusable("answered without a token")
	case len(issued) > maxCredential || strings.ContainsFunc(issued, foreign):
		return Credential{}, c.unusable("its answer is not a token: it is too long, or has characters that tokens do not have")
	case slices.Contains(sent, issued):
		return Credential{}, c.unusable("sent back the token that it was given")
	case !expiry.IsZero() && !expiry.After(time.Now()):
		return Credential{}, c.unusable(fmt.Sprintf("its token expired at %s: check this machine's clock", expiry.UTC().Format(time.RFC3339)))
	}
	return Credential{Username: username, Password: discovery.NewSecret(issued), Expiry: expiry}, nil
}

// post sends a body, retries temporary failures, and decodes the JSON of a
// success. The error is a *RefusedError, an *UnavailableError, or explains what
// is wrong with the answer. Secrets in the service's text are masked.
func (c caller) post(ctx context.Context, target string, header http.Header, body []byte, answer any, secrets ...string) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultLimit)
		defer cancel()
	}
	first := cmp.Or(c.Backoff, defaultBackoff)
	backoff := retry.Backoff{First: first, Longest: first << maxAttempts}
	for attempt := 1; ; attempt++ {
		data, err := c.once(ctx, target, header, body, secrets)
		var later *UnavailableError
		switch {
		case err == nil && json.Unmarshal(data, answer) != nil: // its error may quote the answer
			return c.unusable("the answer is not the JSON of a token exchange: check the address and the proxy")
		case !errors.As(err, &later) || later.final:
			return err
		}
		later.Attempts = attempt
		wait := cmp.Or(later.RetryAfter, backoff.Next())
		deadline, _ := ctx.Deadline()
		if attempt == maxAttempts || time.Until(deadline) <= wait || !retry.Sleep(ctx, wait) {
			later.Err = ctx.Err()
			return later
		}
	}
}

func (c caller) once(ctx context.Context, target string, header http.Header, body []byte, secrets []string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: its address is not a URL", c.service)
	}
	req.Header = header.Clone()
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", httpx.UserAgent)
	host := req.URL.Host
	resp, err := httpx.Anonymous(c.Transport, cmp.Or(c.Timeout, defaultTimeout)).Do(req)
	if err != nil {
		return nil, c.noAnswer(ctx, host, err)
	}
	answer, err := httpx.ReadBody(resp, maxAnswer)
	switch {
	case errors.Is(err, httpx.ErrTooLarge):
		return nil, fmt.Errorf("%s (%s) answered with more than %d bytes, so this is not the service: check the address and the proxy", c.service, host, maxAnswer)
	case err != nil:
		return nil, c.noAnswer(ctx, host, err)
	}
	return c.accept(resp, answer, secrets)
}

// noAnswer returns the error of a request without an answer, without the text of
// err, which may quote the remote side.
func (c caller) noAnswer(ctx context.Context, host string, err error) error {
	failure := httpx.FailureOf(err)
	return &UnavailableError{Service: c.service, Host: host, Attempts: 1, Reason: string(failure) + failure.Cure(), Err: ctx.Err(), final: failure.TLS() || ctx.Err() != nil}
}

// accept returns the body of a success, and the error of any other status.
func (c caller) accept(resp *http.Response, body []byte, secrets []string) ([]byte, error) {
	host, status := resp.Request.URL.Host, resp.StatusCode
	switch {
	case status == http.StatusOK || status == http.StatusCreated:
		return body, nil
	case status < 400:
		redirect := ""
		if to, err := resp.Location(); err == nil {
			redirect = ", a redirect to " + strconv.Quote(httpx.MaskForeign(to.Host, secrets...))
		}
		return nil, fmt.Errorf("%s (%s) answered HTTP %d%s, and tokens are sent to the configured address only: check it and the proxy", c.service, host, status, redirect)
	}
	code, text := c.reason(body)
	code = httpx.MaskForeign(code, secrets...)
	reason := cmp.Or(joined(": ", code, httpx.MaskForeign(text, secrets...)), "without a reason")
	if status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500 {
		return nil, &UnavailableError{Service: c.service, Host: host, Status: status, Attempts: 1, Reason: reason, RetryAfter: httpx.RetryAfter(resp.Header, time.Now())}
	}
	return nil, &RefusedError{Service: c.service, Host: host, Status: status, Code: code, Reason: reason}
}

// joined joins the parts that are not empty.
func joined(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), separator)
}

// serviceURL parses the base URL of a service: https, or http on loopback, with
// host, port and path only.
func serviceURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("%q is not a URL", httpx.MaskForeign(raw))
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("the URL of %q must not contain a user, query or fragment", httpx.MaskForeign(u.Host))
	case u.Scheme == "https" || u.Scheme == "http" && discovery.Loopback(u.Hostname()):
		return u, nil
	default:
		return nil, fmt.Errorf("%q must be https: a token is sent to it (http is for loopback only)", httpx.MaskForeign(raw))
	}
}

// plain reports whether a name has only ASCII letters, digits and the others.
func plain(name, others string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(others, r)
	})
}
