package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oidc-publisher/internal/cli"
)

// TestSubjectTokenIsReadAgain: a projected token is replaced while a program
// runs; what stood on standard input stays.
func TestSubjectTokenIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for from, want := range map[string][2]string{file: {"one", "two"}, "-": {"piped", "piped"}} {
		if err := os.WriteFile(file, []byte("one\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		app := &cli.App{Flags: subjectTokenFlags(), Reader: strings.NewReader("piped\n"), Writer: io.Discard, Action: func(c *cli.Context) error {
			subject, err := subjectToken(c)
			if err != nil {
				return err
			}
			for i, content := range []string{"two\n", ""} {
				token, err := subject(t.Context())
				if err != nil {
					return err
				}
				if token.Reveal() != want[i] {
					t.Errorf("%s, use %d: %q, want %q", from, i, token.Reveal(), want[i])
				}
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					return err
				}
			}
			if _, err := subject(t.Context()); (err == nil) != (from == "-") {
				t.Errorf("%s, emptied: error %v", from, err)
			}
			return nil
		}}
		if err := app.RunContext(t.Context(), []string{"test", "--token-file", from}); err != nil {
			t.Error(err)
		}
	}
}
