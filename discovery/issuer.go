package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Paths of the two documents below the issuer. The first is fixed by OpenID
// Connect Discovery 1.0 section 4, the second is kube-apiserver's own.
const (
	ConfigurationPath = ".well-known/openid-configuration"
	JWKSPath          = "openid/v1/jwks"
)

// Issuer is an issuer identifier: the exact string that tokens carry in iss.
// Relying parties compare it byte for byte, so it is never normalised.
type Issuer string

// ParseIssuer checks that s can be an issuer: an absolute https URL without
// user, query or fragment (OpenID Connect Discovery 1.0 section 3;
// kube-apiserver installs no discovery endpoints for any other). Plain http is
// accepted for loopback hosts only, for tests.
func ParseIssuer(s string) (Issuer, error) {
	if s == "" {
		return "", errors.New("issuer is empty")
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("issuer %q is not a URL", s)
	}
	switch {
	case u.User != nil:
		return "", errors.New("issuer must not hold a user name or password")
	case u.Host == "" || u.Hostname() == "":
		return "", fmt.Errorf("issuer %q has no host: it must be a URL like https://host/path", s)
	case u.RawQuery != "" || u.ForceQuery:
		return "", fmt.Errorf("issuer %q must not have a query", s)
	case strings.Contains(s, "#"):
		return "", fmt.Errorf("issuer %q must not have a fragment", s)
	case u.Scheme != "https" && (u.Scheme != "http" || !Loopback(u.Hostname())):
		return "", fmt.Errorf("issuer %q must be an https URL", s)
	}
	return Issuer(s), nil
}

// Loopback reports whether a host is this machine.
func Loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Insecure reports whether the issuer is a plain http URL, which only loopback
// hosts may be.
func (i Issuer) Insecure() bool { return strings.HasPrefix(string(i), "http:") }

// ConfigurationURL returns the URL where relying parties look for the document
// (OpenID Connect Discovery 1.0 section 4: one trailing slash is removed
// first).
func (i Issuer) ConfigurationURL() string { return i.join(ConfigurationPath) }

// JWKSURI returns the URL where this tool publishes the issuer's keys.
func (i Issuer) JWKSURI() string { return i.join(JWKSPath) }

func (i Issuer) join(path string) string {
	return strings.TrimSuffix(string(i), "/") + "/" + path
}
