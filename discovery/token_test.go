package discovery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

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

func TestMaskTokens(t *testing.T) {
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJpIn0.c2VhbC1zZWFs"
	const spaced = "ewogICJhbGciOiAiUlMyNTYiCn0.ewogICJpc3MiOiAiaSIKfQ.c2VhbC1zZWFs"
	for text, want := range map[string]string{
		"":                                     "",
		jwt:                                    "[masked]",
		"open " + jwt + ": name too long":      "open [masked]: name too long",
		`unexpected argument "` + jwt + `"`:    `unexpected argument "[masked]"`,
		"--token-file=" + jwt + "," + jwt:      "--token-file=[masked],[masked]",
		"/tmp/" + jwt + "/" + jwt:              "/tmp/[masked]/[masked]",
		"open " + spaced + ": no such file":    "open [masked]: no such file",
		jwt[:20]:                               "[masked]",
		"\xff" + jwt + "\xff":                  "\xff[masked]\xff",
		"https://issuer.example.com/keys.json": "https://issuer.example.com/keys.json",
		"they survey keyed-references":         "they survey keyed-references",
		"key qSX7wY5iTKEbcqJb2kl1c3M9ZQ-XXYNYMlpXXxcwQBE": "key qSX7wY5iTKEbcqJb2kl1c3M9ZQ-XXYNYMlpXXxcwQBE",
	} {
		if got := discovery.MaskTokens(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
