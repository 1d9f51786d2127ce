package e2e

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"oidc-publisher/federation/credentialprovider/nodeconfig"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

// builtProvider is the small program as nodes run it.
var builtProvider = sync.OnceValues(func() (path string, err error) {
	return testserver.Build(filepath.Dir(built), "oidc-publisher-credential-provider")
})

const (
	chainProvider  = "projects/1/locations/global/workloadIdentityPools/pool/providers/cluster-a"
	chainGoogleSA  = "puller@project.iam.gserviceaccount.com"
	cloudsmithsApp = "docker.cloudsmith.io/acme/team/app:1"
	googlesApp     = "europe-docker.pkg.dev/project/team/app:1"
	chainAudience  = "https://iam.googleapis.com/" + chainProvider
)

// chain is everything between a private API server and a running container:
// only the two services are played.
type chain struct {
	*lab
	key        *testserver.KubeKey
	cluster    *testserver.KubeCluster
	kubeconfig string
	target     string
	cloudsmith *fake.Cloudsmith
	google     *fake.Google
	kubelet    *testserver.KubeletServer
}

func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{lab: newLab(t), key: testserver.NewKubeKey(t, "RS256")}
	_, target, public := c.s3()
	c.target = target
	c.internet.Route("issuer.example.com", routed(public))
	c.cluster, c.kubeconfig = c.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: c.key}, Nodes: true})
	c.services()

	registry := testserver.Registry(t, c.cloudsmith, c.google)
	image, mirrors := testserver.StaticImage(t), map[string]string{}
	for _, repository := range []string{"acme/team/app", "acme-other/team/app", "project/team/app"} {
		registry.Push(t, repository, "1", image)
	}
	for _, host := range []string{"docker.cloudsmith.io", "europe-docker.pkg.dev", "docker.example.com"} {
		mirrors[host] = "http://" + registry.Host
	}
	containerd := testserver.Containerd(t, testserver.ContainerdOptions{Mirrors: mirrors})
	config, bin := filepath.Join(c.dir, "credential-providers"), filepath.Join(c.dir, "bin")
	for _, dir := range []string{config, bin} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.install(config, bin, "cloudsmith")
	c.install(config, bin, "gcp", "--audience", chainAudience)
	c.install(config, bin, "cloudsmith", wrongAudience()...)
	c.allow("cloudsmith")
	c.allow("gcp", "--audience", chainAudience)
	c.kubelet = testserver.Kubelet(t, c.cluster, containerd, testserver.KubeletOptions{CredentialProviders: config, CredentialProviderBin: bin})
	return c
}

// wrongAudience is a node's third provider, with an audience that no service
// expects.
func wrongAudience() []string {
	return []string{"--name", "wrong-audience", "--registry", "docker.example.com", "--audience", "elsewhere", "--org", "acme", "--service-slug", "puller"}
}

// services starts the two and configures whom they trust: at Cloudsmith whoever
// is in the namespace team, and at Google one service account.
func (c *chain) services() {
	c.t.Helper()
	c.cloudsmith = fake.StartCloudsmith(c.t, c.internet)
	c.internet.Route("api.cloudsmith.io", c.cloudsmith)
	c.cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: labIssuer, Services: []string{"puller"},
		Claims: map[string]string{"aud": "https://api.cloudsmith.io", "sub": "system:serviceaccount:team:.*"},
	})
	c.google = fake.StartGoogle(c.t, c.internet)
	c.issued = append(c.issued, c.cloudsmith.Issued, c.google.Issued)
	c.internet.Route("sts.googleapis.com", c.google)
	c.internet.Route("iamcredentials.googleapis.com", c.google)
	c.google.AddProvider(fake.GoogleProvider{Name: chainProvider, Issuer: labIssuer})
	c.google.Bind(chainGoogleSA, "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/subject/system:serviceaccount:team:gcp")
}

// install puts the plugin on the node under its name, with the configuration
// that the program prints.
func (c *chain) install(config, bin, provider string, args ...string) {
	c.t.Helper()
	program, err := builtProvider()
	if err != nil {
		c.t.Fatal(err)
	}
	args = append([]string{"credential-provider", provider, "config"}, args...)
	for _, pair := range append(c.internet.Env(), "GORACE=halt_on_error=1 atexit_sleep_ms=0") {
		args = append(args, "--env", pair)
	}
	text := c.must(cli.ExitDone, args...).stdout
	parsed, err := nodeconfig.ParseConfig([]byte(text))
	if err != nil {
		c.t.Fatal(err)
	}
	name := parsed.Providers[0].Name
	if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, name+".yaml"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// allow gives nodes the right that the program prints.
func (c *chain) allow(provider string, args ...string) {
	c.t.Helper()
	text := c.must(cli.ExitDone, append([]string{"credential-provider", provider, "rbac"}, args...)...).stdout
	for document := range strings.SplitSeq(text, "---\n") {
		var object testserver.Object
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			c.t.Fatal(err)
		}
		c.cluster.Apply(c.t, object)
	}
}

