package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

// builtProvider is the small program as nodes run it.
var builtProvider = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(filepath.Dir(built), "oidc-publisher-credential-provider")
	args, env := []string{"build", "-tags", "disable_grpc_modules", "-o", path}, os.Environ()
	if raceDetector() {
		args = append(args, "-race")
	} else {
		args, env = append(args, "-trimpath", "-ldflags", "-s -w"), append(env, "CGO_ENABLED=0")
	}
	cmd := exec.Command("go", append(args, "../oidc-publisher-credential-provider")...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

const (
	chainProvider  = "projects/1/locations/global/workloadIdentityPools/pool/providers/cluster-a"
	chainGoogleSA  = "puller@project.iam.gserviceaccount.com"
	cloudsmithsApp = "docker.cloudsmith.io/acme/team/app:1"
	googlesApp     = "europe-docker.pkg.dev/project/team/app:1"
	googleAudience = "https://iam.googleapis.com/" + chainProvider
)

// chain is everything between a private API server and a running container:
// only the two services are played.
type chain struct {
	*lab
	key        *testserver.KubeKey
	cluster    *testserver.KubeCluster
	kubeconfig string
	target     string
	cloudsmith *testserver.Cloudsmith
	google     *testserver.Google
	kubelet    *testserver.KubeletServer
}

func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{lab: newLab(t), key: testserver.NewKubeKey(t, "RS256")}
	public := c.s3Chain()
	c.internet.Route("issuer.example.com", routed(public))
	c.cluster, c.kubeconfig = c.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: c.key}, Nodes: true})

	c.cloudsmith = testserver.StartCloudsmith(t, c.internet)
	c.internet.Route("api.cloudsmith.io", c.cloudsmith)
	c.cloudsmith.AddProvider("acme", testserver.CloudsmithProvider{
		Issuer: labIssuer, Services: []string{"puller"},
		Claims: map[string]string{"aud": "cloudsmith", "sub": "system:serviceaccount:team:.*"},
	})
	c.google = testserver.StartGoogle(t, c.internet)
	c.internet.Route("sts.googleapis.com", c.google)
	c.internet.Route("iamcredentials.googleapis.com", c.google)
	c.google.AddProvider(testserver.GoogleProvider{Name: chainProvider, Issuer: labIssuer})
	c.google.Bind(chainGoogleSA, "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/subject/system:serviceaccount:team:gcp-puller")

	registry := testserver.Registry(t, c.cloudsmith, c.google)
	image := testserver.StaticImage(t)
	registry.Push(t, "acme/team/app", "1", image)
	registry.Push(t, "project/team/app", "1", image)
	containerd := testserver.Containerd(t, testserver.ContainerdOptions{Mirrors: map[string]string{
		"docker.cloudsmith.io": "http://" + registry.Host, "europe-docker.pkg.dev": "http://" + registry.Host,
	}})
	config, bin := c.node()
	c.kubelet = testserver.Kubelet(t, c.cluster, containerd, testserver.KubeletOptions{CredentialProviders: config, CredentialProviderBin: bin})
	return c
}

func (c *chain) s3Chain() (public http.Handler) {
	c.t.Helper()
	_, target, face := c.s3()
	c.target = target
	return face
}

