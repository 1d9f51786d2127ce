package verify

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

func (v view) keyChecks() []Check {
	return rows(
		row{"jwks-keys", "keys are public, well-formed and unique", unless(v.keys.ok() && !v.keys.html(), v.keys.noAnswer()), v.keysValid()},
		row{"jwks-algorithms", "discovery document lists the keys' algorithms", v.noKeys(), v.keysListed()},
		row{"clock-skew", "clocks of this machine and the server agree", unless(v.document.answered(), unanswered), v.clockSkew()},
	)
}

func (v view) keysValid() Check {
	var leftOut []error
	for _, e := range v.set.LeftOut() {
		leftOut = append(leftOut, e)
	}
	switch {
	case v.setErr != nil:
		return fail("the body was read and refused", faults(v.setErr), "publish the keys again; a private or symmetric key that was public is lost: replace it at once")
	case len(leftOut) > 0:
		return warn(keysEvidence(v.set), faults(errors.Join(leftOut...)), "some relying parties refuse the whole set for one key they do not know: publish only keys of known types")
	default:
		return pass("%s", keysEvidence(v.set))
	}
}

func keysEvidence(set discovery.KeySet) string {
	return fmt.Sprintf("%d: %s", set.Len(), httpx.Quote(set.IDs()))
}

// keysListed: go-oidc accepts only the algorithms that the document lists.
func (v view) keysListed() Check {
	listed := v.parsed.Algorithms()
	if len(listed) == 0 {
		return skip("the document has no list of algorithms")
	}
	uncovered := without(v.set.Keys(), listed)
	if len(uncovered) == 0 {
		return pass("%s", httpx.Quote(listed))
	}
	return fail(fmt.Sprintf("listed %s; not covered: keys %s", httpx.Quote(listed), httpx.Quote(uncovered)),
		"relying parties that enforce the list refuse tokens signed with these keys",
		"add their algorithms to id_token_signing_alg_values_supported, as the API server that publishes the key does: publish its current document")
}

// without returns the IDs of the keys that can use none of the algorithms.
func without(keys []discovery.Key, allowed []string) []string {
	var ids []string
	for _, k := range keys {
		if !slices.ContainsFunc(algorithmsOf(k), func(alg string) bool { return slices.Contains(allowed, alg) }) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// algorithmsOf returns what a key may be used for: its own alg, else all that its
// type allows (RFC 7518 section 3.1, RFC 8037 section 3.1).
func algorithmsOf(k discovery.Key) []string {
	if k.Algorithm != "" {
		return []string{k.Algorithm}
	}
	switch k.Type {
	case "RSA":
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case "OKP":
		return []string{"EdDSA"}
	}
	if public, ok := k.Public().(*ecdsa.PublicKey); ok {
		return []string{map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[public.Curve.Params().BitSize]}
	}
	return nil
}

const skewLimit = 30 * time.Second

func (v view) clockSkew() Check {
	ahead, known := v.skew()
	switch {
	case !known:
		return skip("the server sends no Date")
	case ahead.Abs() > skewLimit:
		return warn(fmt.Sprintf("the server's clock is %v ahead of this machine's", ahead.Round(time.Second)),
			"one of the two clocks is wrong, and tokens are checked against it", "run NTP on both machines")
	default:
		return pass("within %v", skewLimit)
	}
}

// skew returns how far the server's clock is ahead of the local one. A cache
// keeps the origin's Date and adds Age, but some send the current Date with an
// Age: the smaller skew of the two interpretations is used.
func (v view) skew() (time.Duration, bool) {
	a, at := v.document.plain, v.document.plainAt
	if v.document.fresh.header != nil {
		a, at = v.document.fresh, v.document.freshAt
	}
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return 0, false
	}
	// Date is cut to the second, and half the exchange has passed since.
	plain := date.Add(time.Second / 2).Sub(at.Add(-a.took / 2))
	aged := plain + httpx.FreshnessOf(a.header).Age
	if aged.Abs() < plain.Abs() {
		return aged, true
	}
	return plain, true
}
