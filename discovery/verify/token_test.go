package verify_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
)

const audience = "https://api.example.com"

// claims are those of a valid service account token.
func claims(change map[string]any) map[string]any {
	now := time.Now()
	c := map[string]any{
		"iss": publicHost, "sub": "system:serviceaccount:default:default", "aud": []string{audience},
		"iat": now.Add(-time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for name, value := range change {
		if value == nil {
			delete(c, name)
			continue
		}
		c[name] = value
	}
	return c
}

func (s *signer) sign(t testing.TB, payload map[string]any) string {
	t.Helper()
	kid, _ := s.jwk["kid"].(string)
	return signWith(t, s.alg, jose.JSONWebKey{Key: s.private, KeyID: kid}, payload)
}

func signWith(t testing.TB, alg jose.SignatureAlgorithm, key any, payload map[string]any) string {
	t.Helper()
	made, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := made.Sign(marshal(payload))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// unsigned joins a header and a payload with a signature that proves nothing.
func unsigned(header, payload any, signature string) string {
	encode := func(v any) string { return base64.RawURLEncoding.EncodeToString(marshal(v)) }
	return encode(header) + "." + encode(payload) + "." + base64.RawURLEncoding.EncodeToString([]byte(signature))
}

func minutes(n int) int64 { return time.Now().Add(time.Duration(n) * time.Minute).Unix() }

// TestTokenAndIndependentVerifier compares our verdict on tokens with that of
// go-oidc, which reads the same public documents.
func TestTokenAndIndependentVerifier(t *testing.T) {
	rsaKey, ecKey, edKey, stranger := newRSA(t, "key-1"), newEC(t, "key-ec"), newEd25519(t, "key-ed"), newRSA(t, "stranger")
	impostor := &signer{private: stranger.private, alg: jose.RS256, jwk: rsaKey.jwk}
	good := rsaKey.sign(t, claims(nil))
	parts := strings.Split(good, ".")
	for _, tc := range []struct {
		name  string
		token string
		// id is the one check that does not pass, empty for a good token.
		id     string
		status verify.Status
		cause  string
		// stricter marks tokens that go-oidc accepts and some relying party does
		// not.
		stricter bool
	}{
		{name: "RS256", token: good},
		{name: "ES256", token: ecKey.sign(t, claims(nil))},
		{name: "EdDSA", token: edKey.sign(t, claims(nil))},
		{name: "RS512 with an RSA key that names no algorithm", token: signWith(t, jose.RS512, jose.JSONWebKey{Key: stranger.private, KeyID: "no-alg"}, claims(nil))},
		{name: "one audience as a string", token: rsaKey.sign(t, claims(map[string]any{"aud": audience}))},
		{name: "several audiences", token: rsaKey.sign(t, claims(map[string]any{"aud": []string{"a", audience}}))},
		{name: "no nbf", token: rsaKey.sign(t, claims(map[string]any{"nbf": nil}))},
		{name: "times with fractions", token: rsaKey.sign(t, claims(map[string]any{"exp": float64(minutes(5)) + 0.25}))},

		{name: "minted this moment", token: rsaKey.sign(t, claims(map[string]any{"nbf": time.Now().Add(2 * time.Second).Unix(), "iat": time.Now().Add(2 * time.Second).Unix()}))},

		{name: "other issuer", token: rsaKey.sign(t, claims(map[string]any{"iss": "https://evil.example.com"})), id: "token-issuer", status: verify.Fail, cause: "another issuer"},
		{name: "issuer with a slash", token: rsaKey.sign(t, claims(map[string]any{"iss": publicHost + "/"})), id: "token-issuer", status: verify.Fail, cause: "trailing slash"},
		{name: "no issuer", token: rsaKey.sign(t, claims(map[string]any{"iss": nil})), id: "token-issuer", status: verify.Fail, cause: "another issuer"},
		{name: "other audience", token: rsaKey.sign(t, claims(map[string]any{"aud": []string{audience + "/"}})), id: "token-audience", status: verify.Fail, cause: "another audience"},
		{name: "no audience", token: rsaKey.sign(t, claims(map[string]any{"aud": nil})), id: "token-audience", status: verify.Fail, cause: "without an audience"},
		{name: "expired", token: rsaKey.sign(t, claims(map[string]any{"exp": minutes(-10)})), id: "token-expiry", status: verify.Fail, cause: "expired, by 10m"},
		{name: "just expired", token: rsaKey.sign(t, claims(map[string]any{"exp": time.Now().Add(-20 * time.Second).Unix()})), id: "token-expiry", status: verify.Warn, cause: "within the 1m0s"},
		{name: "no expiry", token: rsaKey.sign(t, claims(map[string]any{"exp": nil})), id: "token-expiry", status: verify.Fail, cause: "without an expiry"},
		{name: "not valid yet", token: rsaKey.sign(t, claims(map[string]any{"nbf": minutes(20)})), id: "token-not-before", status: verify.Fail, cause: "not valid yet"},
		{name: "almost valid", token: rsaKey.sign(t, claims(map[string]any{"nbf": minutes(2)})), id: "token-not-before", status: verify.Fail, cause: "not valid yet", stricter: true},
		{name: "issued in the future", token: rsaKey.sign(t, claims(map[string]any{"iat": minutes(20)})), id: "token-issued-at", status: verify.Fail, cause: "in the future", stricter: true},
		{name: "issued at no time", token: rsaKey.sign(t, claims(map[string]any{"iat": nil})), id: "token-issued-at", status: verify.Warn, cause: "requires it", stricter: true},
		{name: "unknown key", token: stranger.sign(t, claims(nil)), id: "token-key", status: verify.Fail, cause: "not public"},
		{name: "no key ID", token: signWith(t, jose.RS256, rsaKey.private, claims(nil)), id: "token-key-id", status: verify.Fail, cause: "which key", stricter: true},
		{name: "another's signature", token: impostor.sign(t, claims(nil)), id: "token-signature", status: verify.Fail, cause: "does not match"},
		{name: "changed payload", token: parts[0] + "." + base64.RawURLEncoding.EncodeToString(marshal(claims(map[string]any{"sub": "admin"}))) + "." + parts[2], id: "token-signature", status: verify.Fail, cause: "does not match"},
		{name: "empty signature", token: parts[0] + "." + parts[1] + ".", id: "token-signature", status: verify.Fail, cause: "does not match"},
		{name: "another algorithm than the key's", token: signWith(t, jose.RS384, jose.JSONWebKey{Key: rsaKey.private, KeyID: "key-1"}, claims(nil)), id: "token-key", status: verify.Fail, cause: "not the key's"},
		{name: "algorithm none", token: unsigned(map[string]any{"alg": "none", "kid": "key-1"}, claims(nil), ""), id: "token-algorithm", status: verify.Fail, cause: "no public key can verify"},
		{name: "algorithm HS256", token: unsigned(map[string]any{"alg": "HS256", "kid": "key-1"}, claims(nil), "signature"), id: "token-algorithm", status: verify.Fail, cause: "no public key can verify"},
		{name: "no algorithm", token: unsigned(map[string]any{"kid": "key-1"}, claims(nil), "x"), id: "token-algorithm", status: verify.Fail, cause: "no public key can verify"},
		{name: "empty", token: "", id: "token-format", status: verify.Fail, cause: "is empty"},
		{name: "two parts", token: parts[0] + "." + parts[1], id: "token-format", status: verify.Fail, cause: "three base64url parts"},
		{name: "five parts", token: good + ".a.b", id: "token-format", status: verify.Fail, cause: "three base64url parts"},
		{name: "with Bearer", token: "Bearer " + good, id: "token-format", status: verify.Fail, cause: "header is not base64url"},
		{name: "padded", token: parts[0] + "==." + parts[1] + "." + parts[2], id: "token-format", status: verify.Fail, cause: "header is not base64url"},
		{name: "payload is text", token: parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(secretBody)) + "." + parts[2], id: "token-format", status: verify.Fail, cause: "payload is not a JSON object"},
		{name: "key ID is a number", token: unsigned(map[string]any{"alg": "RS256", "kid": 7}, claims(nil), "x"), id: "token-format", status: verify.Fail, cause: "kid is not a string"},
		{name: "expiry is a text", token: rsaKey.sign(t, claims(map[string]any{"exp": "soon"})), id: "token-format", status: verify.Fail, cause: "exp is not a time"},
		{name: "audience is a number", token: rsaKey.sign(t, claims(map[string]any{"aud": 7})), id: "token-format", status: verify.Fail, cause: "aud is neither"},
		{name: "unknown critical member", token: unsigned(map[string]any{"alg": "RS256", "kid": "key-1", "crit": []string{"x"}, "x": 1}, claims(nil), "x"), id: "token-format", status: verify.Fail, cause: "critical"},
		{name: "too long", token: strings.Repeat("a", 70000), id: "token-format", status: verify.Fail, cause: "longer than 65536"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			s.at(publicHost)
			s.document.body = documentFor(publicHost, map[string]any{"id_token_signing_alg_values_supported": []string{"RS256", "RS512", "ES256", "EdDSA"}})
			noAlg := stranger.with("kid", "no-alg")
			delete(noAlg, "alg")
			s.keys.body = jwksOf(rsaKey.jwk, ecKey.jwk, edKey.jwk, noAlg)
			r := s.run(t, func(o *verify.Options) { o.Token, o.Audience = discovery.NewToken(tc.token), audience })
			if tc.id == "" {
				if bad := with(r, verify.Warn, verify.Fail, verify.Error, verify.Skip); len(bad) > 0 {
					t.Errorf("not passed: %v", bad)
				}
			} else {
				only(t, r, tc.id, tc.status, tc.cause)
			}
			assertSecret(t, r, tc.token)
			err := acceptedByGoOIDC(t, s, tc.token)
			if wantAccepted := tc.id == "" || tc.stricter; (err == nil) != wantAccepted {
				t.Errorf("go-oidc says %v", err)
			}
		})
	}
}

func newEd25519(t testing.TB, kid string) *signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, kid, private, public, jose.EdDSA)
}

