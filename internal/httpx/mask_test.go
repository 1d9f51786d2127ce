package httpx_test

import (
	"os/exec"
	"testing"

	"oidc-publisher/internal/httpx"
)

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
		if got := httpx.MaskTokens(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// TestShellQuote: a shell reads of a quoted name just that name.
func TestShellQuote(t *testing.T) {
	for _, name := range []string{"jane", "a b", "", "o'neill", `"$(id)" ; rm -rf * & <x> | \`, "--flag", "日本", "tab\there"} {
		out, err := exec.Command("sh", "-c", "printf %s --user="+httpx.ShellQuote(name)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != "--user="+name {
			t.Errorf("%q became %q", name, out)
		}
	}
}
