package discovery_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
)

func TestTokenIsNeverShown(t *testing.T) {
	token := discovery.NewToken("head.body.seal\n")
	if token.Reveal() != "head.body.seal" || !token.Given() || (discovery.Token{}).Given() {
		t.Fatalf("revealed as %q", token.Reveal())
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		fmt.Fprintf(&out, verb, token)
		fmt.Fprintf(&out, verb, &token)
		fmt.Fprintf(&out, verb, struct{ T discovery.Token }{token})
		fmt.Fprintf(&out, verb, []discovery.Token{token})
	}
	raw, err := json.Marshal(map[string]any{"token": token, "in": struct{ T *discovery.Token }{&token}})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(raw)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "token", token, "in", struct{ T discovery.Token }{token})
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "token", token, "in", struct{ T discovery.Token }{token})
	for _, form := range []string{"head", fmt.Sprintf("%x", "head")} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the token was shown: %s", out.String())
		}
	}
}

// FuzzToken: parsing neither panics nor quotes the token, and the header is read
// as the signature check reads it.
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
		claims, err := token.Claims()
		if err != nil {
			for _, secret := range strings.Split(token.Reveal(), ".") {
				if len(secret) > 16 && strings.Contains(err.Error(), secret) {
					t.Errorf("the error quotes the token: %v", err)
				}
			}
			return
		}
		h := readByLibrary(t, token.Reveal(), claims.Algorithm)
		if h.KeyID != claims.KeyID || h.Algorithm != claims.Algorithm {
			t.Errorf("read as alg %q kid %q, and by the library as %q %q", claims.Algorithm, claims.KeyID, h.Algorithm, h.KeyID)
		}
		for _, at := range []time.Time{claims.Expiry, claims.NotBefore, claims.IssuedAt} {
			if !at.IsZero() && (at.Year() < -10000 || at.Year() > 10000) {
				t.Errorf("a time of %v", at)
			}
		}
	})
}

func readByLibrary(t *testing.T, raw, algorithm string) jose.Header {
	t.Helper()
	signed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
	if err != nil {
		t.Fatal(err)
	}
	return signed.Signatures[0].Protected
}
