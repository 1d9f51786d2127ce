package kube

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// server is one API server, with the ways to reach it.
type server struct {
	base *url.URL
	// clients differ only in the name that TLS verifies; the next is tried
	// where a certificate is made out for another name.
	clients []*http.Client
	timeout time.Duration
	// user names the owner of the credentials, "" if unknown.
	user func() string
	// proxy is host and port of the proxy on the way, "" for none.
	proxy string
}

// request is something to ask of a server.
type request struct {
	method string
	path   string
	query  url.Values
	body   []byte
	// allow are the commands by which an administrator allows the request to
	// a subject, which is a flag of kubectl like --user=NAME.
	allow func(subject string) string
}

func (r request) String() string { return "/" + r.path }

// answer is a complete response.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// address is the host and port for messages, never with user information.
func (s server) address() string {
	if s.base.Port() != "" {
		return s.base.Host
	}
	if s.base.Scheme == "http" {
		return s.base.Host + ":80"
	}
	return s.base.Host + ":443"
}

// do returns the answer whatever its status. Its errors are explained.
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
	return answer{}, s.explain(ctx, r, err)
}

func (s server) try(ctx context.Context, client *http.Client, r request) (answer, error) {
	u := s.base.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	// The API server answers 406 to application/json alone on the keys.
	req.Header.Set("Accept", "application/json, */*")
	if len(r.body) > 0 {
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

// doWithin keeps the deadline where client-go does not: it runs an exec
// credential plugin inside the request and without a context.
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

// get demands the status 200.
func (s server) get(ctx context.Context, r request) (answer, error) {
	r.method = http.MethodGet
	a, err := s.do(ctx, r)
	if err != nil {
		return answer{}, err
	}
	if a.status != http.StatusOK {
		return answer{}, s.explainStatus(r, a)
	}
	return a, nil
}

// getObject demands a JSON object.
func (s server) getObject(ctx context.Context, r request, into any) error {
	a, err := s.get(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return s.explainContent(r, a, errors.New("the answer is not the expected JSON"))
	}
	return nil
}

// isJSON judges the media type. A gateway that names none is believed.
func (a answer) isJSON() bool {
	contentType := a.header.Get("Content-Type")
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json"))
}

// time is when the server says that it answered, zero where it does not, or
// where a cache may have kept the answer.
func (a answer) time() time.Time {
	if a.header.Get("Age") != "" {
		return time.Time{}
	}
	at, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return at
}

// kubeStatus is the part that we use of the API server's own error object
// (k8s.io/apimachinery/pkg/apis/meta/v1.Status).
type kubeStatus struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Details struct {
		Kind string `json:"kind"`
	} `json:"details"`
}

// kubeStatus returns false for an answer that no API server wrote.
func (a answer) kubeStatus() (kubeStatus, bool) {
	var status kubeStatus
	err := json.Unmarshal(a.body, &status)
	return status, err == nil && status.Kind == "Status"
}
