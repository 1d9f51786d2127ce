package discovery_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
)

// rsaKey gives each test the same few keys: making them is slow.
var rsaKey = func() func(bits int) *rsa.PrivateKey {
	var mu sync.Mutex
	made := map[int]*rsa.PrivateKey{}
	return func(bits int) *rsa.PrivateKey {
		mu.Lock()
		defer mu.Unlock()
		if made[bits] == nil {
			key, err := rsa.GenerateKey(rand.Reader, bits)
			if err != nil {
				panic(err)
			}
			made[bits] = key
		}
		return made[bits]
	}
}()

func jwk(t testing.TB, key any, id, alg string) string {
	t.Helper()
	raw, err := jose.JSONWebKey{Key: key, KeyID: id, Algorithm: alg, Use: "sig"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func set(keys ...string) []byte {
	return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`)
}

func TestParseIssuer(t *testing.T) {
	for _, tc := range []struct{ issuer, fault string }{
		{"https://issuer.example.com", ""},
		{"https://issuer.example.com/", ""},
		{"https://storage.googleapis.com/bucket/a/b", ""},
		{"https://[2001:db8::1]:8443/x", ""},
		{"http://127.0.0.1:8080", ""},
		{"http://localhost/x", ""},
		{"", "empty"},
		{"http://issuer.example.com", "must be an https URL"},
		{"http://127.0.0.1.example.com", "must be an https URL"},
		{"issuer.example.com", "no host"},
		{"https:///path", "no host"},
		{"https://:443", "no host"},
		{"https://a.example.com?x=1", "query"},
		{"https://a.example.com?", "query"},
		{"https://a.example.com#f", "fragment"},
		{"https://a.example.com#", "fragment"},
		{"https://user:secret@a.example.com", "user name or password"},
		{"https://a b.example.com", "not a URL"},
		{"kubernetes/serviceaccount", "no host"},
	} {
		issuer, err := discovery.ParseIssuer(tc.issuer)
		switch {
		case tc.fault == "" && (err != nil || string(issuer) != tc.issuer):
			t.Errorf("ParseIssuer(%q) = %q, %v; want it unchanged", tc.issuer, issuer, err)
		case tc.fault != "" && (err == nil || !strings.Contains(err.Error(), tc.fault)):
			t.Errorf("ParseIssuer(%q): error %v, want %q in it", tc.issuer, err, tc.fault)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("ParseIssuer(%q): the error shows the password: %v", tc.issuer, err)
		}
	}
}

func TestIssuerURLs(t *testing.T) {
	for _, tc := range []struct{ issuer, configuration, jwks string }{
		{"https://a.example.com", "https://a.example.com/.well-known/openid-configuration", "https://a.example.com/openid/v1/jwks"},
		{"https://a.example.com/", "https://a.example.com/.well-known/openid-configuration", "https://a.example.com/openid/v1/jwks"},
		{"https://a.example.com/b/c", "https://a.example.com/b/c/.well-known/openid-configuration", "https://a.example.com/b/c/openid/v1/jwks"},
	} {
		issuer := discovery.Issuer(tc.issuer)
		if got := issuer.ConfigurationURL(); got != tc.configuration {
			t.Errorf("%s: configuration at %s, want %s", issuer, got, tc.configuration)
		}
		if got := issuer.JWKSURI(); got != tc.jwks {
			t.Errorf("%s: keys at %s, want %s", issuer, got, tc.jwks)
		}
	}
}

const apiServerDocument = `{"issuer":"https://issuer.example.com","jwks_uri":"https://192.0.2.7:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["RS256"]}`

func TestRewriteKeepsEveryOtherByte(t *testing.T) {
	for _, tc := range []struct{ name, in, out string }{
		{
			"as kube-apiserver writes it", apiServerDocument,
			strings.Replace(apiServerDocument, "https://192.0.2.7:6443/openid/v1/jwks", "https://issuer.example.com/openid/v1/jwks", 1),
		},
		{
			"white space, numbers and unknown members",
			"{\n \"x\" : 1.0e0 ,\t\"jwks_uri\"  :  \"https://in.example.com\" , \"issuer\": \"https://issuer.example.com\",\"n\":{\"jwks_uri\":\"kept\"}}\n",
			"{\n \"x\" : 1.0e0 ,\t\"jwks_uri\"  :  \"https://issuer.example.com/openid/v1/jwks\" , \"issuer\": \"https://issuer.example.com\",\"n\":{\"jwks_uri\":\"kept\"}}\n",
		},
		{
			"escapes in the name and colons in the value",
			`{"jwks\u005furi":"https:\/\/in.example.com:1","issuer":"https://issuer.example.com","a:b":":"}`,
			`{"jwks\u005furi":"https://issuer.example.com/openid/v1/jwks","issuer":"https://issuer.example.com","a:b":":"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			document, err := discovery.ParseDocument([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(document.Bytes()); got != tc.in {
				t.Errorf("parsed and written again:\n%s\nwant\n%s", got, tc.in)
			}
			rewritten := document.WithJWKSURI(document.Issuer().JWKSURI())
			if got := string(rewritten.Bytes()); got != tc.out {
				t.Errorf("rewritten:\n%s\nwant\n%s", got, tc.out)
			}
			if got := string(document.Bytes()); got != tc.in {
				t.Errorf("the original changed with its copy: %s", got)
			}
			again, err := discovery.ParseDocument(rewritten.Bytes())
			if err != nil || again.JWKSURI() != "https://issuer.example.com/openid/v1/jwks" {
				t.Errorf("parsed again: jwks_uri %q, %v", again.JWKSURI(), err)
			}
		})
	}
}

func TestWithIssuer(t *testing.T) {
	document, err := discovery.ParseDocument([]byte(apiServerDocument))
	if err != nil {
		t.Fatal(err)
	}
	moved := document.WithIssuer("https://new.example.com")
	if want := strings.Replace(apiServerDocument, "https://issuer.example.com", "https://new.example.com", 1); string(moved.Bytes()) != want {
		t.Errorf("got %s, want %s", moved.Bytes(), want)
	}
	if moved.Issuer() != "https://new.example.com" {
		t.Errorf("issuer %q", moved.Issuer())
	}
}

func TestWithAlgorithms(t *testing.T) {
	for _, tc := range []struct {
		name, listed string
		add          []string
		want         string
	}{
		{"all are listed", `[ "RS256","ES256" ]`, []string{"ES256", "RS256"}, `[ "RS256","ES256" ]`},
		{"none to add", `["RS256"]`, nil, `["RS256"]`},
		{"one is missing", `["RS256"]`, []string{"ES256", "ES256"}, `["ES256","RS256"]`},
		{"not a list", `"RS256"`, []string{"ES256"}, `"RS256"`},
		{"null", `null`, []string{"ES256"}, `["ES256"]`},
	} {
		const around = `{"issuer":"https://a.example.com","id_token_signing_alg_values_supported":%s,"jwks_uri":"x"}`
		document, err := discovery.ParseDocument(fmt.Appendf(nil, around, tc.listed))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(document.WithAlgorithms(tc.add).Bytes()), fmt.Sprintf(around, tc.want); got != want {
			t.Errorf("%s: got %s, want %s", tc.name, got, want)
		}
	}
	document, err := discovery.ParseDocument([]byte(`{"issuer":"https://a.example.com","jwks_uri":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(document.WithAlgorithms([]string{"ES256"}).Bytes()); got != string(document.Bytes()) {
		t.Errorf("a document without the list became %s", got)
	}
}

func TestParseDocumentRefuses(t *testing.T) {
	private := jwk(t, rsaKey(2048), "private", "RS256")
	for _, tc := range []struct {
		name, document string
		unfit          bool
		faults         []string
	}{
		{"empty", "", false, []string{"not a JSON object"}},
		{"HTML", "<html><body>log in</body></html>", false, []string{"not a JSON object"}},
		{"an array", "[]", false, []string{"not a JSON object"}},
		{"null", "null", false, []string{"not a JSON object"}},
		{"cut short", apiServerDocument[:80], false, []string{"not valid JSON"}},
		{"two documents", apiServerDocument + apiServerDocument, false, []string{"not valid JSON"}},
		{"invalid UTF-8", "{\"issuer\":\"\xff\"}", false, []string{"UTF-8"}},
		{"a member twice", `{"issuer":"https://a.example.com","issuer":"https://b.example.com","jwks_uri":"https://a.example.com"}`, false, []string{`two members named "issuer"`}},
		{"a member twice but for case", `{"issuer":"https://a.example.com","jwks_uri":"https://a.example.com","Issuer":"https://evil.example.com"}`, false, []string{"differ only in case"}},
		{"a member twice by Unicode's folding", "{\"issuer\":\"https://a.example.com\",\"jwks_uri\":\"https://a.example.com\",\"i\u017fsuer\":\"x\"}", false, []string{"differ only in case"}},
		{"a nested member twice", `{"issuer":"https://a.example.com","jwks_uri":"https://a.example.com","x":[{"y":1,"y":2}]}`, false, []string{`two members named "y"`}},
		{"too large", `{"x":"` + strings.Repeat("x", discovery.MaxSize) + `"}`, false, []string{"larger than"}},
		{"too deep", `{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, false, []string{"nested deeper"}},
		{"nothing in it", `{}`, true, []string{`no member "issuer"`, `no member "jwks_uri"`}},
		{"another case", `{"Issuer":"https://a.example.com","JWKS_URI":"https://a.example.com"}`, true, []string{`no member "issuer"`, `no member "jwks_uri"`}},
		{"not strings", `{"issuer":1,"jwks_uri":null}`, true, []string{`"issuer" is not a non-empty string`, `"jwks_uri" is not a non-empty string`}},
		{"plain http", `{"issuer":"http://a.example.com","jwks_uri":"https://a.example.com"}`, true, []string{"https URL"}},
		{"a private key in it", `{"issuer":"https://a.example.com","jwks_uri":"https://a.example.com","x":[` + private + `]}`, true, []string{"private key material"}},
		{"a PEM private key in it", `{"issuer":"https://a.example.com","jwks_uri":"https://a.example.com","x":"-----BEGIN EC PRIVATE KEY-----\nxyz"}`, true, []string{"private key material"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := discovery.ParseDocument([]byte(tc.document))
			checkFaults(t, err, tc.unfit, tc.faults)
		})
	}
}

func checkFaults(t *testing.T, err error, unfit bool, faults []string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	if got := errors.As(err, new(*discovery.UnfitError)); got != unfit {
		t.Errorf("unfit rather than garbage: %v, want %v: %v", got, unfit, err)
	}
	for _, fault := range faults {
		if !strings.Contains(err.Error(), fault) {
			t.Errorf("error %q does not say %q", err, fault)
		}
	}
	if len(err.Error()) > 4096 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestParseKeySetAcceptsAllKnownTypes(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{
		jwk(t, &rsaKey(2048).PublicKey, "rsa", "RS256"),
		jwk(t, &ecKey(t, elliptic.P256()).PublicKey, "p256", "ES256"),
		jwk(t, &ecKey(t, elliptic.P384()).PublicKey, "p384", "ES384"),
		jwk(t, &ecKey(t, elliptic.P521()).PublicKey, "p521", "ES512"),
		jwk(t, public, "ed", "EdDSA"),
		mldsa("ml", "ML-DSA-65", 1952),
	}
	data := append([]byte("\n"), set(keys...)...)
	parsed, err := discovery.ParseKeySet(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := parsed.IDs(), []string{"rsa", "p256", "p384", "p521", "ed", "ml"}; !slices.Equal(got, want) {
		t.Errorf("key IDs %v, want %v", got, want)
	}
	if string(parsed.Bytes()) != string(data) {
		t.Errorf("parsed and written again: %s", parsed.Bytes())
	}
	thumbprints := map[string]bool{}
	for i, key := range parsed.Keys() {
		if string(key.Bytes()) != keys[i] {
			t.Errorf("key %s changed to %s", keys[i], key.Bytes())
		}
		if verifiable := key.Public() != nil; verifiable != (key.Type != "AKP") {
			t.Errorf("key %s: a public key to verify with: %v", key.ID, verifiable)
		}
		thumbprints[key.Thumbprint] = true
	}
	if len(thumbprints) != len(keys) || thumbprints[""] {
		t.Errorf("thumbprints are not distinct: %v", thumbprints)
	}
	if key, _ := parsed.Lookup("rsa"); key.Bits != 2048 || key.Algorithm != "RS256" || key.Use != "sig" {
		t.Errorf("the RSA key reads as %+v", key)
	}
}

// TestThumbprint checks against the example of RFC 7638 section 3.1.
func TestThumbprint(t *testing.T) {
	const example = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	key, err := discovery.ParseKey([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; key.Thumbprint != want {
		t.Errorf("thumbprint %s, want %s", key.Thumbprint, want)
	}
}

func mldsa(id, alg string, size int) string {
	return fmt.Sprintf(`{"kty":"AKP","kid":%q,"alg":%q,"use":"sig","pub":%q}`, id, alg, base64.RawURLEncoding.EncodeToString(make([]byte, size)))
}

func edit(t *testing.T, key, member string, value any) string {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(key), &members); err != nil {
		t.Fatal(err)
	}
	if members[member] = value; value == nil {
		delete(members, member)
	}
	edited, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(edited)
}

func TestParseKeySetRefuses(t *testing.T) {
	good := jwk(t, &rsaKey(2048).PublicKey, "good", "RS256")
	ec := jwk(t, &ecKey(t, elliptic.P256()).PublicKey, "ec", "ES256")
	var tooMany []string
	for i := range discovery.MaxKeys + 1 {
		tooMany = append(tooMany, edit(t, good, "kid", fmt.Sprint("k", i)))
	}
	for _, tc := range []struct {
		name   string
		jwks   []byte
		unfit  bool
		faults []string
	}{
		{"HTML", []byte("<!doctype html>"), false, []string{"not a JSON object"}},
		{"cut short", set(good)[:200], false, []string{"not valid JSON"}},
		{"no keys member", []byte(`{}`), true, []string{`no member "keys"`}},
		{"keys and Keys", []byte(`{"keys":[` + good + `],"Keys":[]}`), false, []string{"differ only in case"}},
		{"endless text", set(edit(t, good, "alg", "HS"+strings.Repeat("x", 100000))), true, []string{`key "good"`}},
		{"keys is null", []byte(`{"keys":null}`), true, []string{"not an array"}},
		{"keys is an object", []byte(`{"keys":{}}`), true, []string{"not an array"}},
		{"empty", set(), true, []string{"no usable key"}},
		{"only unknown types", set(`{"kty":"XYZ","kid":"x"}`), true, []string{"no usable key"}},
		{"too many", set(tooMany...), true, []string{"101 keys", "at most 100"}},
		{"private RSA", set(jwk(t, rsaKey(2048), "secret-rsa", "RS256")), true, []string{`key "secret-rsa"`, "private key", "d, p, q"}},
		{"private EC", set(jwk(t, ecKey(t, elliptic.P256()), "secret-ec", "ES256")), true, []string{`key "secret-ec"`, "private key"}},
		{"private ML-DSA", set(edit(t, mldsa("secret-ml", "ML-DSA-44", 1312), "priv", "AAAA")), true, []string{`key "secret-ml"`, "private key"}},
		{"private member in capitals", set(edit(t, ec, "D", "AAAA")), true, []string{`key "ec"`, "private key"}},
		{"private member of an unknown type", set(good, `{"kty":"XYZ","kid":"x","d":"AAAA"}`), true, []string{`key "x"`, "private key"}},
		{"a private key inside a key", set(edit(t, good, "x", map[string]any{"kty": "EC", "d": "AAAA"})), true, []string{`key "good"`, "private key material"}},
		{"a private key beside the keys", []byte(`{"keys":[` + good + `],"old":[` + jwk(t, rsaKey(2048), "s", "") + `]}`), true, []string{"outside its keys"}},
		{"symmetric", set(`{"kty":"oct","kid":"shared","k":"c2VjcmV0"}`), true, []string{`key "shared"`, "symmetric"}},
		{"HMAC algorithm", set(edit(t, good, "alg", "HS256")), true, []string{`key "good"`, "HS256"}},
		{"algorithm none", set(edit(t, good, "alg", "none")), true, []string{`key "good"`, "none"}},
		{"same key ID twice", set(good, edit(t, ec, "kid", "good")), true, []string{`key "good"`, "twice"}},
		{"RSA too small", set(jwk(t, &rsaKey(1024).PublicKey, "small", "RS256")), true, []string{`key "small"`, "1024 bits", "2048"}},
		{"RSA exponent 1", set(jwk(t, &rsa.PublicKey{N: rsaKey(2048).N, E: 1}, "e1", "RS256")), true, []string{`key "e1"`}},
		{"RSA even exponent", set(jwk(t, &rsa.PublicKey{N: rsaKey(2048).N, E: 65536}, "even", "RS256")), true, []string{`key "even"`}},
		{"point not on the curve", set(edit(t, ec, "y", base64.RawURLEncoding.EncodeToString(make([]byte, 32)))), true, []string{`key "ec"`, "not a valid EC key"}},
		{"unknown curve", set(edit(t, ec, "crv", "P-123")), true, []string{`key "ec"`, "not a valid EC key"}},
		{"no modulus", set(edit(t, good, "n", nil)), true, []string{`key "good"`, "not a valid RSA key"}},
		{"no key ID", set(edit(t, good, "kid", nil)), true, []string{"key number 1", `no member "kid"`}},
		{"empty key ID", set(edit(t, good, "kid", "")), true, []string{"key number 1", `"kid"`}},
		{"no type", set(edit(t, good, "kty", nil)), true, []string{`key "good"`, `no member "kty"`}},
		{"not an object", set(`"key"`), true, []string{"key number 1", "not a JSON object"}},
		{"ML-DSA of the wrong size", set(mldsa("ml", "ML-DSA-87", 1952)), true, []string{`key "ml"`, "2592 bytes"}},
		{"every fault at once", set(jwk(t, &rsaKey(1024).PublicKey, "small", ""), `{"kty":"oct","kid":"shared","k":"AA"}`, good, edit(t, ec, "kid", "good")), true, []string{`key "small"`, `key "shared"`, `key "good"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parsed, err := discovery.ParseKeySet(tc.jwks)
			checkFaults(t, err, tc.unfit, tc.faults)
			if parsed.Len() != 0 {
				t.Errorf("a refused set still has the keys %v", parsed.IDs())
			}
			for _, secret := range []string{"c2VjcmV0", "AAAA"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows key material: %v", err)
				}
			}
		})
	}
}

func TestUnknownTypesAreLeftOut(t *testing.T) {
	good := jwk(t, &rsaKey(2048).PublicKey, "good", "RS256")
	parsed, err := discovery.ParseKeySet([]byte(`{"a":1,"keys":[{"kty":"XYZ","kid":"new"}, ` + good + `,{"kty":"OKP","kid":"x25519","crv":"X25519","x":"AA"}],"z":2}`))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, fault := range parsed.LeftOut() {
		left = append(left, fault.KeyID)
	}
	if !slices.Equal(left, []string{"new", "x25519"}) {
		t.Errorf("left out %v", left)
	}
	if want := `{"a":1,"keys":[` + good + `],"z":2}`; string(parsed.Bytes()) != want {
		t.Errorf("got  %s\nwant %s", parsed.Bytes(), want)
	}
}

// TestSecondCopyIsLeftOut: kube-apiserver lists a key twice if it is given its
// file twice.
func TestSecondCopyIsLeftOut(t *testing.T) {
	good := jwk(t, &rsaKey(2048).PublicKey, "good", "RS256")
	parsed, err := discovery.ParseKeySet(set(good, good))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(parsed.Bytes()); got != string(set(good)) || len(parsed.LeftOut()) != 1 {
		t.Errorf("got %s, left out %v", got, parsed.LeftOut())
	}
}

func TestUnion(t *testing.T) {
	a := jwk(t, &rsaKey(2048).PublicKey, "a", "RS256")
	b := jwk(t, &ecKey(t, elliptic.P256()).PublicKey, "b", "ES256")
	c := jwk(t, &ecKey(t, elliptic.P384()).PublicKey, "c", "ES384")
	parse := func(keys ...string) discovery.KeySet {
		parsed, err := discovery.ParseKeySet(set(keys...))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	t.Run("has every key once, whatever the order", func(t *testing.T) {
		want := string(set(a, b, c))
		for _, sets := range [][]discovery.KeySet{
			{parse(a, b), parse(b, c)}, {parse(c, b), parse(b, a)}, {parse(c), parse(a), parse(b), parse(a, b, c)}, {parse(c, a, b)},
		} {
			union, err := discovery.Union(sets...)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(union.Bytes()); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	})
	t.Run("the same key in other bytes", func(t *testing.T) {
		spaced := strings.Replace(a, "{", "{ ", 1)
		one, err := discovery.Union(parse(a), parse(spaced))
		if err != nil {
			t.Fatal(err)
		}
		other, err := discovery.Union(parse(spaced), parse(a))
		if err != nil || string(one.Bytes()) != string(other.Bytes()) {
			t.Errorf("the order of the sets decides: %s and %s, %v", one.Bytes(), other.Bytes(), err)
		}
	})
	t.Run("refuses one ID for two keys", func(t *testing.T) {
		_, err := discovery.Union(parse(a), parse(edit(t, b, "kid", "a")))
		var keyErr *discovery.KeyError
		if !errors.As(err, &keyErr) || keyErr.KeyID != "a" {
			t.Errorf("error %v, want a KeyError of key a", err)
		}
	})
}

// TestReturnedBytesAreCopies: a caller that edits them must not change what is
// published.
func TestReturnedBytesAreCopies(t *testing.T) {
	parsed, err := discovery.ParseKeySet(set(jwk(t, &rsaKey(2048).PublicKey, "a", "RS256")))
	if err != nil {
		t.Fatal(err)
	}
	before := string(parsed.Bytes())
	parsed.Bytes()[0] = 'X'
	parsed.Keys()[0].Bytes()[0] = 'X'
	parsed.Keys()[0].ID = "X"
	if got := string(parsed.Bytes()); got != before || parsed.IDs()[0] != "a" {
		t.Errorf("the set changed to %s, IDs %v", got, parsed.IDs())
	}
}

func TestPublicVerifies(t *testing.T) {
	private := ecKey(t, elliptic.P256())
	key, err := discovery.ParseKey([]byte(jwk(t, &private.PublicKey, "a", "ES256")))
	if err != nil {
		t.Fatal(err)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !public.Equal(private.Public()) {
		t.Errorf("public key %v, want %v", key.Public(), private.Public())
	}
}