func acceptedByGoOIDC(t *testing.T, s *site, token string) error {
	t.Helper()
	ctx := oidc.ClientContext(context.Background(), &http.Client{Transport: s.transport()})
	provider, err := oidc.NewProvider(ctx, s.issuer)
	if err != nil {
		t.Fatal(err)
	}
	_, err = provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, token)
	return err
}

// assertSecret looks for every part of a token in everything that is printed.
func assertSecret(t *testing.T, r verify.Report, token string) {
	t.Helper()
	shown := string(marshal(r)) + fmt.Sprintf("%+v", r)
	for _, part := range strings.Split(token, ".") {
		if len(part) > 8 && strings.Contains(shown, part) {
			t.Errorf("the report shows a part of the token: %.20s…", part)
		}
	}
}

func TestTokenEvidence(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	r := s.run(t, func(o *verify.Options) {
		o.Token = discovery.NewToken(s.signer.sign(t, claims(map[string]any{"exp": 4102444800})) + "\n")
	})
	for id, want := range map[string]string{
		"token-algorithm": `"RS256"`,
		"token-key-id":    `"key-1"`,
		"token-issuer":    `sub "system:serviceaccount:default:default"`,
		"token-audience":  audience,
		"token-expiry":    "2100-01-01T00:00:00Z",
	} {
		if c := find(t, r, id); !strings.Contains(c.Evidence, want) {
			t.Errorf("%s shows %q, want %s", id, c.Evidence, want)
		}
	}
	only(t, r, "token-audience", verify.Warn, "no audience was given")
}

