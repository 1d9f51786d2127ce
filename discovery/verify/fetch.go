package verify

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// defaultTimeout bounds one request. It is longer than the 5 s that AWS STS
// waits, to distinguish a slow server from one that never answers.
const defaultTimeout = 10 * time.Second

// answer is one HTTP answer, read whole.
type answer struct {
	url    string
	status int
	header http.Header
	body   []byte
	// tls is nil over plain http.
	tls *tls.ConnectionState
	// took is the time from the request to the last byte of the body, and
	// received the wall clock at that moment.
	took     time.Duration
	received time.Time
}

// get sends one anonymous request as go-oidc does, without an Accept header.
// With noCache a request header asks caches on the way to revalidate. An extra
// query parameter would break signed and strict URLs. The error is
// *UnreachableError or wraps httpx.ErrTooLarge.
func get(ctx context.Context, client *http.Client, target string, noCache bool) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return answer{}, fmt.Errorf("%q is not a URL", httpx.Clip(target))
	}
	req.Header.Set("User-Agent", httpx.UserAgent)
	req.Close = true
	if noCache {
		req.Header.Set("Cache-Control", "no-cache")
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, &UnreachableError{URL: target, Failure: httpx.FailureOf(err), Err: err}
	}
	a := answer{url: target, status: resp.StatusCode, header: resp.Header, tls: resp.TLS}
	a.body, err = httpx.ReadBody(resp, discovery.MaxSize)
	a.took, a.received = time.Since(start), time.Now()
	switch {
	case errors.Is(err, httpx.ErrTooLarge):
		return a, fmt.Errorf("%s: %w", target, err)
	case err != nil:
		return answer{}, &UnreachableError{URL: target, Failure: httpx.FailureOf(err), Err: err}
	}
	return a, nil
}

// strict returns an anonymous client with the same transport and timeout.
func strict(client *http.Client) *http.Client {
	if client == nil {
		client = &http.Client{}
	}
	return httpx.Anonymous(client.Transport, cmp.Or(client.Timeout, defaultTimeout))
}

// redirectHost returns scheme and host of a redirect's target, "" for any other
// answer.
func (a answer) redirectHost() string {
	if a.status < 300 || a.status >= 400 || a.status == http.StatusNotModified {
		return ""
	}
	location := a.header.Get("Location")
	to, err := url.Parse(location)
	if err != nil || location == "" {
		return "nowhere"
	}
	if from, err := url.Parse(a.url); err == nil {
		to = from.ResolveReference(to)
	}
	return httpx.Clip(to.Scheme + "://" + to.Host)
}
