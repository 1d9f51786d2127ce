package verify_test

import (
	"slices"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
)

func snapshot(t testing.TB, issuer string, signers ...*signer) *discovery.Snapshot {
	t.Helper()
	document, err := discovery.ParseDocument(documentFor(issuer, nil))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := discovery.ParseKeySet(jwks(signers...))
	if err != nil {
		t.Fatal(err)
	}
	return &discovery.Snapshot{Document: document, Keys: keys, Canary: &discovery.Canary{KeyID: "key-1", Issuer: issuer}}
}

func TestSource(t *testing.T) {
	one, two := newRSA(t, "key-1"), newRSA(t, "key-2")
	impostor := &signer{jwk: newRSA(t, "stranger").with("kid", "key-1")}
	signsWithTwo := snapshot(t, publicHost, one)
	signsWithTwo.Canary.KeyID = "key-2"
	for _, tc := range []struct {
		name   string
		source *discovery.Snapshot
		public []*signer
		id     string
		status verify.Status
		cause  string
	}{
		{"as published", snapshot(t, publicHost, one), []*signer{one}, "", "", ""},
		{"in another order", snapshot(t, publicHost, one, two), []*signer{two, one}, "", "", ""},
		{"a key is not public", snapshot(t, publicHost, one, two), []*signer{one}, "source-keys", verify.Fail, `"key-2"`},
		{"a key was replaced", snapshot(t, publicHost, one), []*signer{impostor}, "source-keys", verify.Fail, "a key was replaced"},
		{"a key is public only", snapshot(t, publicHost, one), []*signer{one, two}, "source-keys", verify.Warn, "grace"},
		{"other issuer", snapshot(t, publicHost+"/", one), []*signer{one}, "source-issuer", verify.Fail, "trailing slash"},
		{"internal issuer", snapshot(t, "https://kubernetes.default.svc", one), []*signer{one}, "source-issuer", verify.Fail, "another issuer"},
		{"signing key is not public", signsWithTwo, []*signer{one}, "source-signing-key", verify.Fail, `"key-2"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			s.at(publicHost)
			s.keys.body = jwks(tc.public...)
			r := s.run(t, func(o *verify.Options) { o.Source = tc.source })
			if tc.id == "" {
				if bad := with(r, verify.Warn, verify.Fail, verify.Error, verify.Skip); len(bad) > 0 {
					t.Errorf("not passed: %v", bad)
				}
				return
			}
			only(t, r, tc.id, tc.status, tc.cause)
		})
	}
}

func TestSourceWithoutCanary(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	source := snapshot(t, publicHost, s.signer)
	source.Canary = nil
	r := s.run(t, func(o *verify.Options) { o.Source = source })
	if got := with(r, verify.Skip); !slices.Equal(got, []string{"source-signing-key"}) {
		t.Errorf("skipped %v", got)
	}
}
