package discovery

import (
	"fmt"
	"log/slog"
)

// Secret is a password or token. Every formatter, encoder and logger that it
// is given to prints a placeholder.
type Secret struct {
	// A function, since fmt prints the unexported fields of a struct that
	// holds a Secret without calling its methods.
	reveal func() string
}

// NewSecret returns raw as a Secret, byte for byte.
func NewSecret(raw string) Secret { return Secret{reveal: func() string { return raw }} }

// Given reports whether the secret was set.
func (s Secret) Given() bool { return s.reveal != nil }

// Reveal returns the secret itself, to send it or to store it.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// String returns a placeholder.
func (Secret) String() string { return "[secret]" }

// Format prints the placeholder for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

// MarshalText returns the placeholder, for JSON and YAML too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns the placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
