package credentialprovider

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// told is an exchange whose credential repeats the request.
type told struct {
	username, password string
	expiry             time.Time
}

func (e told) Exchange(context.Context, discovery.Token) (exchange.Credential, error) {
	return exchange.Credential{Username: e.username, Password: discovery.NewSecret(e.password), Expiry: e.expiry}, nil
}

// telling is the plugin of a command line, and settings that are judged by the
// real exchanges, of which none is called.
func telling(t testing.TB, args []string, lifetime time.Duration) *Plugin {
	t.Helper()
	settings, provider := NewSettings(), args[0]
	flags := settings.Flags(provider)
	for rest := args[1:]; len(rest) > 1; rest = rest[2:] {
		for _, flag := range flags {
			if "--"+flag.Name == rest[0] {
				if err := flag.Set(rest[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	expiry := noon.Add(lifetime)
	if lifetime == 0 {
		expiry = time.Time{}
	}
	p, err := settings.Plugin(provider)
	if err != nil {
		t.Fatal(err)
	}
	p.Now = func() time.Time { return noon }
	service, username := p.Service, map[string]string{ProviderCloudsmith: "token", ProviderGCP: "oauth2accesstoken"}[provider]
	p.Service = func(image Image, annotations map[string]string) (*Access, error) {
		access, err := service(image, annotations)
		if access != nil {
			asked := access.Explain
			access.Exchanger = told{username, strings.Join(strings.Fields("CREDENTIAL of "+asked.Org+asked.Provider+" "+asked.ServiceSlug+asked.ServiceAccount), " "), expiry}
		}
		return access, err
	}
	return p
}

// TestGolden answers every request in testdata/credentialprovider.
func TestGolden(t *testing.T) {
	for _, path := range goldens(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			parts := readGolden(t, path)
			var lifetime time.Duration
			if given := parts["lifetime"]; given != "" && given != "0" {
				var err error
				if lifetime, err = time.ParseDuration(given); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			err := telling(t, strings.Fields(parts["args"]), lifetime).Answer(t.Context(), strings.NewReader(parts["request.json"]), &out)
			if want := parts["error.txt"]; want != "" {
				if err == nil || err.Error() != want || out.Len() > 0 {
					t.Errorf("error %v\nwant  %s\nand wrote %q", err, want, &out)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.TrimSpace(out.String()), parts["response.json"]; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func goldens(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("../../testdata/credentialprovider/*.txt")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d golden files: %v", len(paths), err)
	}
	return paths
}

func readGolden(t testing.TB, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for _, file := range txtar.Parse(data).Files {
		parts[file.Name] = strings.TrimSpace(string(file.Data))
	}
	return parts
}
