package exchange_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
)

// TestSubjectTokenIsReadAgain: a projected token is replaced while a program
// runs; standard input is read once.
func TestSubjectTokenIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for from, want := range map[string][2]string{file: {"one", "two"}, "-": {"piped", "piped"}} {
		source := &exchange.SubjectSource{File: exchange.TokenFile{Path: from}, Stdin: strings.NewReader("piped\n")}
		for i, content := range []string{"one\n", "two\n"} {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			token, err := source.Token(t.Context())
			if err != nil || token.Reveal() != want[i] {
				t.Errorf("%s, use %d: %q, %v, want %q", from, i, token.Reveal(), err, want[i])
			}
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Token(t.Context()); (err == nil) != (from == "-") {
			t.Errorf("%s, emptied: error %v", from, err)
		}
	}
}

// TestSubjectSourceRefusesAPITokens, minted or read, unless they are allowed.
func TestSubjectSourceRefusesAPITokens(t *testing.T) {
	const own = "eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOlsiaHR0cHM6Ly9pc3N1ZXIuaW52YWxpZCJdLCJpc3MiOiJodHRwczovL2lzc3Vlci5pbnZhbGlkIiwic3ViIjoibm9ib2R5In0.c2VhbA"
	mint := func(context.Context) (discovery.Token, error) { return discovery.NewToken(own), nil }
	for _, source := range []*exchange.SubjectSource{{Mint: mint}, {File: exchange.TokenFile{Path: "-"}, Stdin: strings.NewReader(own)}} {
		var refused *exchange.APITokenError
		if _, err := source.Token(t.Context()); !errors.As(err, &refused) || strings.Contains(err.Error(), own) {
			t.Errorf("error %v", err)
		}
	}
	allowed := &exchange.SubjectSource{Mint: mint, AllowAPIToken: true}
	if token, err := allowed.Token(t.Context()); err != nil || token.Reveal() != own {
		t.Errorf("error %v", err)
	}
}

func TestReadToken(t *testing.T) {
	for content, want := range map[string]string{
		"":     "is empty",
		" \n ": "is empty",
		strings.Repeat("s", exchange.MaxTokenFile+1): "not a token",
		"secret\n": "",
	} {
		token, err := exchange.ReadToken("-", strings.NewReader(content))
		if want == "" {
			if err != nil || token.Reveal() != "secret" {
				t.Errorf("%q, %v", token.Reveal(), err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "ss") {
			t.Errorf("%.20q: error %v, want %q", content, err, want)
		}
	}
}
