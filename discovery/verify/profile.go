package verify

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"oidc-publisher/discovery"
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
	return "", fmt.Errorf("unknown relying party %q: use %s", clip(name), strings.Join(known, ", "))
}

// profile is what one relying party requires beyond the standards. Limits that
// its operator does not publish (how many keys Google takes, how long each
// caches them, Cloudsmith's algorithms) are not guessed.
type profile struct {
	party  RelyingParty
	limits []limit
}

// limit is one requirement.
type limit struct {
	id, title string
	// source is where the limit is documented.
	source string
	// soft limits only warn: a third party measured them, or they hold for
	// one way of setting the relying party up.
	soft  bool
	check func(view) finding
}

func (p profile) checks(v view) []Check {
	checks := make([]Check, len(p.limits))
	for i, l := range p.limits {
		f := l.check(v)
		if l.soft {
			f = f.softened()
		}
		if f.status == Warn || f.status == Fail {
			f.cure += " (source: " + l.source + ")"
		}
		checks[i] = f.check(string(p.party)+"-"+l.id, string(p.party)+": "+l.title)
	}
	return checks
}

func profilesOf(parties []RelyingParty) ([]profile, error) {
	var chosen []profile
	for i, party := range parties {
		if slices.Contains(parties[:i], party) {
			continue
		}
		if _, err := ParseRelyingParty(string(party)); err != nil {
			return nil, err
		}
		at := slices.IndexFunc(profiles(), func(p profile) bool { return p.party == party })
		chosen = append(chosen, profiles()[at])
	}
	return chosen, nil
}

// profiles is the table. A new relying party is a new entry.
func profiles() []profile {
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
	return []profile{
		{GCP, []limit{
			{"key-types", "key types", gcpInline, true, keyTypes("RSA", "EC")},
			{"key-members", "members of the keys", gcpInline, true, onlyMembers("kty", "alg", "use", "kid", "n", "e", "x", "y", "crv")},
			{"audience-length", "length of the audience", gcpAudience, false, audienceAtMost(256)},
			{"token-lifetime", "lifetime of the token", gcpToken, true, lifetimeBelow(48 * time.Hour)},
		}},
		{AWS, []limit{
			{"key-count", "number of keys", awsDocs, false, keysAtMost(map[string]int{"RSA": 100, "EC": 100})},
			{"algorithms", "signature algorithms", awsDocs, false, onlyAlgorithms("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")},
			{"key-members", "members of the keys", awsMeasured, true, withoutMembers("key_ops")},
			{"key-use", "use of the keys", awsMeasured, true, useIsSignature},
			{"issuer-url", "form of the issuer", awsDocs, false, withoutPort},
			{"audience-count", "number of audiences", awsMeasured, true, oneAudienceOrParty},
			{"token-size", "size of the token", awsDocs, false, tokenAtMost(20000)},
			{"answer-time", "time to answer", "repost.aws, InvalidIdentityToken article", false, answersWithin(5 * time.Second)},
		}},
		{Azure, []limit{
			{"key-count", "number of keys", entraDocs, false, keysInAllAtMost(100)},
			{"algorithms", "signature algorithms", entraDocs, false, onlyAlgorithms("RS256")},
			{"audience-count", "number of audiences", entraDocs, false, oneAudience},
		}},
		{Vault, []limit{
			{"algorithms", "signature algorithms taken by default", vaultDocs, true, onlyAlgorithms("RS256")},
		}},
		{Cloudsmith, []limit{
			{"issuer-url", "form of the issuer", cloudsmith, false, rootOfIssuer},
			{"issuer-host", "publicly available issuer", externalSecs, false, publicHost},
			{"audience", "usual audience", cloudsmith, true, usualAudience("https://api.cloudsmith.io")},
		}},
	}
}

func keysAtMost(most map[string]int) func(view) finding {
	return func(v view) finding {
		if !v.haveKeys() {
			return blocked(noKeys)
		}
		count := map[string]int{}
		for _, k := range v.set.Keys() {
			count[k.Type]++
		}
		evidence := fmt.Sprintf("%d RSA and %d EC keys", count["RSA"], count["EC"])
		for kind, limit := range most {
			if count[kind] > limit {
				return fail(evidence, fmt.Sprintf("it takes at most %d %s keys, and then refuses all tokens of that kind", limit, kind), dropKeys)
			}
		}
		return pass("%s", evidence)
	}
}

