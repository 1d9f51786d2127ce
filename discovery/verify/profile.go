package verify

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// RelyingParty is a service with a profile.
type RelyingParty string

// The relying parties with a profile.
const (
	GCP        RelyingParty = "gcp"
	AWS        RelyingParty = "aws"
	Azure      RelyingParty = "azure"
	Vault      RelyingParty = "vault"
	Cloudsmith RelyingParty = "cloudsmith"
)

// RelyingParties returns all of them.
func RelyingParties() []RelyingParty {
	return []RelyingParty{GCP, AWS, Azure, Vault, Cloudsmith}
}

// ParseRelyingParty reads one name; the error lists the valid ones.
func ParseRelyingParty(name string) (RelyingParty, error) {
	if party := RelyingParty(name); slices.Contains(RelyingParties(), party) {
		return party, nil
	}
	var known []string
	for _, party := range RelyingParties() {
		known = append(known, string(party))
	}
	return "", fmt.Errorf("unknown relying party %q: use %s", httpx.Clip(name), strings.Join(known, ", "))
}

// limit is what one relying party requires beyond the standards. Limits that
// its operator does not publish (how many keys Google takes, how long each
// caches them, Cloudsmith's algorithms) are not guessed, and those that every
// issuer must keep (100 keys, an answer within 5 s) are not repeated.
type limit struct {
	id, title string
	// source is where the limit is documented.
	source string
	// soft limits only warn: a third party measured them, or they apply only to
	// one way of configuring the relying party.
	soft    bool
	missing string
	result  Check
}

// partyChecks makes the checks of each chosen relying party.
func (v view) partyChecks() []Check {
	var table []row
	for i, party := range v.opts.For {
		if slices.Contains(v.opts.For[:i], party) {
			continue
		}
		for _, l := range v.limits()[party] {
			if l.soft && l.result.Status == Fail {
				l.result.Status = Warn
			}
			if l.result.Status == Warn || l.result.Status == Fail {
				l.result.Cure += " (source: " + l.source + ")"
			}
			table = append(table, row{string(party) + "-" + l.id, string(party) + ": " + l.title, l.missing, l.result})
		}
	}
	return rows(table...)
}

// limits is the table. A new relying party is a new entry.
func (v view) limits() map[RelyingParty][]limit {
	const (
		awsDocs      = "AWS IAM, OIDC identity providers"
		awsMeasured  = "a third party's measurement of AWS STS, September 2026"
		gcpInline    = "Google Workload Identity Federation, inline JWKS: terraform google_iam_workload_identity_pool_provider"
		gcpAudience  = "Google Workload Identity Federation, allowed audiences"
		gcpToken     = "Google ExchangeTokenRequest.subjectToken"
		entraDocs    = "MicrosoftDocs/entra-docs docs/workload-id"
		vaultDocs    = "hashicorp/vault-plugin-auth-jwt"
		cloudsmith   = "help.cloudsmith.io/docs/openid-connect"
		externalSecs = "external-secrets, Cloudsmith generator"
	)
	keys := v.noKeys()
	return map[RelyingParty][]limit{
		GCP: {
			{"key-types", "key types", gcpInline, true, keys, v.keyTypes("RSA", "EC")},
			{"key-members", "members of the keys", gcpInline, true, keys, v.onlyMembers("kty", "alg", "use", "kid", "n", "e", "x", "y", "crv")},
			{"audience-length", "length of the audience", gcpAudience, false, "", v.audienceAtMost(256)},
			{"token-lifetime", "lifetime of the token", gcpToken, true, "", v.lifetimeBelow(48 * time.Hour)},
		},
		AWS: {
			{"algorithms", "signature algorithms", awsDocs, false, "", v.onlyAlgorithms("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")},
			{"key-members", "members of the keys", awsMeasured, true, keys, v.withoutKeyOps()},
			{"key-use", "use of the keys", awsMeasured, true, keys, v.useIsSignature()},
			{"issuer-url", "form of the issuer", awsDocs, false, v.noIssuer(), v.withoutPort()},
			{"audience-count", "number of audiences", awsMeasured, true, "", v.oneAudienceOrParty()},
			{"token-size", "size of the token", awsDocs, false, "", v.tokenAtMost(20000)},
		},
		Azure: {
			{"algorithms", "signature algorithms", entraDocs, false, "", v.onlyAlgorithms("RS256")},
			{"audience-count", "number of audiences", entraDocs, false, "", v.oneAudience()},
		},
		Vault: {
			{"algorithms", "signature algorithms accepted by default", vaultDocs, true, "", v.onlyAlgorithms("RS256")},
		},
		Cloudsmith: {
			{"issuer-url", "form of the issuer", cloudsmith, false, "", v.rootOfIssuer()},
			{"issuer-host", "publicly available issuer", externalSecs, false, v.noIssuer(), v.publicHost()},
			{"audience", "usual audience", cloudsmith, true, "", v.usualAudience("https://api.cloudsmith.io")},
		},
	}
}

