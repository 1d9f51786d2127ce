package kube

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
	"oidc-publisher/internal/kubeerr"
)

// server is one API server, with the ways to reach it.
type server struct {
	kubeerr.Server

	// clients differ only in the name that TLS verifies; the next one is used if
	// the certificate is for another name.
	clients []*http.Client
	timeout time.Duration
}

// request is one request to an API server.
type request struct {
	path  string
	query url.Values
	// body is nil for a GET, and that of a POST.
	body []byte
	// allow returns the commands by which an administrator allows the request
	// to a subject, which is a flag of kubectl like --user=NAME.
	allow func(subject string) string
}

// explained describes the request for errors.
func (s server) explained(r request) kubeerr.Request {
	verb := "get"
	switch {
	case r.body != nil:
		verb = "create"
	case r.query != nil:
		verb = "list"
	}
	return kubeerr.Request{Verb: verb, Object: "/" + r.path, Allow: r.allow, Timeout: s.timeout}
}

// answer is a complete response.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do returns the answer whatever its status. Its errors say what to do.
func (s server) do(ctx context.Context, r request) (answer, error) {
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var err error
	for _, client := range s.clients {
		var a answer
		if a, err = s.try(bounded, client, r); err == nil {
			return a, nil
		}
		if mismatch := (x509.HostnameError{}); !errors.As(err, &mismatch) {
			break
		}
	}
	return answer{}, s.NoAnswer(ctx, s.explained(r), err)
}

func (s server) try(ctx context.Context, client *http.Client, r request) (answer, error) {
	u := s.URL.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	method := http.MethodGet
	if r.body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	// The API server answers 406 to application/json alone on the keys.
	req.Header.Set("Accept", "application/json, */*")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := doWithin(ctx, client, req)
	if err != nil {
		return answer{}, err
	}
	body, err := httpx.ReadBody(resp, discovery.MaxSize)
	if err != nil {
		return answer{}, err
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// doWithin enforces the deadline where client-go does not: it runs an exec
// credential plugin within the request and without a context.
func doWithin(ctx context.Context, client *http.Client, req *http.Request) (*http.Response, error) {
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := client.Do(req)
		done <- result{resp, err}
	}()
	select {
	case r := <-done:
		return r.resp, r.err
	case <-ctx.Done():
		go func() {
			if late := <-done; late.err == nil {
				_ = late.resp.Body.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// get requires the status 200.
func (s server) get(ctx context.Context, r request) (answer, error) {
	a, err := s.do(ctx, r)
	if err != nil {
		return answer{}, err
	}
	if a.status != http.StatusOK {
		return answer{}, s.refused(r, a)
	}
	return a, nil
}

// decode requires a JSON object.
func (s server) decode(r request, a answer, into any) error {
	if json.Unmarshal(a.body, into) != nil {
		return s.unusable(r, a, errors.New("the answer is not the expected JSON"))
	}
	return nil
}

func (s server) refused(r request, a answer) error {
	return s.Refused(s.explained(r), a.status, a.header, a.body)
}

func (s server) unusable(r request, a answer, err error) error {
	return s.Content(s.explained(r), a.header, err)
}

// date returns the Date of the answer, or zero if there is none or the answer
// may come from a cache.
func (a answer) date() time.Time {
	if a.header.Get("Age") != "" {
		return time.Time{}
	}
	at, _ := http.ParseTime(a.header.Get("Date"))
	return at
}
