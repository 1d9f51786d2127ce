package verify_test

import (
	"slices"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
)

// TestProfiles breaks one limit at a time, and only its check may fail.
func TestProfiles(t *testing.T) {
	rsaKey, ecKey, edKey := newRSA(t, "key-1"), newEC(t, "key-ec"), newEd25519(t, "key-ed")
	all := map[string]any{"id_token_signing_alg_values_supported": []string{"RS256", "PS256", "ES256", "EdDSA"}}
	keysOf := func(jwk ...map[string]any) func(*site, *verify.Options) {
		return func(s *site, _ *verify.Options) { s.keys.body = jwksOf(jwk...) }
	}
	tokenOf := func(change map[string]any) func(*site, *verify.Options) {
		return func(_ *site, o *verify.Options) {
			o.Token, o.Audience = discovery.NewToken(rsaKey.sign(t, claims(change))), ""
			if aud, ok := change["aud"].([]string); ok {
				o.Audience = aud[0]
			} else {
				o.Audience = audience
			}
		}
	}
	for _, tc := range []struct {
		name   string
		party  verify.RelyingParty
		issuer string
		bend   func(*site, *verify.Options)
		id     string
		status verify.Status
		cause  string
	}{
		{"good", verify.GCP, "", tokenOf(nil), "", "", ""},
		{"good", verify.AWS, "", tokenOf(nil), "", "", ""},
		{"good", verify.Azure, "", tokenOf(nil), "", "", ""},
		{"good", verify.Vault, "", tokenOf(nil), "", "", ""},
		{"good", verify.Cloudsmith, "", tokenOf(map[string]any{"aud": []string{"https://api.cloudsmith.io"}}), "", "", ""},

		{"Ed25519", verify.GCP, "", keysOf(edKey.jwk), "gcp-key-types", verify.Warn, `"key-ed"`},
		{"certificate in a key", verify.GCP, "", keysOf(rsaKey.with("x5t", "AAAAAAAAAAAAAAAAAAAAAAAAAAA")), "gcp-key-members", verify.Warn, `"key-1"`},
		{"long audience", verify.GCP, "", func(_ *site, o *verify.Options) { o.Audience = strings.Repeat("a", 257) }, "gcp-audience-length", verify.Fail, "257"},
		{"long life", verify.GCP, "", tokenOf(map[string]any{"iat": minutes(-60), "exp": minutes(47 * 60)}), "gcp-token-lifetime", verify.Warn, "48h"},

		{"key_ops", verify.AWS, "", keysOf(rsaKey.with("key_ops", []string{"verify"})), "aws-key-members", verify.Warn, "key_ops"},
		{"use", verify.AWS, "", keysOf(rsaKey.with("use", "enc")), "aws-key-use", verify.Warn, "use"},
		{"one PS256 key", verify.AWS, "", keysOf(ecKey.jwk, rsaKey.with("alg", "PS256")), "aws-algorithms", verify.Warn, `"key-1"`},
		{"only EdDSA", verify.AWS, "", keysOf(edKey.jwk), "aws-algorithms", verify.Fail, "no key"},
		{"port", verify.AWS, publicHost + ":8443", func(*site, *verify.Options) {}, "aws-issuer-url", verify.Fail, "no port"},
		{"two audiences", verify.AWS, "", tokenOf(map[string]any{"aud": []string{"a", "b"}}), "aws-audience-count", verify.Warn, "azp"},
		{"two audiences and azp", verify.AWS, "", tokenOf(map[string]any{"aud": []string{"a", "b"}, "azp": "a"}), "", "", ""},
		{"huge token", verify.AWS, "", tokenOf(map[string]any{"x": strings.Repeat("x", 20000)}), "aws-token-size", verify.Fail, "20000"},

		{"EC beside RSA", verify.Azure, "", keysOf(rsaKey.jwk, ecKey.jwk), "azure-algorithms", verify.Warn, `"key-ec"`},
		{"EC only", verify.Azure, "", keysOf(ecKey.jwk), "azure-algorithms", verify.Fail, "no key"},
		{"EC token", verify.Azure, "", func(s *site, o *verify.Options) {
			s.keys.body = jwks(rsaKey, ecKey)
			o.Token, o.Audience = discovery.NewToken(ecKey.sign(t, claims(nil))), audience
		}, "azure-algorithms", verify.Fail, "ES256"},
		{"two audiences", verify.Azure, "", tokenOf(map[string]any{"aud": []string{"a", "b"}}), "azure-audience-count", verify.Fail, "exactly one"},

		{"EC", verify.Vault, "", keysOf(ecKey.jwk), "vault-algorithms", verify.Warn, "RS256"},

		{"well-known", verify.Cloudsmith, publicHost + "/.well-known/openid-configuration", func(s *site, _ *verify.Options) {}, "cloudsmith-issuer-url", verify.Fail, ".well-known"},
		{"audience", verify.Cloudsmith, "", tokenOf(nil), "cloudsmith-audience", verify.Warn, "api.cloudsmith.io"},
	} {
		t.Run(string(tc.party)+" "+tc.name, func(t *testing.T) {
			s := newSite(t)
			s.at(publicHost)
			s.document.body = documentFor(publicHost, all)
			if tc.issuer != "" {
				s.issuer = tc.issuer
				s.document.body = documentFor(tc.issuer, all)
			}
			var rest verify.Options
			r := s.run(t, func(o *verify.Options) {
				o.For = []verify.RelyingParty{tc.party, tc.party}
				tc.bend(s, o)
				rest = *o
			})
			if tc.id == "cloudsmith-issuer-url" { // such an issuer has no document either
				if c := find(t, r, tc.id); c.Status != tc.status {
					t.Errorf("%+v", c)
				}
				return
			}
			if tc.id == "" {
				if bad := with(r, verify.Warn, verify.Fail, verify.Error); len(bad) > 0 {
					t.Errorf("%s: not passed: %v", rest.Issuer, bad)
				}
				return
			}
			only(t, r, tc.id, tc.status, tc.cause)
			if cure := find(t, r, tc.id).Cure; !strings.Contains(cure, "(source: ") {
				t.Errorf("the cure names no source: %s", cure)
			}
		})
	}
}

func TestCloudsmithNeedsAPublicIssuer(t *testing.T) {
	s := newSite(t)
	s.at("https://10.1.2.3")
	r := s.run(t, func(o *verify.Options) { o.For = []verify.RelyingParty{verify.Cloudsmith} })
	if c := find(t, r, "cloudsmith-issuer-host"); c.Status != verify.Fail {
		t.Errorf("%+v", c)
	}
}

func TestEveryRelyingPartyHasAProfile(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	plain := s.run(t, nil)
	for _, party := range verify.RelyingParties() {
		r := s.run(t, func(o *verify.Options) { o.For = []verify.RelyingParty{party} })
		own := r.Checks[len(plain.Checks):]
		if len(own) == 0 || slices.ContainsFunc(own, func(c verify.Check) bool { return !strings.HasPrefix(c.ID, string(party)+"-") }) {
			t.Errorf("%s: %v", party, own)
		}
		if again, err := verify.ParseRelyingParty(string(party)); err != nil || again != party {
			t.Errorf("%s: %v", party, err)
		}
	}
}

func TestProfilesWithoutKeys(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	s.keys.status = 404
	r := s.run(t, func(o *verify.Options) { o.For = verify.RelyingParties() })
	if bad := with(r, verify.Fail, verify.Warn, verify.Error); !slices.Equal(bad, []string{"jwks-status"}) {
		t.Errorf("not passed: %v", bad)
	}
}
