package kubeerr

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// FuzzUserOf: the name read from the API server's message is exactly the
// original one, or empty.
func FuzzUserOf(f *testing.F) {
	for _, name := range []string{"jane", "system:serviceaccount:a:b", `quo"te\`, "o'neill; $(id)", "<&>", "&lt;", "new\nline", "\x1b[2J", strings.Repeat("x", 300), "日本", "\xff"} {
		f.Add(name)
	}
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	f.Fuzz(func(t *testing.T, name string) {
		message := escape.Replace(fmt.Sprintf("forbidden: User %q cannot get path %q", name, "/openid/v1/jwks"))
		got := userOf(message)
		if got != "" && got != name {
			t.Errorf("%q became %q", name, got)
		}
		if len(got) > maxName || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("unfit for a terminal: %q", got)
		}
		userOf(name) // must not panic on anything else
	})
}
