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
