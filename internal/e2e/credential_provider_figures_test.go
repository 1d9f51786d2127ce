//go:build figures

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/testserver"
)

// startLimit is what the plugin may take beyond an empty program, from the
// start of the process to its response.
const startLimit = 6 // ms

// TestCredentialProviderFigures measures, in one run of hyperfine, an empty Go
// program and the plugin with an exchange on loopback.
func TestCredentialProviderFigures(t *testing.T) {
	hyperfine := testserver.Require(t, "hyperfine")
	l := newLab(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprint(w, `{"token":"opaque"}`)
	}))
	defer service.Close()
	empty, plugin, big := filepath.Join(l.dir, "empty"), filepath.Join(l.dir, "plugin"), filepath.Join(l.dir, "big")
	source := filepath.Join(l.dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	release(t, empty, source)
	release(t, plugin, "oidc-publisher/cmd/oidc-publisher-credential-provider")
	release(t, big, "oidc-publisher/cmd/oidc-publisher")
	request := filepath.Join(l.dir, "request.json")
	token := discovery.NewToken("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJpIiwic3ViIjoicyIsImF1ZCI6WyJhIl19.c2VhbA") // for the audience a
	if err := os.WriteFile(request, fmt.Appendf(nil, `{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest",
		"image":"docker.cloudsmith.io/acme/app","serviceAccountToken":%q}`, token.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	answer := " cloudsmith --org acme --service-slug puller --cloudsmith-url " + service.URL + " <" + request
	results := filepath.Join(l.dir, "results.json")
	cmd := exec.CommandContext(t.Context(), hyperfine, "--style", "basic", "--warmup", "20", "--runs", "300", "--export-json", results,
		empty+" <"+request, plugin+answer, big+" credential-provider"+answer)
	cmd.Env = l.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("hyperfine: %v\n%s", err, out)
	}
	t.Logf("\n%s", out)
	var figures struct {
		Results []struct{ Median, User, System float64 }
	}
	data, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &figures); err != nil {
		t.Fatal(err)
	}
	of := figures.Results
	for i, name := range []string{"empty program", "plugin", "oidc-publisher credential-provider"} {
		t.Logf("%s: median %.2f ms, CPU %.2f ms", name, 1000*of[i].Median, 1000*(of[i].User+of[i].System))
	}
	if over := 1000 * (of[1].Median - of[0].Median); over > startLimit {
		t.Errorf("the plugin takes %.2f ms over an empty program, and may take %d", over, startLimit)
	} else {
		t.Logf("the plugin takes %.2f ms over an empty program", over)
	}
}

// release builds a program as it is released.
func release(t *testing.T, path, source string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testserver.Require(t, "go"), "build", "-trimpath", "-tags", "disable_grpc_modules", "-ldflags", "-s -w", "-o", path, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}