// TestTokenClocks verifies a valid token with a wrong clock on either side.
func TestTokenClocks(t *testing.T) {
	for _, tc := range []struct {
		name          string
		local, server time.Duration
		expiry        int
		want          map[string]verify.Status
	}{
		{"local clock is ahead", 30 * time.Minute, 0, 10, map[string]verify.Status{"clock-skew": verify.Warn, "token-expiry": verify.Warn}},
		{"server's clock is ahead", 0, 30 * time.Minute, 10, map[string]verify.Status{"clock-skew": verify.Warn, "token-expiry": verify.Warn}},
		{"local clock is behind", -30 * time.Minute, 0, 10, map[string]verify.Status{"clock-skew": verify.Warn, "token-not-before": verify.Warn, "token-issued-at": verify.Warn}},
		{"both say expired", 0, 0, -10, map[string]verify.Status{"token-expiry": verify.Fail}},
		{"small skew", 10 * time.Second, 0, 10, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			s.at(publicHost)
			s.document.set("Date", time.Now().Add(tc.server).UTC().Format(http.TimeFormat))
			r := s.run(t, func(o *verify.Options) {
				o.Token, o.Audience = discovery.NewToken(s.signer.sign(t, claims(map[string]any{"exp": minutes(tc.expiry)}))), audience
				o.Now = func() time.Time { return time.Now().Add(tc.local) }
			})
			for id := range tc.want {
				find(t, r, id)
			}
			for _, c := range r.Checks {
				want := verify.Pass
				if tc.want[c.ID] != "" {
					want = tc.want[c.ID]
				}
				if c.Status != want {
					t.Errorf("%s is %s, want %s: %s", c.ID, c.Status, want, c.Cause)
				}
			}
		})
	}
}

