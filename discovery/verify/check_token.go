package verify

import (
	"fmt"
	"slices"
	"time"

	"oidc-publisher/internal/httpx"
)

func (v view) tokenChecks() []Check {
	return rows(
		row{"token-format", "token is a compact JWS", "", v.tokenFormat()},
		row{"token-algorithm", "token is signed with a public key algorithm", v.noToken(), v.tokenAlgorithm()},
		row{"token-key-id", "token names its key", v.noToken(), v.tokenKeyID()},
		row{"token-key", "token's key is public", v.noToken(), v.tokenKey()},
		row{"token-signature", "token's signature verifies", v.noToken(), v.tokenSignature()},
		row{"token-issuer", "token is from this issuer", v.noToken(), v.tokenIssuer()},
		row{"token-audience", "token is for the audience", v.noToken(), v.tokenAudience()},
		row{"token-expiry", "token has not expired", v.noToken(), v.tokenExpiry()},
		row{"token-not-before", "token is already valid", v.noToken(), v.tokenNotBefore()},
		row{"token-issued-at", "token was issued in the past", v.noToken(), v.tokenIssuedAt()},
	)
}

// algorithms returns the algorithms that a public key can verify (RFC 7518, RFC
// 8037, RFC 9964). That excludes none and HS*.
func algorithms() []string {
	return slices.Concat(verifiable(), []string{"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"})
}

// verifiable are the signature algorithms that go-jose can check.
func verifiable() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func (v view) tokenFormat() Check {
	if v.claimsErr != nil {
		return fail(fmt.Sprintf("%d characters", len(v.opts.Token.Reveal())), faults(v.claimsErr), "give the token alone, as kubectl create token prints it: no quotes, no Bearer, no line breaks within")
	}
	return pass("%d characters", len(v.opts.Token.Reveal()))
}

func (v view) tokenAlgorithm() Check {
	if !slices.Contains(algorithms(), v.claims.Algorithm) {
		return fail(fmt.Sprintf("alg %q", httpx.Clip(v.claims.Algorithm)), "the algorithm is none, symmetric or unknown, so no public key can verify the token", "use a token that the cluster signed (kubectl create token)")
	}
	return pass("alg %q", v.claims.Algorithm)
}

// tokenKeyID: Google refuses a token without a key ID, and so does AWS if there
// is more than one key.
func (v view) tokenKeyID() Check {
	if v.claims.KeyID == "" {
		return fail("no kid", "relying parties can't tell which key to use, and Google and AWS refuse the token", "use a token of TokenRequest (kubectl create token), not one from a legacy secret or a self-made one")
	}
	return pass("kid %q", httpx.Clip(v.claims.KeyID))
}

func (v view) tokenKey() Check {
	switch {
	case v.claims.KeyID == "":
		return skip("the token names no key")
	case v.noKeys() != "":
		return blocked(v.noKeys())
	}
	key, ok := v.set.Lookup(v.claims.KeyID)
	switch {
	case !ok:
		return fail(fmt.Sprintf("kid %q, public are %s", httpx.Clip(v.claims.KeyID), httpx.Quote(v.set.IDs())),
			"the key that signed the token is not public: it is new and not published yet, was dropped, or a cache hides it",
			"run oidc-publisher publish; before signing with a new key wait with oidc-publisher verify --wait-for-kid")
	case slices.Contains(algorithms(), v.claims.Algorithm) && !slices.Contains(algorithmsOf(key), v.claims.Algorithm):
		return fail(fmt.Sprintf("token %q, key %q", v.claims.Algorithm, algorithmsOf(key)), "the token's algorithm is not the key's", "compare the two documents with the cluster's: this key ID belongs to another key")
	default:
		return pass("kid %q", httpx.Clip(v.claims.KeyID))
	}
}

func (v view) tokenSignature() Check {
	key, found := v.set.Lookup(v.claims.KeyID)
	switch {
	case !slices.Contains(algorithms(), v.claims.Algorithm):
		return skip("the algorithm is not usable")
	case !found:
		return skip("the key is not public")
	case !slices.Contains(algorithmsOf(key), v.claims.Algorithm):
		return skip("the key is for another algorithm")
	case key.Public() == nil || !slices.Contains(verifiable(), v.claims.Algorithm):
		return unchecked(fmt.Sprintf("alg %q", v.claims.Algorithm), "this build can't check signatures of this kind", "check it at the relying party")
	}
	if err := v.opts.Token.Verify(key, v.claims.Algorithm); err != nil {
		return fail(fmt.Sprintf("kid %q", httpx.Clip(key.ID)), "the signature does not match the public key of that ID",
			"check for two clusters with one key ID, a truncated or changed token, and keys that were replaced under the same ID")
	}
	return pass("verifies with %q", httpx.Clip(key.ID))
}

