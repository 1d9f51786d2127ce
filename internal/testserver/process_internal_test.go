package testserver

import (
	"strings"
	"testing"
)

// TestTailFindsTokens however the output is cut, and after it was forgotten.
func TestTailFindsTokens(t *testing.T) {
	filler := strings.Repeat("nothing to see\n", outputLimit/10)
	for _, c := range []struct {
		name   string
		writes []string
		want   bool
	}{
		{"nothing", []string{"eyJ hbGci", "Oi", "ya29", " .c"}, false},
		{"a JWT", []string{"Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"}, true},
		{"a Google token", []string{"password ya29.c.b0Aaek"}, true},
		{"in two writes", []string{filler + "eyJhb", "GciOiJ"}, true},
		{"letter by letter", strings.Split("token=eyJhbGciOiJSUzI1NiJ9", ""), true},
		{"long ago", []string{"eyJhbGciOiJSUzI1NiJ9", filler, filler}, true},
	} {
		var w tail
		for _, text := range c.writes {
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if w.hasToken() != c.want {
			t.Errorf("%s: %t", c.name, w.hasToken())
		}
		if len(w.String()) > outputLimit {
			t.Errorf("%s: keeps %d bytes", c.name, len(w.String()))
		}
	}
}
