package verify

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

func (v view) issuerChecks() []Check {
	return rows(
		row{"issuer-url", "issuer is a well-formed https URL", "", v.issuerURL()},
		row{"issuer-host", "issuer has a public host", v.noIssuer(), v.issuerHost()},
	)
}

func (v view) issuerURL() Check {
	switch {
	case v.issuerErr != nil:
		return fail(fmt.Sprintf("%q", httpx.Clip(v.opts.Issuer)), httpx.Clip(v.issuerErr.Error()),
			"set kube-apiserver --service-account-issuer to an https URL without query and fragment, and verify that")
	case v.issuer.Insecure():
		return warn(fmt.Sprintf("%q", v.opts.Issuer), "plain http is for tests on this machine only: relying parties require https",
			"publish under an https URL before you register it at a relying party")
	default:
		return pass("%q", httpx.Clip(v.opts.Issuer))
	}
}

func (v view) issuerHost() Check {
	host := hostOf(v.opts.Issuer)
	switch reach := reachOf(host); reach {
	case public:
		return pass("%q", httpx.Clip(host))
	case loopback:
		return warn(fmt.Sprintf("%q", host), "a loopback address reaches this machine only", "use it for tests only")
	case inCluster:
		return fail(fmt.Sprintf("%q", httpx.Clip(host)), "the name exists inside the cluster only, so no relying party can fetch the documents",
			"set kube-apiserver --service-account-issuer to the public URL that is published to, and keep the current value as a second --service-account-issuer while its tokens live")
	default:
		return warn(fmt.Sprintf("%q", httpx.Clip(host)), fmt.Sprintf("the host is %s: relying parties outside that network can't fetch the documents", reach),
			"publish under a public host name unless every relying party is in the same network")
	}
}

// reach says from which networks a host can be reached.
type reach string

const (
	public    reach = "public"
	loopback  reach = "loopback"
	inCluster reach = "a cluster's internal name"
	private   reach = "a private address"
	internal  reach = "an internal name"
)

// Reaches reports whether clients at one host can probably reach the other,
// judging only by the names.
func Reaches(from, to string) bool {
	switch reachOf(to) {
	case public:
		return true
	case loopback:
		return reachOf(from) == loopback
	default:
		return reachOf(from) != public
	}
}

// reachOf classifies a host by its name alone.
func reachOf(host string) reach {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	below := func(domains ...string) bool {
		return slices.ContainsFunc(domains, func(domain string) bool { return strings.HasSuffix(host, domain) })
	}
	addr, err := netip.ParseAddr(host)
	addr = addr.Unmap()
	sharedSpace := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598, carriers and clouds
	switch {
	case addr.IsLoopback(), host == "localhost", below(".localhost"):
		return loopback
	case addr.IsPrivate(), addr.IsLinkLocalUnicast(), addr.IsUnspecified(), sharedSpace.Contains(addr):
		return private
	case below(".svc", ".cluster.local"):
		return inCluster
	case err != nil && !strings.Contains(host, "."), below(".local", ".internal", ".localdomain", ".lan", ".home.arpa"):
		return internal
	default:
		return public
	}
}

// checkJWKSURI checks that anyone can fetch the keys at the jwks_uri.
// kube-apiserver names its own address there by default
// (openidmetadata.go: https://<external address>/openid/v1/jwks).
func checkJWKSURI(issuer discovery.Issuer, uri string) Check {
	u, err := url.Parse(uri)
	evidence := fmt.Sprintf("%q", httpx.Clip(uri))
	if err != nil || u.Hostname() == "" {
		return fail(evidence, "jwks_uri is not an absolute URL", republish)
	}
	switch {
	case u.User != nil:
		return fail("jwks_uri with a user name", "jwks_uri contains credentials, which are public", "change them, and "+republish)
	case u.Scheme != "https" && !(u.Scheme == "http" && issuer.Insecure() && reachOf(u.Hostname()) == loopback):
		return fail(evidence, "jwks_uri is not https: keys could be replaced in transit", republish)
	case u.Fragment != "":
		return fail(evidence, "jwks_uri has a fragment", republish)
	}
	from, to := reachOf(hostOf(string(issuer))), reachOf(u.Hostname())
	if to == public || to == loopback && from == loopback || strings.EqualFold(u.Hostname(), hostOf(string(issuer))) {
		return pass("%s", evidence)
	}
	return fail(evidence, fmt.Sprintf("jwks_uri leads to %s: the API server's document was published unchanged, and no relying party can fetch the keys", to), republish)
}

const republish = "publish with oidc-publisher publish, which rewrites jwks_uri to the public address"