func (v view) tokenIssuer() Check {
	if v.claims.Issuer == v.opts.Issuer {
		return pass("iss %q, sub %q", httpx.Clip(v.claims.Issuer), httpx.Clip(v.claims.Subject))
	}
	return fail(fmt.Sprintf("iss %q, issuer %q, sub %q", httpx.Clip(v.claims.Issuer), httpx.Clip(v.opts.Issuer), httpx.Clip(v.claims.Subject)), differenceOf(v.claims.Issuer, v.opts.Issuer),
		"verify the issuer that the tokens carry, or make this one kube-apiserver's first --service-account-issuer")
}

func (v view) tokenAudience() Check {
	evidence := "aud " + httpx.Quote(v.claims.Audience)
	switch {
	case len(v.claims.Audience) == 0:
		return fail("no aud", "relying parties refuse a token without an audience", "mint it with the relying party's audience (kubectl create token --audience)")
	case v.opts.Audience == "":
		return warn(evidence, "no audience was given to compare with", "give the relying party's audience with --audience")
	case !slices.Contains(v.claims.Audience, v.opts.Audience):
		return fail(fmt.Sprintf("%s, wanted %q", evidence, httpx.Clip(v.opts.Audience)), "the token is for another audience; it is compared byte for byte",
			"mint it with this audience (kubectl create token --audience, or audience in the projected volume), or correct the audience at the relying party")
	default:
		return pass("%s", evidence)
	}
}

func (v view) tokenExpiry() Check {
	if v.claims.Expiry.IsZero() {
		return fail("no exp", "a token without an expiry is refused", "use a token of TokenRequest (kubectl create token)")
	}
	return v.inTime("exp", v.claims.Expiry, true, "the token has expired",
		"mint a new one; a projected token file is renewed by the kubelet and must be read again at each use")
}

func (v view) tokenNotBefore() Check {
	if v.claims.NotBefore.IsZero() {
		return pass("no nbf")
	}
	return v.inTime("nbf", v.claims.NotBefore, false, "the token is not valid yet", "run NTP on the control plane, and mint a new token")
}

// tokenIssuedAt: Google wants iat in the past.
func (v view) tokenIssuedAt() Check {
	if v.claims.IssuedAt.IsZero() {
		return warn("no iat", "OpenID Connect requires it, and Google checks it", "use a token of TokenRequest (kubectl create token)")
	}
	return v.inTime("iat", v.claims.IssuedAt, false, "the token was issued in the future", "run NTP on the control plane, and mint a new token")
}

const (
	// leeway is how far a token's times may be off.
	leeway = 60 * time.Second
	// tick is how far ahead the times of a newly minted token may be: they are
	// whole seconds, and so are Date and Age of a cache.
	tick = 5 * time.Second
)

// inTime checks that a time is in the past, or in the future, by the local clock
// and the server's, which is the local one if the server sends none. It fails if
// the time is wrong by both beyond the leeway, and warns if it is wrong by either,
// since the relying party's clock is a third one.
func (v view) inTime(name string, at time.Time, future bool, cause, cure string) Check {
	ahead, _ := v.skew()
	byLocal, grace := at.Sub(v.now), tick
	byServer := byLocal - ahead
	if future {
		byLocal, byServer, grace = -byLocal, -byServer, 0
	}
	wrong, most := min(byLocal, byServer), max(byLocal, byServer)
	evidence := name + " " + at.Format(time.RFC3339)
	switch {
	case wrong > leeway:
		return fail(evidence, fmt.Sprintf("%s, by %v", cause, wrong.Round(time.Second)), cure)
	case most > leeway:
		return warn(evidence, cause+" by one of the two clocks: this machine's or the server's", "see the check clock-skew: run NTP on both machines")
	case most >= grace:
		return warn(evidence, fmt.Sprintf("%s, within the %v that clocks may differ", cause, leeway), cure)
	default:
		return pass("%s", evidence)
	}
}
