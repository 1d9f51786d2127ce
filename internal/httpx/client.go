package httpx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"runtime"
	"time"
)

// UserAgent is what every request of this tool calls itself.
const UserAgent = "oidc-publisher"

// maxHeaderBytes bounds the header of an answer; real ones are below 4 KiB.
const maxHeaderBytes = 64 << 10

// Anonymous returns a client that is nobody in particular: no cookies, no
// credentials, no redirect followed (the 3xx answer itself is returned), and
// no exchange longer than timeout. A nil transport is a copy of
// http.DefaultTransport without kept connections, so that HTTPS_PROXY,
// NO_PROXY and SSL_CERT_FILE work as everywhere.
func Anonymous(transport http.RoundTripper, timeout time.Duration) *http.Client {
	if transport == nil {
		transport = freshTransport()
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
}

func freshTransport() *http.Transport {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment}
	if d, ok := http.DefaultTransport.(*http.Transport); ok {
		t = d.Clone()
	}
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = maxHeaderBytes
	return t
}

// Failure is the kind of reason for which no answer came.
type Failure string

// The kinds that people mend in different ways.
const (
	NoSuchHost         Failure = "no such host"
	LookupFailed       Failure = "name lookup failed"
	Refused            Failure = "connection refused"
	NoRoute            Failure = "no route to the host"
	NotConnected       Failure = "connection failed"
	TimedOut           Failure = "no answer in time"
	Canceled           Failure = "canceled"
	CertificateExpired Failure = "certificate expired or not yet valid"
	CertificateName    Failure = "certificate is for another name"
	CertificateUnknown Failure = "certificate authority not trusted"
	CertificateInvalid Failure = "certificate invalid"
	NoTLS              Failure = "TLS handshake failed"
	Broken             Failure = "connection broke or the answer is not HTTP"
)

// TLS reports whether the connection stood and only TLS failed.
func (f Failure) TLS() bool {
	switch f {
	case CertificateExpired, CertificateName, CertificateUnknown, CertificateInvalid, NoTLS:
		return true
	default:
		return false
	}
}

// TrustCure makes Go programs trust an authority of one's own.
var TrustCure = trustCure(runtime.GOOS)

func trustCure(system string) string {
	if system == "darwin" || system == "windows" { // where Go asks the system, and ignores these variables
		return "add the authority's certificate to those that the system trusts"
	}
	return "name the authority's certificate in SSL_CERT_FILE, or the directory that holds it in SSL_CERT_DIR"
}

// Cure is what to add to a message about the failure, with what joins them,
// where this machine's settings can mend it.
func (f Failure) Cure() string {
	if f == CertificateUnknown {
		return ": if it is your own, " + TrustCure
	}
	return ""
}

// FailureOf tells the kind of an error of http.Client.Do or of reading a body.
// The error's own text may quote the remote side: show the kind instead.
func FailureOf(err error) Failure {
	if f := certificateFailure(err); f != "" {
		return f
	}
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	var socket *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.As(err, &dns) && dns.IsNotFound:
		return NoSuchHost
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout(), dns != nil && dns.IsTimeout:
		return TimedOut
	case errors.As(err, &dns):
		return LookupFailed
	case errors.Is(err, errConnectionRefused):
		return Refused
	case errors.Is(err, errHostUnreachable), errors.Is(err, errNetworkUnreachable):
		return NoRoute
	case errors.As(err, &socket) && socket.Op == "dial":
		return NotConnected
	default:
		return Broken
	}
}

func certificateFailure(err error) Failure {
	var (
		invalid  x509.CertificateInvalidError
		name     x509.HostnameError
		unknown  x509.UnknownAuthorityError
		roots    x509.SystemRootsError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		verified *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return CertificateExpired
	case errors.As(err, &name):
		return CertificateName
	case errors.As(err, &unknown), errors.As(err, &roots):
		return CertificateUnknown
	case errors.As(err, &verified):
		return CertificateInvalid
	case errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return NoTLS
	default:
		return ""
	}
}
