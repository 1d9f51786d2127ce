package examples_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"oidc-publisher/internal/testserver"
)

// TestCredentialProvider: the example is what the program prints, a real
// kubelet starts with it, and a real API server takes the rest.
func TestCredentialProvider(t *testing.T) {
	t.Parallel()
	cluster := testserver.Kube(t, testserver.KubeOptions{Nodes: true})
	containerd := testserver.Containerd(t, testserver.ContainerdOptions{})
	config, bin := t.TempDir(), t.TempDir()
	for provider, args := range map[string][]string{
		"cloudsmith": nil,
		"gcp":        {"--provider", "projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a"},
	} {
		dir := filepath.Join("credential-provider", provider)
		printed(t, filepath.Join(dir, "credential-provider.yaml"), provider, append([]string{"config"}, args...))
		printed(t, filepath.Join(dir, "rbac.yaml"), provider, append([]string{"rbac"}, args...))
		for _, file := range []string{"rbac.yaml", "pod.yaml"} {
			for _, o := range documents(t, readExample(t, filepath.Join(dir, file))) {
				cluster.Apply(t, o)
			}
		}
		data := readExample(t, filepath.Join(dir, "credential-provider.yaml"))
		if err := os.WriteFile(filepath.Join(config, provider+".yaml"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		// kubelet looks whether there is something to run, and runs it for a pull.
		if err := os.Symlink("/bin/false", filepath.Join(bin, "oidc-publisher-credential-provider-"+provider)); err != nil {
			t.Fatal(err)
		}
		for audience, allowed := range map[string]bool{audienceIn(t, data): true, "another": false} {
			cluster.AwaitUserAccess(t, "system:node:node", []string{"system:nodes", "system:authenticated"}, allowed, object{"resourceAttributes": map[string]any{
				"namespace": "default", "verb": "request-serviceaccounts-token-audience", "resource": audience, "name": "puller",
			}})
		}
	}
	testserver.Kubelet(t, cluster, containerd, testserver.KubeletOptions{CredentialProviders: config, CredentialProviderBin: bin})
}

// audienceIn is that of a CredentialProviderConfig with one provider.
func audienceIn(t *testing.T, config []byte) string {
	t.Helper()
	var providers []struct {
		TokenAttributes struct{ ServiceAccountTokenAudience string }
	}
	into(t, documents(t, config)[0], &providers, "providers")
	return providers[0].TokenAttributes.ServiceAccountTokenAudience
}

// printed compares a file with what the program prints.
func printed(t *testing.T, path, provider string, args []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), append([]string{"credential-provider", provider}, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	if want := string(readExample(t, path)); want != string(out) {
		t.Errorf("%s is not what the program prints:\n%s", path, out)
	}
}

func readExample(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
