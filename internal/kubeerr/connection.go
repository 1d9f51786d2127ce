package kubeerr

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"oidc-publisher/internal/httpx"
)

// NoAnswer explains why a request got no complete answer. It leaves out the
// URL, because the URL in a kubeconfig may contain a password.
func (s Server) NoAnswer(ctx context.Context, r Request, err error) error {
	if urlError := (*url.Error)(nil); errors.As(err, &urlError) {
		err = urlError.Err
	}
	where := "API server " + s.Address()
	if s.Proxy != "" {
		where += " (through proxy " + s.Proxy + ")"
	}
	failure := httpx.FailureOf(err)
	switch {
	case failure == httpx.Canceled:
		return fmt.Errorf("%s: %w", where, err)
	case failure.TLS():
		return fmt.Errorf("%s: %s: %w", where, tlsReason(failure, err), err)
	case failure == httpx.NoSuchHost, failure == httpx.LookupFailed:
		return fmt.Errorf("%s: the host name %q can't be resolved: check the kubeconfig's server and this machine's DNS: %w", where, s.URL.Hostname(), err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no answer before the deadline: %w", where, ctx.Err())
	case failure == httpx.TimedOut:
		return fmt.Errorf("%s: no answer within %v: check that it is up and reachable from here (firewall, VPN, wrong address): %w",
			where, r.Timeout.Round(time.Millisecond), err)
	case failure == httpx.Refused, failure == httpx.NoRoute, failure == httpx.NotConnected:
		return fmt.Errorf("%s: can't connect: the API server is down, or the kubeconfig names a wrong address or port: %w", where, err)
	case errors.Is(err, httpx.ErrTooLarge):
		return fmt.Errorf("%s: the answer to %s is %w: this is not the document of an API server", where, r, err)
	default:
		// Not wrapped: the text may repeat what the remote side sent.
		return fmt.Errorf("%s: %s failed: %s: try again, and if it fails again check proxies and load balancers on the way", where, r, httpx.Clip(err.Error()))
	}
}

func tlsReason(failure httpx.Failure, err error) string {
	var invalid x509.CertificateInvalidError
	switch {
	case failure == httpx.CertificateUnknown:
		return "its certificate was not issued by the CA that the kubeconfig trusts: get a current kubeconfig " +
			"(certificate-authority-data), or find out which server answers at this address"
	case failure == httpx.CertificateName:
		return "its certificate is for other names: connect by one of them, or set tls-server-name in the kubeconfig"
	case failure == httpx.CertificateInvalid:
		return "its certificate is not valid"
	case errors.As(err, &invalid) && time.Now().Before(invalid.Cert.NotBefore):
		return fmt.Sprintf("its certificate is valid only from %s: check this machine's clock", invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
	case failure == httpx.CertificateExpired:
		return fmt.Sprintf("its certificate expired on %s: renew it (kubeadm certs renew apiserver), or check this machine's clock",
			invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it speaks plain HTTP: the kubeconfig's server must be the API server's https port"
	default:
		return "it ended the TLS handshake: it may refuse this client's certificate"
	}
}