const dropKeys = "remove retired keys: shorten --grace, or publish --revoke KID"

func keysInAllAtMost(most int) func(view) finding {
	return func(v view) finding {
		switch {
		case !v.haveKeys():
			return blocked(noKeys)
		case v.set.Len() > most:
			return fail(fmt.Sprintf("%d keys", v.set.Len()), fmt.Sprintf("it stores only the first %d", most), dropKeys)
		default:
			return pass("%d keys", v.set.Len())
		}
	}
}

func keyTypes(types ...string) func(view) finding {
	return eachKey(func(k discovery.Key) bool { return slices.Contains(types, k.Type) },
		"it takes only keys of type "+strings.Join(types, " and ")+" where they are uploaded", "leave these keys out of the upload, and sign with another type")
}

func onlyMembers(allowed ...string) func(view) finding {
	return eachKey(func(k discovery.Key) bool {
		return !slices.ContainsFunc(k.Members, func(name string) bool { return !slices.Contains(allowed, name) })
	}, "where keys are uploaded it takes only the members "+strings.Join(allowed, ", "), "strip the others (x5c, x5t) from the upload")
}

func withoutMembers(forbidden ...string) func(view) finding {
	return eachKey(func(k discovery.Key) bool {
		return !slices.ContainsFunc(forbidden, func(name string) bool { return slices.Contains(k.Members, name) })
	}, "a key with "+strings.Join(forbidden, ", ")+" is not used", "publish the keys as kube-apiserver writes them")
}

func useIsSignature(v view) finding {
	return eachKey(func(k discovery.Key) bool { return k.Use == "" || k.Use == "sig" },
		"a key with a use other than sig is not used", "publish the keys as kube-apiserver writes them")(v)
}

// eachKey lists the keys that do not pass.
func eachKey(good func(discovery.Key) bool, cause, cure string) func(view) finding {
	return func(v view) finding {
		if !v.haveKeys() {
			return blocked(noKeys)
		}
		var bad []string
		for _, k := range v.set.Keys() {
			if !good(k) {
				bad = append(bad, k.ID)
			}
		}
		if len(bad) > 0 {
			return fail("keys "+quoted(bad), cause, cure)
		}
		return pass("all %d keys", v.set.Len())
	}
}

// onlyAlgorithms fails if no key can be used, and warns if some can't.
func onlyAlgorithms(allowed ...string) func(view) finding {
	names := strings.Join(allowed, ", ")
	cure := "sign with a key for one of them (kube-apiserver --service-account-signing-key-file), or allow the algorithm where the relying party lets you"
	return func(v view) finding {
		if v.opts.Token.Given() && v.claimsErr == nil && !slices.Contains(allowed, v.claims.Algorithm) {
			return fail(fmt.Sprintf("token with alg %q", clip(v.claims.Algorithm)), "it takes only "+names, cure)
		}
		if !v.haveKeys() {
			return blocked(noKeys)
		}
		bad := without(v.set.Keys(), allowed)
		switch len(bad) {
		case 0:
			return pass("%s", names)
		case v.set.Len():
			return fail("keys "+quoted(bad), "it takes only "+names+", and no key is for that", cure)
		default:
			return warn("keys "+quoted(bad), "tokens signed with these keys are refused: it takes only "+names, cure)
		}
	}
}

// withoutPort: the provider URL has no port and no query (the query is refused
// for every issuer).
func withoutPort(v view) finding {
	u, err := url.Parse(v.opts.Issuer)
	switch {
	case err != nil || v.issuerErr != nil:
		return blocked(noIssuer)
	case u.Port() != "":
		return fail(fmt.Sprintf("%q", clip(v.opts.Issuer)), "it takes no port in the issuer", "serve the documents on port 443 and take the port out of the issuer")
	default:
		return pass("%q", clip(v.opts.Issuer))
	}
}

