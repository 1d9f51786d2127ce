package httpx_test

import (
	"os"
	"path/filepath"
	"testing"

	"oidc-publisher/internal/httpx"
)

// TestReadFile reads all of a file or nothing.
func TestReadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("12345678"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := httpx.ReadFile(file, 8); string(data) != "12345678" || err != nil {
		t.Errorf("read %q: %v", data, err)
	}
	if data, err := httpx.ReadFile(file, 7); data != nil || err == nil {
		t.Errorf("read %q of a file that is too large", data)
	}
}
