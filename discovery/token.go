package discovery

import (
	"fmt"
	"strings"
)

// Token is a service account token. Every formatter, marshaller and structured
// logger that it is given to prints a placeholder.
type Token struct{ reveal func() string }

// NewToken takes a token as a file holds it, white space around it included.
func NewToken(raw string) Token {
	raw = strings.TrimSpace(raw)
	return Token{reveal: func() string { return raw }}
}

// Given reports whether there is a token at all.
func (t Token) Given() bool { return t.reveal != nil }

// Reveal returns the token itself. It is for sending it or taking it apart,
// never for showing it.
func (t Token) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// String returns a placeholder.
func (t Token) String() string { return "[token]" }

// Format prints a placeholder for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, t.String()) }

// MarshalText returns a placeholder, for JSON and for structured logs.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