// annotated makes a service account.
func (c *chain) annotated(namespace, name string, annotations map[string]string) {
	c.t.Helper()
	c.cluster.CreateServiceAccount(c.t, namespace, name)
	c.cluster.Apply(c.t, testserver.Object{
		"apiVersion": "v1", "kind": "ServiceAccount",
		"metadata": map[string]any{"namespace": namespace, "name": name, "annotations": annotations},
	})
}

// cloudsmithAs are the annotations of Cloudsmith's own plugin.
func cloudsmithAs(service string) map[string]string {
	return map[string]string{"cloudsmith.io/org-slug": "acme", "cloudsmith.io/service-slug": service}
}

func googleAs(email string) map[string]string {
	return map[string]string{"oidc-publisher/gcp-provider": chainProvider, "oidc-publisher/gcp-service-account": email}
}

// pod applies a pod of a service account, and removes it with the test.
func (c *chain) pod(t *testing.T, namespace, account, image string, secrets ...string) testserver.Object {
	t.Helper()
	pod := c.kubelet.Pod(namespace, "pod-"+rand.Text()[:8], image)
	pod["metadata"].(map[string]any)["name"] = strings.ToLower(pod.Name())
	if account != "" {
		pod.Spec()["serviceAccountName"] = account
	}
	var references []any
	for _, name := range secrets {
		references = append(references, map[string]any{"name": name})
	}
	pod.Spec()["imagePullSecrets"] = references
	c.cluster.Apply(t, pod)
	t.Cleanup(func() { c.kubelet.Remove(t, pod) })
	return pod
}

// hasNoSecret looks through what the node told: no token that the API server
// signed, and no credential that a service issued. Whatever began like one in
// the logs of kubelet and containerd fails the test when they end, too.
func (c *chain) hasNoSecret() {
	c.t.Helper()
	told := c.kubelet.Output()
	for _, namespace := range []string{"team", "strangers", "consumers"} {
		events, err := json.Marshal(c.cluster.Get(c.t, "/api/v1/namespaces/"+namespace+"/events"))
		if err != nil {
			c.t.Fatal(err)
		}
		told += string(events)
	}
	issued := slices.Concat(c.cloudsmith.Issued(), c.google.Issued())
	if len(issued) == 0 || !strings.Contains(told, "Pulled") {
		c.t.Error("the search for secrets sees nothing")
	}
	for _, secret := range append(issued, jwtHeader) {
		if strings.Contains(told, secret) {
			c.t.Error("the node's output contains a secret")
		}
	}
}

// TestChain: an API server that can't be reached from outside, its documents published to
// S3, a service that verifies tokens through them, a real kubelet and
// containerd that pull a private image from a real registry, and a container
// that runs.
func TestChain(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := newChain(t)
	t.Logf("the servers run after %v", time.Since(began).Round(time.Millisecond))
	c.annotated("team", "cloudsmith", cloudsmithAs("puller"))
	c.annotated("team", "gcp", googleAs(chainGoogleSA))

	t.Run("not published yet", func(t *testing.T) {
		c.refused(t, "team", "cloudsmith", cloudsmithsApp, "Cloudsmith refused the token", "likely cause: the issuer "+labIssuer)
	})
	c.publish("--kubeconfig", c.kubeconfig, "--to", c.target)
	t.Run("pull secret", c.testPullSecret)
	t.Run("credential provider", c.testCredentialProvider)
	t.Run("refused", c.testRefused)
	c.hasNoSecret()
	t.Run("rotation", c.testRotation)
	c.hasNoSecret()
	t.Logf("all after %v", time.Since(began).Round(time.Millisecond))
}

// refused runs a pod whose image can't be pulled: its event says that the
// registry wants a credential, and the kubelet's log why there is none.
func (c *chain) refused(t *testing.T, namespace, account, image string, causes ...string) {
	t.Helper()
	pod := c.pod(t, namespace, account, image)
	c.kubelet.AwaitEvent(t, pod, "401 Unauthorized")
	line := c.kubelet.AwaitLog(t, append(causes, "Failed to provide credentials for image", pod.Name())...)
	t.Log(strings.TrimSpace(line))
}

