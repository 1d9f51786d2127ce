package kube

import "testing"

// FuzzParseClaims: whatever is no token is refused without repeating it.
func FuzzParseClaims(f *testing.F) {
	for _, token := range []string{"", "..", "a.b.c", "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJpIiwic3ViIjoicyJ9.x", "e30.bnVsbA.", "e30.W10."} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := parseClaims(token); err != nil && err.Error() != "is not a JWT" {
			t.Errorf("%v", err)
		}
	})
}
