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

// MaskTokens masks what looks like a JWT in a text that is to be shown: a token
// that was given where a path or a name belongs comes back in errors. Headers
// and claims are JSON objects, so they begin with "eyJ", or with "ey" or "ew"
// where the brace is followed by white space. Key IDs are left as they are.
func MaskTokens(text string) string {
	var out strings.Builder
	for text != "" {
		run := len(text) - len(strings.TrimLeftFunc(text, inJWT))
		if run == 0 {
			run = strings.IndexFunc(text, inJWT)
			if run < 0 {
				run = len(text)
			}
			out.WriteString(text[:run])
		} else {
			out.WriteString(maskRun(text[:run]))
		}
		text = text[run:]
	}
	return out.String()
}

func inJWT(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.+=~", r)
}

// maskRun masks a run of a token's characters from where the token begins.
func maskRun(run string) string {
	const shortest, mask = 12, "[masked]"
	if at := strings.Index(run, "eyJ"); at >= 0 && len(run)-at >= shortest {
		return run[:at] + mask
	}
	parts := strings.Split(run, ".")
	if begin := strings.HasPrefix(run, "ey") || strings.HasPrefix(run, "ew"); begin && len(parts) > 2 && len(parts[0]) >= shortest && len(parts[1]) >= shortest {
		return mask
	}
	return run
}
