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

func TestSecretIsNeverShown(t *testing.T) {
	secret := discovery.NewSecret(" hunter2 ")
	if secret.Reveal() != " hunter2 " || !secret.Given() || (discovery.Secret{}).Given() || (discovery.Secret{}).Reveal() != "" {
		t.Fatalf("revealed as %q", secret.Reveal())
	}
	type hidden struct{ s discovery.Secret } // fmt reads its field by reflection
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		for _, value := range []any{secret, &secret, struct{ S discovery.Secret }{secret}, hidden{secret}, []discovery.Secret{secret}, map[string]discovery.Secret{"a": secret}} {
			fmt.Fprintf(&out, verb, value)
		}
	}
	raw, err := json.Marshal(map[string]any{"secret": secret, "in": struct{ S *discovery.Secret }{&secret}})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(raw)
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("m", "secret", secret, "pointer", &secret, "in", struct{ S discovery.Secret }{secret}, "hidden", hidden{secret})
	}
	for _, form := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%d", []byte("hunter2"))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret was shown: %s", out.String())
		}
	}
	if !strings.Contains(string(raw), "[secret]") {
		t.Errorf("no placeholder in %s", raw)
	}
}