// TestClockOfACache: an old copy from a cache is not a wrong clock, whatever its
// Date.
func TestClockOfACache(t *testing.T) {
	for name, date := range map[string]time.Duration{"origin's date": -40 * time.Second, "present date": 0} {
		s := newSite(t)
		s.at(publicHost)
		s.document.set("Date", time.Now().Add(date).UTC().Format(http.TimeFormat))
		s.document.set("Age", "40")
		if c := find(t, s.run(t, nil), "clock-skew"); c.Status != verify.Pass {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestTokenOfAnUncheckableAlgorithm(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	s.document.body = documentFor(publicHost, map[string]any{"id_token_signing_alg_values_supported": []string{"ML-DSA-44"}})
	s.keys.body = jwksOf(map[string]any{"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": base64.RawURLEncoding.EncodeToString(make([]byte, 1312))})
	r := s.run(t, func(o *verify.Options) {
		o.Token = discovery.NewToken(unsigned(map[string]any{"alg": "ML-DSA-44", "kid": "pq"}, claims(nil), "signature"))
		o.Audience = audience
	})
	only(t, r, "token-signature", verify.Error, "can't check")
	if r.Verdict != verify.Error {
		t.Errorf("verdict %s", r.Verdict)
	}
}

func TestTokenWithoutKeys(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	s.keys.status = 404
	r := s.run(t, func(o *verify.Options) {
		o.Token, o.Audience = discovery.NewToken(s.signer.sign(t, claims(nil))), audience
	})
	only(t, r, "jwks-status", verify.Fail, "nothing is published")
}

func TestOptionsHideTheToken(t *testing.T) {
	o := verify.Options{Token: discovery.NewToken(secretBody)}
	body, err := json.Marshal(struct{ Token discovery.Token }{o.Token})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprintf("%+v", o), fmt.Sprintf("%#v", o), string(body)} {
		if strings.Contains(shown, secretBody) {
			t.Errorf("shown: %s", shown)
		}
	}
}
