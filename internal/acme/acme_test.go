package acme_test

import (
	"log/slog"
	"testing"
	"time"

	"oidc-publisher/internal/acme"
)

// TestNames: an authority certifies public DNS names.
func TestNames(t *testing.T) {
	for host, fit := range map[string]bool{
		"issuer.example.com": true, "": false, "localhost": false, "192.0.2.1": false, "2001:db8::1": false,
	} {
		_, err := acme.New(acme.Config{Host: host, Storage: t.TempDir(), Expiry: func(time.Time) {}, Log: slog.New(slog.DiscardHandler)})
		if (err == nil) != fit {
			t.Errorf("%q: %v", host, err)
		}
	}
	if _, err := acme.New(acme.Config{Host: "issuer.example.com"}); err == nil {
		t.Error("there is no place for the keys, and no error")
	}
}
