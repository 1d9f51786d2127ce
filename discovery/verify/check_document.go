package verify

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"oidc-publisher/internal/httpx"
)

func (v view) documentChecks() []Check {
	return rows(
		row{"document-syntax", "discovery document is strict JSON with issuer and jwks_uri",
			unless(v.document.ok() && !v.document.html(), v.document.noAnswer()), v.documentSyntax()},
		row{"document-issuer", "discovery document names exactly this issuer", v.noDocument(), v.documentIssuer()},
		row{"document-members", "discovery document has what OpenID Connect requires", v.noDocument(), v.documentMembers()},
		row{"jwks-uri", "jwks_uri is a public https URL", v.noDocument(), v.jwksURI},
		row{"jwks-uri-origin", "jwks_uri has the issuer's origin", v.noDocument(), v.jwksURIOrigin()},
	)
}

func (v view) documentSyntax() Check {
	if v.parseErr != nil {
		return fail("the body was read and refused", faults(v.parseErr), "publish the document again; a private key that was public is lost: replace it at once")
	}
	return pass("has issuer and jwks_uri")
}

func (v view) documentIssuer() Check {
	got, want := string(v.parsed.Issuer()), string(v.issuer)
	if got == want {
		return pass("%q", httpx.Clip(got))
	}
	return fail(fmt.Sprintf("issuer %q, in the document %q", httpx.Clip(want), httpx.Clip(got)), differenceOf(got, want),
		fmt.Sprintf("relying parties accept this cluster's tokens only with the issuer %q, byte for byte: verify and register that, or change kube-apiserver --service-account-issuer and publish again", httpx.Clip(got)))
}

// differenceOf names the differences that are easy to overlook.
func differenceOf(got, want string) string {
	a, aErr := url.Parse(got)
	b, bErr := url.Parse(want)
	switch {
	case strings.TrimSuffix(got, "/") == strings.TrimSuffix(want, "/"):
		return "they differ in the trailing slash"
	case strings.EqualFold(got, want):
		return "they differ in upper and lower case"
	case aErr == nil && bErr == nil && a.Scheme == b.Scheme && a.Hostname() == b.Hostname() && a.Path == b.Path:
		return "they differ in the port"
	default:
		return "the document is another issuer's"
	}
}

// documentMembers requires those members that OpenID Connect Discovery 1.0
// section 3 requires of everyone and kube-apiserver writes.
func (v view) documentMembers() Check {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(v.parsed.Bytes(), &members) // it was parsed before
	var missing []string
	for _, name := range []string{"response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"} {
		var list []string
		if json.Unmarshal(members[name], &list) != nil || len(list) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return warn("missing, empty or not a list: "+httpx.Quote(missing), "strict relying parties refuse a document without them",
			"publish the document as kube-apiserver writes it; only jwks_uri has to be changed")
	}
	return pass("has all required lists")
}

func (v view) jwksURIOrigin() Check {
	if v.jwksURI.Status != Pass {
		return blocked("jwks_uri is not usable")
	}
	from, to := originOf(string(v.issuer)), originOf(v.parsed.JWKSURI())
	if from == to {
		return pass("%q", httpx.Clip(to))
	}
	return warn(fmt.Sprintf("issuer at %q, keys at %q", httpx.Clip(from), httpx.Clip(to)),
		"the operator of the other host decides which tokens are valid, and strict relying parties refuse it",
		"publish both documents below the issuer")
}

// originOf is scheme, host and port, the default port left out.
func originOf(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	return u.Scheme + "://" + host
}
