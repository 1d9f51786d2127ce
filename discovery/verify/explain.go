package verify

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"oidc-publisher/internal/httpx"
)

// explanation is why something failed, and what to do.
type explanation struct{ cause, cure string }

// failures explains what does not depend on more than its kind.
var failures = map[httpx.Failure]explanation{
	httpx.Refused:            {"the connection was refused", "start the server, open its port, or correct the port in the issuer"},
	httpx.NoRoute:            {"there is no route to the host", "check this machine's network, HTTPS_PROXY and NO_PROXY"},
	httpx.TimedOut:           {"no answer came in time", "check firewalls, the proxy (HTTPS_PROXY, NO_PROXY) and the server's load"},
	httpx.Canceled:           {"the request was canceled", "run it again"},
	httpx.CertificateExpired: {"the certificate has expired or is not valid yet", "renew the certificate, and check the clocks of both machines"},
	httpx.CertificateName: {"the certificate is for another host name",
		"get a certificate that lists the issuer's host; on S3, a bucket name with dots breaks the wildcard certificate"},
	httpx.CertificateInvalid: {"the certificate is not valid for this use", "get a server certificate from a public certificate authority"},
	httpx.NoTLS:              {"the TLS handshake failed", "check that the server speaks TLS 1.2 or later on this port"},
	httpx.NotConnected:       broken,
	httpx.Broken:             broken,
}

var broken = explanation{"the connection broke, or the answer was not HTTP", "check the log of the server and of proxies in front of it"}

func (e *UnreachableError) explain() (cause, cure string) {
	switch e.Failure {
	case httpx.NoSuchHost:
		return fmt.Sprintf("the name %q does not exist in DNS", httpx.Clip(hostOf(e.URL))), "correct the issuer, or create the DNS record"
	case httpx.LookupFailed:
		return fmt.Sprintf("the name %q could not be looked up", httpx.Clip(hostOf(e.URL))), "check the resolver of this machine, and the name's servers"
	case httpx.CertificateUnknown:
		return unknownAuthority(e.Err)
	default:
		return failures[e.Failure].cause, failures[e.Failure].cure
	}
}

// unknownAuthority distinguishes a self-signed certificate, a chain without its
// intermediates and a private authority.
func unknownAuthority(err error) (cause, cure string) {
	chain := sentChain(err)
	switch {
	case len(chain) == 1 && chain[0].Subject.String() == chain[0].Issuer.String():
		return "the certificate is self-signed",
			"get one from a public certificate authority: relying parties in the cloud can't be configured to trust it; for a test " + httpx.TrustCure
	case len(chain) == 1:
		return "the server sends no intermediate certificate, or its authority is a private one",
			"serve the full chain (fullchain.pem, not cert.pem); if the authority is private, get a public certificate, or " + httpx.TrustCure + ", here and at every relying party"
	default:
		return "the certificate authority is not among the trusted ones",
			"get a certificate from a public authority; where relying parties trust a private one, " + httpx.TrustCure + ", for this check"
	}
}

func sentChain(err error) []*x509.Certificate {
	var failed *tls.CertificateVerificationError
	if errors.As(err, &failed) {
		return failed.UnverifiedCertificates
	}
	return nil
}

// badStatus explains an answer that is neither 200 nor a redirect.
func badStatus(code int, host string) (cause, cure string) {
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return "the object is not public", notPublicCure(host)
	case code == http.StatusNotFound, code == http.StatusGone:
		return "nothing is published at this address", "publish to the address of the issuer: bucket, prefix and path must match it"
	case code == http.StatusTooManyRequests:
		return "the server limits the request rate", "lift the limit for these two documents: relying parties fetch them at any time"
	case code >= 500:
		return "the server or the store behind it failed", "check its log and its origin, then try again"
	default:
		return "relying parties expect 200", "serve the document itself to an anonymous GET"
	}
}

func notPublicCure(host string) string {
	const (
		gcs = "grant roles/storage.objectViewer on the bucket to allUsers (gcloud storage buckets add-iam-policy-binding gs://BUCKET --member=allUsers --role=roles/storage.objectViewer)"
		s3  = `add a bucket policy that allows s3:GetObject to Principal "*" on the two objects, and lift the Block Public Access setting for policies; S3 answers 403 for an absent object too`
	)
	switch {
	case host == "storage.googleapis.com" || strings.HasSuffix(host, ".storage.googleapis.com"):
		return gcs
	case strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn"):
		return s3
	default:
		return "allow anonymous reading. GCS: " + gcs + ". S3: " + s3
	}
}