// node installs the plugin on the node, as the two providers.
func (c *chain) node() (config, bin string) {
	c.t.Helper()
	program, err := builtProvider()
	if err != nil {
		c.t.Fatal(err)
	}
	bin, config = filepath.Join(c.dir, "bin"), filepath.Join(c.dir, "credential-providers")
	for _, dir := range []string{bin, config} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	for provider, of := range map[string]struct {
		audience string
		images   []string
		keys     []string
	}{
		"cloudsmith": {"cloudsmith", []string{"docker.cloudsmith.io"}, []string{"cloudsmith.io/org-slug", "cloudsmith.io/service-slug"}},
		"gcp":        {googleAudience, []string{"*.pkg.dev"}, []string{"oidc-publisher/gcp-provider", "oidc-publisher/gcp-service-account"}},
	} {
		name := "oidc-publisher-credential-provider-" + provider
		if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
			c.t.Fatal(err)
		}
		var env []map[string]string
		for _, pair := range append(c.internet.Env(), "GORACE=halt_on_error=1 atexit_sleep_ms=0") {
			key, value, _ := strings.Cut(pair, "=")
			env = append(env, map[string]string{"name": key, "value": value})
		}
		data, err := json.Marshal(map[string]any{
			"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
			"providers": []any{map[string]any{
				"name": name, "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "defaultCacheDuration": "0s",
				"matchImages": of.images, "env": env,
				"tokenAttributes": map[string]any{"serviceAccountTokenAudience": of.audience, "cacheType": "ServiceAccount", "requireServiceAccount": true, "optionalServiceAccountAnnotationKeys": of.keys},
			}},
		})
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(config, provider+".json"), data, 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.cluster.Apply(c.t, testserver.Object{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": name},
			"rules": []any{map[string]any{"apiGroups": []string{""}, "resources": []string{of.audience}, "verbs": []string{"request-serviceaccounts-token-audience"}}},
		})
		c.cluster.Apply(c.t, testserver.Object{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": name},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
			"subjects": []any{map[string]any{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"}},
		})
	}
	return config, bin
}

// serviceAccount makes one in the namespace team.
func (c *chain) serviceAccount(name string, annotations map[string]string) {
	c.t.Helper()
	c.cluster.CreateServiceAccount(c.t, "team", name)
	c.cluster.Apply(c.t, testserver.Object{
		"apiVersion": "v1", "kind": "ServiceAccount",
		"metadata": map[string]any{"namespace": "team", "name": name, "annotations": annotations},
	})
}

// pod applies a pod of a service account.
func (c *chain) pod(name, image, account string) testserver.Object {
	c.t.Helper()
	pod := c.kubelet.Pod("team", name, image)
	pod.Spec()["serviceAccountName"] = account
	c.cluster.Apply(c.t, pod)
	return pod
}

// tellsNoSecret looks through everything that the node told: no token that the
// API server signed, and no credential that a service issued.
func (c *chain) tellsNoSecret() {
	c.t.Helper()
	events, err := json.Marshal(c.cluster.Get(c.t, "/api/v1/namespaces/team/events"))
	if err != nil {
		c.t.Fatal(err)
	}
	told := c.kubelet.Output() + string(events)
	for _, secret := range slices.Concat([]string{jwtHeader}, c.cloudsmith.Issued(), c.google.Issued()) {
		if strings.Contains(told, secret) {
			c.t.Error("the node tells a secret")
		}
	}
}

var (
	cloudsmithAnnotations = map[string]string{"cloudsmith.io/org-slug": "acme", "cloudsmith.io/service-slug": "puller"}
	googleAnnotations     = map[string]string{"oidc-publisher/gcp-provider": chainProvider, "oidc-publisher/gcp-service-account": chainGoogleSA}
)

// TestChain: an API server that nobody can reach, its documents published to
// S3, a service that verifies tokens through them, a real kubelet and
// containerd that pull a private image from a real registry, and a container
// that runs.
func TestChain(t *testing.T) {
	began := time.Now()
	c := newChain(t)
	t.Logf("the servers run after %v", time.Since(began).Round(time.Millisecond))
	c.publish("--kubeconfig", c.kubeconfig, "--to", c.target)
	c.serviceAccount("cloudsmith-puller", cloudsmithAnnotations)
	c.serviceAccount("gcp-puller", googleAnnotations)
	pod := c.pod("app", cloudsmithsApp, "cloudsmith-puller")
	c.kubelet.AwaitRunning(t, pod)
	t.Logf("cloudsmith after %v", time.Since(began).Round(time.Millisecond))
	pod = c.pod("gcp", googlesApp, "gcp-puller")
	c.kubelet.AwaitRunning(t, pod)
	t.Logf("gcp after %v", time.Since(began).Round(time.Millisecond))
	c.tellsNoSecret()
}
