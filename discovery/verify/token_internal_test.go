package verify

import (
	"encoding/base64"
	"strings"
	"testing"

	"oidc-publisher/discovery"
)

// FuzzToken: whatever a token file holds, parsing neither panics nor quotes it,
// and what is judged of the header is what the signature is checked with.
func FuzzToken(f *testing.F) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for _, header := range []string{`{"alg":"RS256","kid":"a"}`, `{"alg":"none"}`, `{"alg":7}`, `{"alg":"ES256","crit":["b64"],"b64":false}`, `{}`, `null`, ``} {
		for _, payload := range []string{`{"iss":"https://a.example.com","aud":["b"],"exp":1e9,"nbf":1.5,"iat":0}`, `{"aud":7}`, `{"exp":1e300}`, `[]`} {
			f.Add(part(header) + "." + part(payload) + "." + part("signature"))
		}
	}
	f.Add("")
	f.Add("a.b.c.d.e")
	f.Add(part("{\"alg\":\"RS256\",\"m4\xd0\":\"m\"}") + "." + part("{}") + ".")
	f.Fuzz(func(t *testing.T, raw string) {
		token := discovery.NewToken(raw)
		p, err := parseToken(token)
		if err != nil {
			for _, secret := range strings.Split(token.Reveal(), ".") {
				if len(secret) > 16 && strings.Contains(err.Error(), secret) {
					t.Errorf("the error quotes the token: %v", err)
				}
			}
			return
		}
		if p.jws == nil {
			return
		}
		h := p.jws.Signatures[0].Protected
		if h.KeyID != p.kid || h.Algorithm != p.alg {
			t.Errorf("read as alg %q kid %q, and by the library as %q %q", p.alg, p.kid, h.Algorithm, h.KeyID)
		}
	})
}
