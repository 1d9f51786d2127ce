package httpx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"runtime"
	"syscall"
)

// Failure is the kind of a network failure.
type Failure string

// The kinds of failures, which are fixed in different ways.
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

// TLS reports whether the connection was made and only TLS failed.
func (f Failure) TLS() bool {
	switch f {
	case CertificateExpired, CertificateName, CertificateUnknown, CertificateInvalid, NoTLS:
		return true
	default:
		return false
	}
}

// TrustCure says how to make Go programs trust a private certificate authority.
var TrustCure = trustCure(runtime.GOOS)

func trustCure(system string) string {
	if system == "darwin" || system == "windows" { // Go uses the system's verifier there, and ignores these variables
		return "add the authority's certificate to those that the system trusts"
	}
	return "name the authority's certificate in SSL_CERT_FILE, or the directory that holds it in SSL_CERT_DIR"
}

// Cure returns the text, separator included, to append to a message about a
// failure that this machine's settings can fix.
func (f Failure) Cure() string {
	if f == CertificateUnknown {
		return ": if it is your own, " + TrustCure
	}
	return ""
}

// FailureOf classifies an error of http.Client.Do or of reading a body. The
// error's own text may quote the remote side: print the kind instead.
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
	case isErrno(err, syscall.ECONNREFUSED, 10061):
		return Refused
	case isErrno(err, syscall.EHOSTUNREACH, 10065), isErrno(err, syscall.ENETUNREACH, 10051):
		return NoRoute
	case errors.As(err, &socket) && socket.Op == "dial":
		return NotConnected
	default:
		return Broken
	}
}

// isErrno takes the number on Windows too, where syscall has made-up ones.
func isErrno(err error, unix, windows syscall.Errno) bool {
	return errors.Is(err, unix) || errors.Is(err, windows)
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
