// Package examples_test applies the examples to real servers, so that they
// can't rot.
package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"k8s.io/apimachinery/pkg/util/yaml"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// TestMain gives program a folder that outlives each test.
func TestMain(m *testing.M) { os.Exit(runIn(m)) }

var folder string

func runIn(m *testing.M) int {
	dir, err := os.MkdirTemp("", "oidc-publisher-examples-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	folder = dir
	return testserver.Main(m)
}

var build = sync.OnceValues(func() (path string, err error) { return testserver.Build(folder, "oidc-publisher") })

// program is oidc-publisher as users run it.
func program(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

type object = testserver.Object

const (
	issuer     = "https://issuer.example.com/cluster-a"
	issuerHost = "issuer.example.com"
	// The namespace and the service account have the same name.
	namespace = "oidc-publisher"
	account   = "system:serviceaccount:oidc-publisher:oidc-publisher"
)

// plane is a hardened cluster in an internet: no service account may read the
// documents unless it is told so, and the namespace takes restricted pods only.
type plane struct {
	*testserver.KubeCluster
	internet *fake.Internet
	key      *testserver.KubeKey
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	testserver.Require(t, "kustomize")
	p := &plane{internet: fake.NewInternet(t), key: testserver.NewKubeKey(t, "ES256")}
	p.KubeCluster = testserver.Kube(t, testserver.KubeOptions{Issuer: issuer, Keys: testserver.KubeKeys{Signing: p.key}})
	p.CreateServiceAccount(t, "default", "default")
	p.Apply(t, object{ // without the annotation it would be back after a restart
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": map[string]any{
			"name":        "system:service-account-issuer-discovery",
			"annotations": map[string]any{"rbac.authorization.kubernetes.io/autoupdate": "false"},
		},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
		"subjects": []any{},
	})
	p.AwaitAccess(t, namespace, namespace, false, right{}.attributes())
	p.Apply(t, object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
		"name": namespace, "labels": map[string]any{"pod-security.kubernetes.io/enforce": "restricted"},
	}})
	return p
}

// kustomize builds an overlay, with the components that its kustomization.yaml
// has in comments if all is set.
func kustomize(t *testing.T, overlay string, all bool) []object {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("watch")); err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlays", overlay)
	if all {
		uncomment(t, filepath.Join(overlay, "kustomization.yaml"))
	}
	cmd := exec.CommandContext(t.Context(), testserver.Require(t, "kustomize"), "build", overlay)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kustomize: %v\n%s", err, &stderr)
	}
	return documents(t, out)
}

func uncomment(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const comment = "  # - ../../components/"
	if n := bytes.Count(data, []byte(comment)); n != 2 {
		t.Fatalf("%s has %d components in comments, want 2", path, n)
	}
	data = bytes.ReplaceAll(data, []byte(comment), []byte("  - ../../components/"))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func documents(t *testing.T, data []byte) []object {
	t.Helper()
	var all []object
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var o object
		switch err := decoder.Decode(&o); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		case len(o) > 0:
			all = append(all, o)
		}
	}
}

// one returns the object of a kind and, unless it is empty, a name.
func one(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(objects, func(o object) bool { return o.Kind() == kind && (name == "" || o.Name() == name) })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return objects[i]
}

// into reads a part of an object, by the path to it.
func into(t *testing.T, o object, target any, path ...string) {
	t.Helper()
	var part any = map[string]any(o)
	for _, key := range path {
		parent, _ := part.(map[string]any)
		part = parent[key]
	}
	data, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, target); err != nil {
		t.Fatal(err)
	}
}

// podSpec is the part of a pod that running it needs.
type podSpec struct {
	ServiceAccountName            string
	TerminationGracePeriodSeconds int
	Containers                    []struct {
		Args    []string
		Env     []struct{ Name, Value string }
		EnvFrom []struct {
			ConfigMapRef struct{ Name string }
		}
		VolumeMounts []struct {
			Name, MountPath string
		}
		StartupProbe, LivenessProbe, ReadinessProbe struct {
			HTTPGet struct{ Path, Port string }
		}
		Ports []struct {
			Name          string
			ContainerPort int
		}
	}
	Volumes []struct {
		Name      string
		Projected struct {
			Sources []struct {
				ServiceAccountToken *struct {
					Path, Audience string
				}
				ConfigMap *struct{ Name string }
			}
		}
		PersistentVolumeClaim *struct{ ClaimName string }
	}
}

// pod is the program run as the Deployment's pod would be: its arguments,
// environment, volumes, and service account.
type pod struct {
	t    *testing.T
	spec podSpec
	// volumes are folders by the name of the volume.
	volumes map[string]string
	args    []string
	env     []string
	address string // of its status
	process *testserver.Process
}

// pod prepares one. The more arguments and variables win over the Deployment's.
func (p *plane) pod(t *testing.T, objects []object, args, env []string) *pod {
	t.Helper()
	q, mounted := p.admit(t, objects, one(t, objects, "Deployment", ""), "spec", "template", "spec")
	q.address = fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	container := q.spec.Containers[0]
	q.env = append(q.env, "AWS_EC2_METADATA_DISABLED=true", "GCE_METADATA_HOST=127.0.0.1:1")
	for _, from := range container.EnvFrom {
		var data map[string]string
		into(t, one(t, objects, "ConfigMap", from.ConfigMapRef.Name), &data, "data")
		for name, value := range data {
			q.env = append(q.env, name+"="+mounted.Replace(value))
		}
	}
	q.env = append(q.env, env...)
	q.args = slices.Concat(container.Args, []string{"--admin-listen", q.address, "--interval", "1s"}, args)
	return q
}