func rootOfIssuer(v view) finding {
	if strings.Contains(v.opts.Issuer, "/.well-known") {
		return fail(fmt.Sprintf("%q", clip(v.opts.Issuer)), "the provider URL is the issuer without the .well-known part", "give the issuer alone, here and in the provider's settings")
	}
	return pass("%q", clip(v.opts.Issuer))
}

func publicHost(v view) finding {
	f := v.issuerHost()
	if f.status == Warn {
		f.status = Fail
	}
	return f
}

// audiences returns those of the token, else the one in the options.
func (v view) audiences() []string {
	switch {
	case v.opts.Token.Given() && v.claimsErr == nil:
		return v.claims.Audience
	case v.opts.Audience != "":
		return []string{v.opts.Audience}
	default:
		return nil
	}
}

const noAudience = "neither a token nor an audience was given"

func audienceAtMost(most int) func(view) finding {
	return func(v view) finding {
		list := v.audiences()
		if len(list) == 0 {
			return skip(noAudience)
		}
		for _, aud := range list {
			if n := utf8.RuneCountInString(aud); n > most {
				return fail(fmt.Sprintf("%d characters", n), fmt.Sprintf("it takes at most %d", most), "agree on a shorter audience")
			}
		}
		return pass("at most %d characters", most)
	}
}

func usualAudience(want string) func(view) finding {
	return func(v view) finding {
		list := v.audiences()
		switch {
		case len(list) == 0:
			return skip(noAudience)
		case !slices.Contains(list, want):
			return warn("aud "+quoted(list), fmt.Sprintf("the usual audience is %q", want), "use it, unless the provider's required claims name another")
		default:
			return pass("%q", want)
		}
	}
}

func oneAudience(v view) finding {
	switch {
	case !v.opts.Token.Given() || v.claimsErr != nil:
		return skip("no token was given")
	case len(v.claims.Audience) != 1:
		return fail(fmt.Sprintf("%d: %s", len(v.claims.Audience), quoted(v.claims.Audience)), "it takes exactly one audience", "mint the token with one audience")
	default:
		return pass("one")
	}
}

func oneAudienceOrParty(v view) finding {
	f := oneAudience(v)
	switch {
	case f.status == Fail && len(v.claims.Audience) > 1 && v.claims.AuthorizedParty != "":
		return pass("%d and azp", len(v.claims.Audience))
	case f.status == Fail:
		f.cause = "with several audiences it wants azp, which Kubernetes does not set"
	}
	return f
}

func tokenAtMost(most int) func(view) finding {
	return func(v view) finding {
		switch {
		case !v.opts.Token.Given():
			return skip("no token was given")
		case len(v.opts.Token.Reveal()) > most:
			return fail(fmt.Sprintf("%d characters", len(v.opts.Token.Reveal())), fmt.Sprintf("it takes at most %d", most), "mint it with fewer or shorter audiences")
		default:
			return pass("%d characters", len(v.opts.Token.Reveal()))
		}
	}
}

func lifetimeBelow(most time.Duration) func(view) finding {
	return func(v view) finding {
		if !v.opts.Token.Given() || v.claimsErr != nil || v.claims.Expiry.IsZero() || v.claims.IssuedAt.IsZero() {
			return skip("no token with exp and iat was given")
		}
		if life := v.claims.Expiry.Sub(v.claims.IssuedAt); life >= most {
			return fail(life.String(), fmt.Sprintf("it takes only tokens that live for less than %v", most), "mint it with a shorter lifetime (kubectl create token --duration, expirationSeconds)")
		}
		return pass("%v", v.claims.Expiry.Sub(v.claims.IssuedAt))
	}
}

func answersWithin(most time.Duration) func(view) finding {
	return func(v view) finding {
		if !v.document.ok() || !v.keys.ok() {
			return blocked(badAnswer)
		}
		took := max(v.document.plain.took, v.document.fresh.took, v.keys.plain.took, v.keys.fresh.took).Round(time.Millisecond)
		if took > most {
			return fail(took.String(), fmt.Sprintf("it waits for about %v", most), "serve the documents from a bucket or a cache")
		}
		return pass("%v", took)
	}
}
