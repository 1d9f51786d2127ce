package httpx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/internal/httpx"
)

func TestFailureOf(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want httpx.Failure
	}{
		{&net.DNSError{IsNotFound: true}, httpx.NoSuchHost},
		{&net.DNSError{}, httpx.LookupFailed},
		{&net.DNSError{IsTimeout: true}, httpx.TimedOut},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, httpx.Refused},
		{&net.OpError{Op: "dial", Err: syscall.ENETUNREACH}, httpx.NoRoute},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, httpx.NoRoute},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, httpx.Broken},
		{context.DeadlineExceeded, httpx.TimedOut},
		{context.Canceled, httpx.Canceled},
		{tls.AlertError(40), httpx.NoTLS},
		{tls.RecordHeaderError{}, httpx.NoTLS},
		{errors.New("malformed HTTP response"), httpx.Broken},
	} {
		wrapped := &url.Error{Op: "Get", URL: "https://a.example.com", Err: fmt.Errorf("x: %w", tc.err)}
		if got := httpx.FailureOf(wrapped); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestAnonymousDoesNotFollow(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	client := httpx.Anonymous(nil, time.Minute)
	for range 2 {
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := httpx.ReadBody(resp, 1<<10); err != nil || resp.StatusCode != http.StatusFound {
			t.Errorf("%d %v", resp.StatusCode, err)
		}
	}
	if asked != 2 {
		t.Errorf("%d requests arrived", asked)
	}
}

func TestAnonymousKeepsTheProxySettings(t *testing.T) {
	transport, ok := httpx.Anonymous(nil, time.Minute).Transport.(*http.Transport)
	if !ok || transport.Proxy == nil || !transport.DisableKeepAlives || transport == http.DefaultTransport {
		t.Errorf("%+v", transport)
	}
}

func TestAnonymousIsBounded(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	_, err := httpx.Anonymous(nil, 20*time.Millisecond).Get(server.URL)
	if got := httpx.FailureOf(err); got != httpx.TimedOut {
		t.Errorf("%q of %v", got, err)
	}
}

func TestReadBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.Repeat("x", 100)))
	}))
	defer server.Close()
	for limit, want := range map[int64]error{99: httpx.ErrTooLarge, 100: nil} {
		resp, err := http.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := httpx.ReadBody(resp, limit); !errors.Is(err, want) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}