// admit gives a pod what every pod has: volumes with what the kubelet puts there, and its
// service account. Its spec is at the path of the object; mounted turns paths in
// its container into ours.
func (p *plane) admit(t *testing.T, objects []object, from object, path ...string) (q *pod, mounted *strings.Replacer) {
	t.Helper()
	q = &pod{t: t, volumes: map[string]string{}}
	into(t, from, &q.spec, path...)
	if len(q.spec.Containers) != 1 {
		t.Fatalf("%d containers, want one", len(q.spec.Containers))
	}
	var pairs []string
	for _, mount := range q.spec.Containers[0].VolumeMounts {
		q.volumes[mount.Name] = t.TempDir()
		pairs = append(pairs, mount.MountPath, q.volumes[mount.Name])
	}
	mounted = strings.NewReplacer(pairs...)
	p.fill(t, q, objects, mounted)
	kubeconfig := p.Servers[0].Kubeconfig("")
	kubeconfig.Token = p.MintToken(t, namespace, q.spec.ServiceAccountName, issuer)
	kubeconfig.Namespace = namespace
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := kubeconfig.Write(file); err != nil {
		t.Fatal(err)
	}
	// The root is read-only: there is nowhere to write but in volumes.
	q.env = append(p.internet.Env(), "HOME=/nonexistent", "TMPDIR=/nonexistent", "KUBECONFIG="+file, "GORACE=halt_on_error=1")
	return q, mounted
}

// fill puts into volumes what the kubelet does.
func (p *plane) fill(t *testing.T, q *pod, objects []object, mounted *strings.Replacer) {
	t.Helper()
	write := func(volume, name, content string) {
		if err := os.WriteFile(filepath.Join(q.volumes[volume], name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, volume := range q.spec.Volumes {
		for _, source := range volume.Projected.Sources {
			if token := source.ServiceAccountToken; token != nil {
				write(volume.Name, token.Path, p.MintToken(t, namespace, q.spec.ServiceAccountName, token.Audience))
			}
			if source.ConfigMap != nil {
				var data map[string]string
				into(t, one(t, objects, "ConfigMap", source.ConfigMap.Name), &data, "data")
				for name, content := range data {
					write(volume.Name, name, mounted.Replace(content))
				}
			}
		}
		if claim := volume.PersistentVolumeClaim; claim != nil {
			one(t, objects, "PersistentVolumeClaim", claim.ClaimName)
		}
	}
}

func (q *pod) start() *pod {
	q.t.Helper()
	q.process = testserver.Start(q.t, testserver.Command{
		Name: "oidc-publisher", Path: program(q.t), Args: q.args, Env: q.env,
		StopTimeout: time.Duration(q.spec.TerminationGracePeriodSeconds) * time.Second,
	})
	return q
}

// get reads a path of the status address.
func (q *pod) get(path string) (status int, body string, err error) {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + q.address + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

func (q *pod) wants(path string, status int) func() error {
	return func() error {
		got, body, err := q.get(path)
		if err == nil && got != status {
			err = fmt.Errorf("%s: HTTP status %d, want %d: %s", path, got, status, body)
		}
		return err
	}
}

// leads is for eventually: what the metrics say.
func (q *pod) leads(want bool) func() error {
	return func() error {
		_, metrics, err := q.get("/metrics")
		if leads := strings.Contains(metrics, "\noidc_publisher_leader 1\n"); err == nil && leads != want {
			err = fmt.Errorf("that it leads is %t", leads)
		}
		return err
	}
}

// says waits until the log has a text.
func (q *pod) says(text string) {
	q.t.Helper()
	eventually(q.t, func() error {
		if !strings.Contains(q.process.Output(), text) {
			return fmt.Errorf("the log does not say %q", text)
		}
		return nil
	})
}

// eventually tries for as long as the slowest machine may need.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// verify checks a token as an independent relying party does, by what is
// public at the issuer.
func (p *plane) verify(ctx context.Context, token, audience string) (subject string, err error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.internet.Client()), 20*time.Second)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return "", err
	}
	verified, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: audience}).Verify(ctx, token)
	if err != nil {
		return "", err
	}
	return verified.Subject, nil
}

// accepted is for eventually: the issuer's public face is right.
func (p *plane) accepted(t *testing.T, token string) func() error {
	return func() error {
		_, err := p.verify(t.Context(), token, "relying-party")
		return err
	}
}

// bootstrap is the administrator's first publication.
func (p *plane) bootstrap(t *testing.T, target string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), "publish", "--kubeconfig", p.WriteKubeconfig(t, "admin"), "--to", target)
	cmd.Env = slices.Concat(p.internet.Env(), []string{"HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true"}, env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bootstrap: %v\n%s", err, out)
	}
}
