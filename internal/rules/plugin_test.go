package rules

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pluginLinks is everything that the credential provider may be made of: kubelet
// starts it for pulls, and each package costs time before main.
var pluginLinks = []string{
	// ours
	"oidc-publisher/cmd/oidc-publisher-credential-provider",
	"oidc-publisher/discovery", "oidc-publisher/discovery/verify",
	"oidc-publisher/federation/credentialprovider", "oidc-publisher/federation/exchange", "oidc-publisher/federation/explain",
	"oidc-publisher/internal/httpx", "oidc-publisher/internal/service/retry",
	// tokens
	"github.com/go-jose/go-jose/v4",
	// strict decoding
	"sigs.k8s.io/json",
}

// TestPluginLinks compares both ways: what is linked is allowed, and what is
// allowed is linked.
func TestPluginLinks(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "disable_grpc_modules", "./cmd/oidc-publisher-credential-provider")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	used := map[string]bool{}
	for _, dep := range strings.Fields(string(out)) {
		if standard(dep) || strings.HasPrefix(dep, "vendor/") || strings.HasPrefix(dep, "crypto/internal/") {
			continue
		}
		i := slices.IndexFunc(pluginLinks, func(allowed string) bool {
			if strings.HasPrefix(allowed, module+"/") {
				return dep == allowed
			}
			return hasPath(dep, allowed)
		})
		if i < 0 {
			t.Errorf("it must not link %s", dep)
			continue
		}
		used[pluginLinks[i]] = true
	}
	for _, allowed := range pluginLinks {
		if !used[allowed] {
			t.Errorf("it does not link %s any more: take it off the list", allowed)
		}
	}
}