// testPullSecret runs pods that have no service account, so that kubelet asks no
// plugin: all they have is the secret that the program wrote.
func (c *chain) testPullSecret(t *testing.T) {
	l, admin := c.in(t), c.cluster.WriteKubeconfig(t, "admin")
	c.cluster.CreateServiceAccount(t, "consumers", "default")
	write := func(code int, provider, account, audience, name string, args ...string) outcomeOf {
		t.Helper()
		return l.must(code, append([]string{"pull-secret", provider, "--kubeconfig", admin, "--mint", "team/" + account, "--audience", audience,
			"--secret-name", name, "--namespace", "consumers"}, args...)...)
	}
	write(cli.ExitDone, "cloudsmith", "cloudsmith", exchange.CloudsmithURL, "cloudsmith", "--org", "acme", "--service-slug", "puller")
	write(cli.ExitDone, "gcp", "gcp", chainAudience, "gcp", "--provider", chainProvider, "--service-account", chainGoogleSA, "--registry", "europe-docker.pkg.dev")
	for secret, image := range map[string]string{"cloudsmith": cloudsmithsApp, "gcp": googlesApp} {
		began := time.Now()
		c.kubelet.AwaitRunning(t, c.pod(t, "consumers", "", image, secret))
		t.Logf("%s: running after %v", secret, time.Since(began).Round(time.Millisecond))
	}
	// A refused exchange writes nothing and reports the cause, as does the pod's event.
	got := write(cli.ExitRefused, "cloudsmith", "cloudsmith", "elsewhere", "refused", "--org", "acme", "--service-slug", "puller")
	if !strings.Contains(got.stderr, `the token is for the audience "elsewhere"`) {
		t.Errorf("the cause is not named: %s", got.stderr)
	}
	pod := c.pod(t, "consumers", "", cloudsmithsApp, "refused")
	c.kubelet.AwaitEvent(t, pod, "Unable to retrieve some image pull secrets (refused)")
	c.kubelet.AwaitEvent(t, pod, "401 Unauthorized")
}

// testCredentialProvider runs pods without any secret: kubelet mints the token.
func (c *chain) testCredentialProvider(t *testing.T) {
	for account, image := range map[string]string{"cloudsmith": cloudsmithsApp, "gcp": googlesApp} {
		began := time.Now()
		c.kubelet.AwaitRunning(t, c.pod(t, "team", account, image))
		t.Logf("%s: running after %v", account, time.Since(began).Round(time.Millisecond))
	}
	asked := c.cloudsmith.Requests()
	c.kubelet.AwaitRunning(t, c.pod(t, "team", "cloudsmith", cloudsmithsApp))
	if more := c.cloudsmith.Requests() - asked; more != 0 {
		t.Errorf("%d exchanges for a credential that kubelet has", more)
	}
	// It has it for docker.cloudsmith.io, but the key is acme's alone.
	pod := c.pod(t, "team", "cloudsmith", "docker.cloudsmith.io/acme-other/team/app:1")
	c.kubelet.AwaitEvent(t, pod, "401 Unauthorized")
}

func (c *chain) testRefused(t *testing.T) {
	c.annotated("team", "wrong-slug", cloudsmithAs("admin"))
	c.annotated("team", "no-slug", nil)
	c.annotated("team", "wrong-email", googleAs("owner@project.iam.gserviceaccount.com"))
	c.annotated("team", "wrong-audience", nil)
	c.annotated("strangers", "cloudsmith", cloudsmithAs("puller"))
	for _, r := range []struct{ name, namespace, account, image, cause string }{
		{"service slug", "team", "wrong-slug", cloudsmithsApp, `there is no service account "admin" in the organisation "acme"`},
		{"no annotation", "team", "no-slug", cloudsmithsApp, "the service account has no annotation cloudsmith.io/org-slug"},
		{"no right at Cloudsmith", "strangers", "cloudsmith", cloudsmithsApp, "claims that match this token"},
		{"no right at Google", "team", "wrong-email", googlesApp, "lacks roles/iam.workloadIdentityUser on the service account owner@project"},
		{"no right to ask for the audience", "team", "wrong-audience", "docker.example.com/acme/team/app:1", "elsewhere"},
	} {
		t.Run(r.name, func(t *testing.T) { c.refused(t, r.namespace, r.account, r.image, r.cause) })
	}
	t.Run("audience", func(t *testing.T) {
		c.allow("cloudsmith", wrongAudience()...)
		c.refused(t, "team", "wrong-audience", "docker.example.com/acme/team/app:1", `the token is for the audience "elsewhere"`)
	})
}

// testRotation: the key is replaced, watch publishes the new one, and the next
// pull is with a token that it signed.
func (c *chain) testRotation(t *testing.T) {
	w := c.in(t).watch("--kubeconfig", c.kubeconfig, "--to", c.target)
	w.ready()
	fresh := testserver.NewKubeKey(t, "ES256")
	c.cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: fresh})
	eventually(t, 30*time.Second, "the new key is public", c.shows(labIssuer, c.key.ID, fresh.ID))
	asked := c.cloudsmith.Requests()
	c.annotated("team", "after-rotation", cloudsmithAs("puller"))
	c.kubelet.AwaitRunning(t, c.pod(t, "team", "after-rotation", cloudsmithsApp))
	if c.cloudsmith.Requests() == asked {
		t.Error("nothing was exchanged")
	}
}
