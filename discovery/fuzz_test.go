package discovery_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"strings"
	"testing"

	"oidc-publisher/discovery"
)

func FuzzDocument(f *testing.F) {
	f.Add([]byte(apiServerDocument), "https://issuer.example.com/openid/v1/jwks")
	f.Add([]byte(`{ "jwks\u005furi" : "https://a.example.com" , "issuer":"https://a.example.com","x":[{"y":"}"}] }`), `https://a.example.com/"<>&`)
	f.Add([]byte(`{"issuer":"https://a.example.com","jwks_uri":"x","k":{"kty":"RSA","d":"x"}}`), "https://a.example.com")
	f.Fuzz(func(t *testing.T, data []byte, uri string) {
		document, err := discovery.ParseDocument(data)
		if err != nil {
			return
		}
		if !bytes.Equal(document.Bytes(), data) {
			t.Fatalf("parsed and written again: %q, was %q", document.Bytes(), data)
		}
		var loose struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(data, &loose); err != nil || discovery.Issuer(loose.Issuer) != document.Issuer() || loose.JWKSURI != document.JWKSURI() {
			t.Fatalf("a relying party written in Go reads %+v, %v, and we read %q, %q", loose, err, document.Issuer(), document.JWKSURI())
		}
		once := document.WithJWKSURI(uri)
		if twice := once.WithJWKSURI(uri); !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("rewritten twice: %q, once: %q", twice.Bytes(), once.Bytes())
		}
		checkPublic(t, once.Bytes())
		if got, want := without(t, once.Bytes(), "jwks_uri"), without(t, data, "jwks_uri"); !bytes.Equal(got, want) {
			t.Fatalf("other members changed: %s, were %s", got, want)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	rsa, ec := jwk(f, &rsaKey(2048).PublicKey, "rsa", "RS256"), jwk(f, &ecKey(f, elliptic.P256()).PublicKey, "ec", "ES256")
	f.Add(set(rsa, ec))
	f.Add(set(rsa, `{"kty":"XYZ","kid":"x"}`))
	f.Add(set(jwk(f, rsaKey(2048), "private", "RS256")))
	f.Add([]byte(`{"a":{"kty":"EC","d":"x"},"keys":[` + ec + `]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := discovery.ParseKeySet(data)
		if err != nil {
			return
		}
		if len(parsed.LeftOut()) == 0 && !bytes.Equal(parsed.Bytes(), data) {
			t.Fatalf("parsed and written again: %q, was %q", parsed.Bytes(), data)
		}
		checkPublic(t, parsed.Bytes())
		sorted := parsed.WithKeys(parsed.Keys())
		checkPublic(t, sorted.Bytes())
		again, err := discovery.ParseKeySet(sorted.Bytes())
		if err != nil {
			t.Fatalf("what was written can't be parsed: %v: %q", err, sorted.Bytes())
		}
		if again.Len() != parsed.Len() {
			t.Fatalf("%d keys became %d", parsed.Len(), again.Len())
		}
	})
}

// checkPublic searches for secrets independently of the parser: by the names of
// the members of any object with a kty.
func checkPublic(t *testing.T, data []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("not JSON: %v: %q", err, data)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for name, e := range v {
				if _, isKey := v["kty"]; isKey && strings.Contains(" d p q dp dq qi oth k priv ", " "+strings.ToLower(name)+" ") {
					t.Fatalf("private member %q came out in %q", name, data)
				}
				walk(e)
			}
		}
	}
	walk(v)
}

func without(t *testing.T, data []byte, member string) []byte {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		t.Fatal(err)
	}
	delete(members, member)
	out, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
