package verify_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/internal/httpx"
)

const secretBody = "what-a-stranger-wrote"

func TestPublished(t *testing.T) {
	old := okPage("application/jwk-set+json", []byte(`{"keys":[],"note":"`+secretBody+`"}`))
	status := func(code int) func(*site) {
		return func(s *site) { s.keys.status, s.keys.body = code, []byte(secretBody) }
	}
	for _, tc := range []struct {
		name      string
		bend      func(*site)
		want      any
		temporary bool
		text      string
	}{
		{name: "as it should be", bend: func(*site) {}},
		{name: "forbidden", bend: status(403), want: new(*verify.StatusError), temporary: true, text: "allUsers"},
		{name: "unauthorized", bend: status(401), want: new(*verify.StatusError), temporary: true, text: "not public"},
		{name: "not there yet", bend: status(404), want: new(*verify.StatusError), temporary: true, text: "nothing is published"},
		{name: "overloaded", bend: status(503), want: new(*verify.StatusError), temporary: true, text: "503"},
		{name: "odd", bend: status(418), want: new(*verify.StatusError), text: "418"},
		{name: "redirect", bend: func(s *site) {
			s.keys.status = 301
			s.keys.set("Location", "https://other.example.com/login?"+secretBody)
		}, want: new(*verify.StatusError), text: `"https://other.example.com"`},
		{name: "redirected document", bend: func(s *site) {
			s.document.status = 307
			s.document.set("Location", "/elsewhere")
		}, want: new(*verify.StatusError), text: `"https://127.0.0.1:`},
		{name: "stale by age", bend: func(s *site) {
			s.keys.body = old.body
			s.keys.set("Age", "20")
		}, want: new(*verify.StaleError), temporary: true, text: "40s"},
		{name: "stale by revalidation", bend: func(s *site) {
			fresh := *s.keys
			s.keys = &page{status: 200, header: http.Header{}, body: old.body, fresh: &fresh}
		}, want: new(*verify.StaleError), temporary: true, text: "older copy"},
		{name: "different, perhaps cached", bend: func(s *site) { s.keys.body = old.body },
			want: new(*verify.DifferentError), temporary: true, text: "other content"},
		{name: "different", bend: func(s *site) {
			s.keys.body = old.body
			s.keys.set("Cache-Control", "no-store")
		}, want: new(*verify.DifferentError), text: "other content"},
		{name: "other document", bend: func(s *site) {
			s.document.body = append(s.document.body, ' ')
			s.document.header.Del("Cache-Control")
		}, want: new(*verify.DifferentError), text: "openid-configuration"},
		{name: "huge", bend: func(s *site) { s.keys.body = make([]byte, 2<<20) },
			want: new(*verify.DifferentError), text: "other content"},
		{name: "not HTTP", bend: func(s *site) { s.keys.serve = hijack(secretBody) },
			want: new(*verify.UnreachableError), temporary: true, text: "not HTTP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			document, keys := s.document.body, s.keys.body
			tc.bend(s)
			err := verify.Published(t.Context(), s.client(), discovery.Issuer(s.issuer), document, keys)
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.As(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("got %T %v, want %T with %q", err, err, tc.want, tc.text)
			}
			if verify.Temporary(err) != tc.temporary {
				t.Errorf("temporary is %v: %v", !tc.temporary, err)
			}
			if strings.Contains(err.Error(), secretBody) {
				t.Errorf("the error echoes the remote body: %v", err)
			}
		})
	}
}

func hijack(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte(answer + "\r\n\r\n"))
		_ = conn.Close()
	}
}

func TestPublishedIsAnonymous(t *testing.T) {
	s := newSite(t)
	client := s.client()
	client.Jar = jar{}
	if err := verify.Published(t.Context(), client, discovery.Issuer(s.issuer), s.document.body, s.keys.body); err != nil {
		t.Fatal(err)
	}
	if len(s.requests) != 2 {
		t.Errorf("%d requests sent, want 2", len(s.requests))
	}
	for _, r := range s.requests {
		for _, name := range []string{"Cookie", "Authorization", "Accept"} {
			if r.Header.Get(name) != "" {
				t.Errorf("%s was sent", name)
			}
		}
		if r.UserAgent() != "oidc-publisher" {
			t.Errorf("user agent is %q", r.UserAgent())
		}
	}
}

func TestPublishedRefusesAnInvalidDocument(t *testing.T) {
	s := newSite(t)
	err := verify.Published(t.Context(), s.client(), discovery.Issuer(s.issuer), []byte("{}"), s.keys.body)
	if err == nil || verify.Temporary(err) || len(s.requests) != 0 {
		t.Errorf("err %v after %d requests", err, len(s.requests))
	}
}

func TestPublishedUnreachable(t *testing.T) {
	s := newSite(t)
	for _, tc := range []struct {
		name      string
		transport http.RoundTripper
		want      httpx.Failure
		temporary bool
	}{
		{"untrusted", http.DefaultTransport, httpx.CertificateUnknown, false},
		{"no such host", failing{&net.DNSError{Err: "no such host", IsNotFound: true}}, httpx.NoSuchHost, true},
		{"lookup failed", failing{&net.DNSError{Err: "servfail"}}, httpx.LookupFailed, true},
		{"time out", failing{context.DeadlineExceeded}, httpx.TimedOut, true},
		{"canceled", failing{context.Canceled}, httpx.Canceled, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := &http.Client{Transport: tc.transport, Timeout: time.Minute}
			err := verify.Published(t.Context(), client, discovery.Issuer(s.issuer), s.document.body, s.keys.body)
			var unreachable *verify.UnreachableError
			if !errors.As(err, &unreachable) || unreachable.Failure != tc.want {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if verify.Temporary(err) != tc.temporary {
				t.Errorf("temporary is %v", !tc.temporary)
			}
		})
	}
}

func TestPublishedConnectionRefused(t *testing.T) {
	s := newSite(t)
	s.server.Close()
	err := verify.Published(t.Context(), s.client(), discovery.Issuer(s.issuer), s.document.body, s.keys.body)
	if err == nil || !strings.Contains(err.Error(), "refused") || !verify.Temporary(err) {
		t.Errorf("got %v", err)
	}
}

// failing is a transport whose requests always fail.
type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// jar would make every request recognisable.
type jar struct{}

func (jar) SetCookies(*url.URL, []*http.Cookie) {}

func (jar) Cookies(*url.URL) []*http.Cookie {
	return []*http.Cookie{{Name: "session", Value: "secret"}}
}