func (v view) keyTypes(types ...string) Check {
	return v.eachKey(func(k discovery.Key) bool { return slices.Contains(types, k.Type) },
		"it accepts only keys of type "+strings.Join(types, " and ")+" where they are uploaded", "leave these keys out of the upload, and sign with another type")
}

func (v view) onlyMembers(allowed ...string) Check {
	return v.eachKey(func(k discovery.Key) bool {
		return !slices.ContainsFunc(k.Members, func(name string) bool { return !slices.Contains(allowed, name) })
	}, "where keys are uploaded it accepts only the members "+strings.Join(allowed, ", "), "strip the others (x5c, x5t) from the upload")
}

func (v view) withoutKeyOps() Check {
	return v.eachKey(func(k discovery.Key) bool { return !slices.Contains(k.Members, "key_ops") },
		"a key with key_ops is not used", "publish the keys as kube-apiserver writes them")
}

func (v view) useIsSignature() Check {
	return v.eachKey(func(k discovery.Key) bool { return k.Use == "" || k.Use == "sig" },
		"a key with a use other than sig is not used", "publish the keys as kube-apiserver writes them")
}

// eachKey reports the keys that do not meet the limit.
func (v view) eachKey(good func(discovery.Key) bool, cause, cure string) Check {
	var bad []string
	for _, k := range v.set.Keys() {
		if !good(k) {
			bad = append(bad, k.ID)
		}
	}
	if len(bad) > 0 {
		return fail("keys "+httpx.Quote(bad), cause, cure)
	}
	return pass("all %d keys", v.set.Len())
}

// onlyAlgorithms fails if no key can be used, and warns if some can't.
func (v view) onlyAlgorithms(allowed ...string) Check {
	names := strings.Join(allowed, ", ")
	const cure = "sign with a key for one of them (kube-apiserver --service-account-signing-key-file), or allow the algorithm where the relying party lets you"
	bad := without(v.set.Keys(), allowed)
	switch {
	case v.readable() && !slices.Contains(allowed, v.claims.Algorithm):
		return fail(fmt.Sprintf("token with alg %q", httpx.Clip(v.claims.Algorithm)), "it accepts only "+names, cure)
	case v.noKeys() != "":
		return blocked(v.noKeys())
	case len(bad) == 0:
		return pass("%s", names)
	case len(bad) == v.set.Len():
		return fail("keys "+httpx.Quote(bad), "it accepts only "+names+", and no key is for that", cure)
	default:
		return warn("keys "+httpx.Quote(bad), "tokens signed with these keys are refused: it accepts only "+names, cure)
	}
}

// readable reports whether a token was given and could be read.
func (v view) readable() bool { return v.opts.Token.Given() && v.claimsErr == nil }

