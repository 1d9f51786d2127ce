package verify

import (
	"fmt"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

func (v view) sourceChecks() []Check {
	return rows(
		row{"source-issuer", "cluster has this issuer", "", v.sourceIssuer()},
		row{"source-keys", "public keys are the cluster's", v.noKeys(), v.sourceKeys()},
		row{"source-signing-key", "key that the cluster signs with is public", v.noKeys(), v.sourceSigningKey()},
	)
}

func (v view) sourceIssuer() Check {
	got, want := string(v.opts.Source.Document.Issuer()), v.opts.Issuer
	if got == want {
		return pass("%q", httpx.Clip(got))
	}
	return fail(fmt.Sprintf("issuer %q, in the cluster %q", httpx.Clip(want), httpx.Clip(got)),
		differenceOf(got, want)+": every relying party refuses this cluster's tokens",
		fmt.Sprintf("start kube-apiserver with --service-account-issuer=%s as its first, or publish under the cluster's issuer", httpx.Clip(want)))
}

func (v view) sourceKeys() Check {
	missing, different, extra := compare(v.opts.Source.Keys, v.set)
	switch {
	case len(different) > 0:
		return fail("same ID, other key: "+httpx.Quote(different), "a key was replaced under its ID: the holder of the other key can sign in the cluster's name",
			"find out who else writes there, publish again, and treat tokens signed since then as forged")
	case len(missing) > 0:
		return fail("not public: "+httpx.Quote(missing), "the cluster has keys that relying parties can't see, so tokens signed with them are refused",
			"run oidc-publisher publish, and keep oidc-publisher watch running")
	case len(extra) > 0:
		return warn("public, but not the cluster's: "+httpx.Quote(extra), "these are retired keys in their grace period, or a foreign key whose holder can sign in the cluster's name",
			"nothing, if a rotation was less than the grace period ago; else remove them with oidc-publisher publish --revoke KID")
	default:
		return pass("%s", keysEvidence(v.set))
	}
}

// compare lists the key IDs of the cluster that are not public, those that are
// public with other material, and those that are public but not in the cluster.
func compare(cluster, published discovery.KeySet) (missing, different, extra []string) {
	for _, k := range cluster.Keys() {
		other, ok := published.Lookup(k.ID)
		switch {
		case !ok:
			missing = append(missing, k.ID)
		case other.Thumbprint != k.Thumbprint:
			different = append(different, k.ID)
		}
	}
	for _, k := range published.Keys() {
		if _, ok := cluster.Lookup(k.ID); !ok {
			extra = append(extra, k.ID)
		}
	}
	return missing, different, extra
}

// sourceSigningKey: kube-apiserver starts without complaint with a signing key
// that it does not publish.
func (v view) sourceSigningKey() Check {
	canary := v.opts.Source.Canary
	if canary == nil {
		return skip("no token could be minted to learn it")
	}
	if _, ok := v.set.Lookup(canary.KeyID); !ok {
		return fail(fmt.Sprintf("signs with %q, public are %s", httpx.Clip(canary.KeyID), httpx.Quote(v.set.IDs())),
			"every new token is refused", "publish again; if the cluster's own keys lack it too, add the signing key's public half to kube-apiserver --service-account-key-file")
	}
	return pass("%q", httpx.Clip(canary.KeyID))
}