// withoutPort: the provider URL has no port and no query (the query is refused
// for every issuer).
func (v view) withoutPort() Check {
	if u, err := url.Parse(v.opts.Issuer); err == nil && u.Port() != "" {
		return fail(fmt.Sprintf("%q", httpx.Clip(v.opts.Issuer)), "it accepts no port in the issuer", "serve the documents on port 443 and take the port out of the issuer")
	}
	return pass("%q", httpx.Clip(v.opts.Issuer))
}

func (v view) rootOfIssuer() Check {
	if strings.Contains(v.opts.Issuer, "/.well-known") {
		return fail(fmt.Sprintf("%q", httpx.Clip(v.opts.Issuer)), "the provider URL is the issuer without the .well-known part", "give the issuer alone, here and in the provider's settings")
	}
	return pass("%q", httpx.Clip(v.opts.Issuer))
}

func (v view) publicHost() Check {
	c := v.issuerHost()
	if c.Status == Warn {
		c.Status = Fail
	}
	return c
}

// audiences returns those of the token, else the one in the options.
func (v view) audiences() []string {
	switch {
	case v.readable():
		return v.claims.Audience
	case v.opts.Audience != "":
		return []string{v.opts.Audience}
	default:
		return nil
	}
}

const (
	noAudience   = "neither a token nor an audience was given"
	noTokenGiven = "no token was given" //nolint:gosec // G101: a text about tokens
)

func (v view) audienceAtMost(most int) Check {
	list := v.audiences()
	if len(list) == 0 {
		return skip(noAudience)
	}
	for _, aud := range list {
		if n := utf8.RuneCountInString(aud); n > most {
			return fail(fmt.Sprintf("%d characters", n), fmt.Sprintf("it accepts at most %d", most), "agree on a shorter audience")
		}
	}
	return pass("at most %d characters", most)
}

func (v view) usualAudience(want string) Check {
	list := v.audiences()
	switch {
	case len(list) == 0:
		return skip(noAudience)
	case !slices.Contains(list, want):
		return warn("aud "+httpx.Quote(list), fmt.Sprintf("the usual audience is %q", want), "use it, unless the provider's required claims name another")
	default:
		return pass("%q", want)
	}
}

func (v view) oneAudience() Check {
	switch {
	case !v.readable():
		return skip(noTokenGiven)
	case len(v.claims.Audience) != 1:
		return fail(fmt.Sprintf("%d: %s", len(v.claims.Audience), httpx.Quote(v.claims.Audience)), "it accepts exactly one audience", "mint the token with one audience")
	default:
		return pass("one")
	}
}

func (v view) oneAudienceOrParty() Check {
	c := v.oneAudience()
	switch {
	case c.Status == Fail && len(v.claims.Audience) > 1 && v.claims.AuthorizedParty != "":
		return pass("%d and azp", len(v.claims.Audience))
	case c.Status == Fail:
		c.Cause = "with several audiences it requires azp, which Kubernetes does not set"
	}
	return c
}

func (v view) tokenAtMost(most int) Check {
	size := len(v.opts.Token.Reveal())
	switch {
	case !v.opts.Token.Given():
		return skip(noTokenGiven)
	case size > most:
		return fail(fmt.Sprintf("%d characters", size), fmt.Sprintf("it accepts at most %d", most), "mint it with fewer or shorter audiences")
	default:
		return pass("%d characters", size)
	}
}

func (v view) lifetimeBelow(most time.Duration) Check {
	life := v.claims.Expiry.Sub(v.claims.IssuedAt)
	switch {
	case !v.readable() || v.claims.Expiry.IsZero() || v.claims.IssuedAt.IsZero():
		return skip("no token with exp and iat was given")
	case life >= most:
		return fail(life.String(), fmt.Sprintf("it accepts only tokens that live for less than %v", most), "mint it with a shorter lifetime (kubectl create token --duration, expirationSeconds)")
	default:
		return pass("%v", life)
	}
}
