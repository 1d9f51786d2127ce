package examples_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// TestPullSecretExamples applies each example and runs its pod as its service
// account, and then takes away one right after the other.
func TestPullSecretExamples(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	public := filepath.Join(t.TempDir(), "public")
	p.internet.Route(issuerHost, http.StripPrefix("/cluster-a", fake.Website(public)))
	p.bootstrap(t, public)
	cloudsmith, google := fake.StartCloudsmith(t, p.internet), fake.StartGoogle(t, p.internet)
	cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: issuer, Services: []string{"kubernetes"}, Claims: map[string]string{"aud": "https://api.cloudsmith.io", "sub": account},
	})
	const pool = "projects/123456789/locations/global/workloadIdentityPools/clusters"
	google.AddProvider(fake.GoogleProvider{Name: pool + "/providers/cluster-a", Issuer: issuer})
	google.Bind("puller@acme.iam.gserviceaccount.com", "principal://iam.googleapis.com/"+pool+"/subject/"+account)
	p.internet.Route("api.cloudsmith.io", cloudsmith)
	p.internet.Route("sts.googleapis.com", google)
	p.internet.Route("iamcredentials.googleapis.com", google)

	t.Run("cloudsmith-cronjob", func(t *testing.T) {
		testPullCronJob(t, p, "cloudsmith-cronjob", "cloudsmith-registry-secret", "docker.cloudsmith.io")
	})
	t.Run("gcp-cronjob", func(t *testing.T) { testPullCronJob(t, p, "gcp-cronjob", "regcred", "europe-docker.pkg.dev") })
	t.Run("pull-secret-deployment", func(t *testing.T) { testPullDeployment(t, p) })
}

// pullExample builds and applies one, and checks that the namespace takes its pod.
func (p *plane) pullExample(t *testing.T, dir, kind string, path ...string) (objects []object, template object) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testserver.Require(t, "kustomize"), "build", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	objects = documents(t, out)
	for _, o := range objects {
		p.Apply(t, o)
		t.Cleanup(func() { p.Delete(t, o) }) // the next example has the same names
	}
	for _, r := range pullRights(t, objects) {
		p.awaitPull(t, r, true)
	}
	into(t, one(t, objects, kind, ""), &template, path...)
	template["apiVersion"], template["kind"] = "v1", "Pod"
	metadata, _ := template["metadata"].(map[string]any)
	metadata["name"], metadata["namespace"] = "dry-run", namespace
	if err := p.DryRun(t, template); err != nil {
		t.Errorf("the namespace refuses the pod: %v", err)
	}
	return objects, template
}

// pullPod is the template run as its service account. The more arguments win
// over its own.
func (p *plane) pullPod(t *testing.T, objects []object, template object, more ...string) *pod {
	t.Helper()
	q, mounted := p.admit(t, objects, template, "spec")
	container := q.spec.Containers[0]
	for _, variable := range container.Env {
		q.env = append(q.env, variable.Name+"="+variable.Value)
	}
	for _, arg := range container.Args {
		q.args = append(q.args, mounted.Replace(arg))
	}
	q.args = append(q.args, more...)
	return q
}

// once runs a CronJob's pod to its end.
func (q *pod) once() (output string, err error) {
	q.t.Helper()
	cmd := exec.CommandContext(q.t.Context(), program(q.t), q.args...)
	cmd.Env = q.env
	out, err := cmd.CombinedOutput()
	if len(q.volumes) == 0 {
		q.t.Error("there is no volume with the token")
	}
	for _, volume := range q.volumes {
		token, read := os.ReadFile(filepath.Join(volume, "oidc-token"))
		if read != nil || strings.Contains(string(out), string(token)) {
			q.t.Errorf("the token can't be read, or is told: %v", read)
		}
	}
	return string(out), err
}

func testPullCronJob(t *testing.T, p *plane, dir, secret, registry string) {
	objects, template := p.pullExample(t, dir, "CronJob", "spec", "jobTemplate", "spec", "template")
	target := object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": secret, "namespace": "default"}}
	out, err := p.pullPod(t, objects, template).once()
	if err != nil || !strings.Contains(out, "created") {
		t.Fatalf("%v: %s", err, out)
	}
	var content map[string][]byte
	into(t, p.Get(t, "/api/v1/namespaces/default/secrets/"+secret), &content, "data")
	if !strings.Contains(string(content[".dockerconfigjson"]), `{"auths":{"`+registry+`":{"username"`) {
		t.Errorf("the secret is not for %s", registry)
	}
	if out, err = p.pullPod(t, objects, template).once(); err != nil || !strings.Contains(out, "unchanged") {
		t.Errorf("a second run: %v: %s", err, out)
	}
	p.noMore(t, secret)
	needed := []string{"get secrets", "create secrets", "patch secrets"}
	var given []string
	for _, r := range pullRights(t, objects) {
		given = append(given, r.String())
		t.Run("without "+strings.ReplaceAll(r.String(), " ", "-"), func(t *testing.T) {
			if secretThere(t, p, target) {
				p.Delete(t, target)
			}
			p.removePull(t, r)
			defer p.givePull(t, r)
			out, err := p.pullPod(t, objects, template).once()
			if err == nil || !strings.Contains(out, refusal(r)) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	if slices.Sort(given); !slices.Equal(given, sortedStrings(needed)) {
		t.Errorf("the rights are %q, want %q", given, needed)
	}
}

func sortedStrings(all []string) []string { return slices.Sorted(slices.Values(all)) }

func secretThere(t *testing.T, p *plane, o object) bool {
	t.Helper()
	var items []any
	into(t, p.Get(t, "/api/v1/namespaces/"+o.Namespace()+"/secrets?fieldSelector=metadata.name%3D"+o.Name()), &items, "items")
	return len(items) > 0
}

// noMore: no other secret, and this one not to be deleted.
func (p *plane) noMore(t *testing.T, secret string) {
	t.Helper()
	for _, more := range []map[string]any{
		{"namespace": "default", "verb": "get", "resource": "secrets", "name": "other"},
		{"namespace": "default", "verb": "create", "resource": "secrets", "name": "other"},
		{"namespace": "default", "verb": "list", "resource": "secrets"},
		{"namespace": "default", "verb": "delete", "resource": "secrets", "name": secret},
		{"namespace": "default", "verb": "get", "resource": "serviceaccounts", "name": "default"},
		{"namespace": namespace, "verb": "create", "resource": "serviceaccounts", "subresource": "token", "name": "default"},
	} {
		p.AwaitAccess(t, namespace, namespace, false, object{"resourceAttributes": more})
	}
}

// testPullDeployment: its pod serves a namespace as soon as it has the label.
func testPullDeployment(t *testing.T, p *plane) {
	objects, template := p.pullExample(t, "pull-secret-deployment", "Deployment", "spec", "template")
	labelled := func(name string) object {
		return object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": map[string]any{"images": "private"}}}
	}
	start := func(t *testing.T) *pod {
		address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
		q := p.pullPod(t, objects, template, "--admin-listen", address)
		q.address = address
		return q.start()
	}
	secret := func(namespace string) object {
		return object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "cloudsmith-registry-secret", "namespace": namespace}}
	}
	has := func(namespace string) func() error {
		return func() error {
			if !secretThere(t, p, secret(namespace)) {
				return fmt.Errorf("%s has no secret", namespace)
			}
			return nil
		}
	}
	p.Apply(t, labelled("team-a"))
	first := start(t)
	for _, probe := range []string{first.spec.Containers[0].StartupProbe.HTTPGet.Path, first.spec.Containers[0].LivenessProbe.HTTPGet.Path, first.spec.Containers[0].ReadinessProbe.HTTPGet.Path} {
		eventually(t, first.wants(probe, http.StatusOK))
	}
	second := start(t)
	eventually(t, second.wants("/readyz", http.StatusOK))
	p.Apply(t, labelled("team-b"))
	eventually(t, has("team-a"))
	eventually(t, has("team-b"))
	first.process.Stop()
	eventually(t, second.leads(true))
	p.Delete(t, secret("team-a"))
	eventually(t, has("team-a"))
	second.process.Stop()
	for _, q := range []*pod{first, second} {
		if log := q.process.Output(); strings.Contains(log, "not allowed") || strings.Contains(log, "eyJ") {
			t.Errorf("something was forbidden, or a token told:\n%s", log)
		}
	}
	p.noMore(t, "cloudsmith-registry-secret")

	for _, r := range pullRights(t, objects) {
		t.Run("without "+strings.ReplaceAll(r.String(), " ", "-"), func(t *testing.T) {
			if r.String() == "create leases" {
				p.dropLeases(t)
			}
			p.Delete(t, secret("team-a"))
			p.removePull(t, r)
			defer func() {
				p.givePull(t, r)
				q := start(t)
				eventually(t, has("team-a"))
				q.process.Stop()
			}()
			q := start(t)
			if r.resource == "leases" {
				q.says("is not allowed to " + r.String() + " in namespace " + namespace + " (HTTP 403)")
			} else {
				q.says(refusal(r))
			}
			if err := q.wants("/livez", http.StatusOK)(); err != nil {
				t.Error(err)
			}
			q.process.Stop()
		})
	}
}

func (p *plane) dropLeases(t *testing.T) {
	t.Helper()
	var leases []object
	into(t, p.Get(t, "/apis/coordination.k8s.io/v1/namespaces/"+namespace+"/leases"), &leases, "items")
	for _, lease := range leases {
		lease["apiVersion"], lease["kind"] = "coordination.k8s.io/v1", "Lease"
		p.Delete(t, lease)
	}
}

// pullRight is a right, and where it is bound: a ClusterRole may be bound in a
// namespace.
type pullRight struct {
	right
	at string // "" for everywhere
}

// refusal is what the program says without the right.
func refusal(r pullRight) string {
	return "not allowed to " + r.verb + " " + strings.TrimSuffix(r.resource, "s")
}

func pullRights(t *testing.T, objects []object) (all []pullRight) {
	t.Helper()
	for _, binding := range objects {
		if binding.Kind() != "RoleBinding" && binding.Kind() != "ClusterRoleBinding" {
			continue
		}
		var ref struct{ Kind, Name string }
		into(t, binding, &ref, "roleRef")
		role := one(t, objects, ref.Kind, ref.Name)
		for _, rule := range rules(t, role) {
			for _, r := range rule.rights(role) {
				all = append(all, pullRight{r, binding.Namespace()})
			}
		}
	}
	return all
}

func (p *plane) awaitPull(t *testing.T, r pullRight, allowed bool) {
	t.Helper()
	p.AwaitAccess(t, namespace, namespace, allowed, object{"resourceAttributes": map[string]any{
		"namespace": r.at, "verb": r.verb, "group": r.group, "resource": r.resource, "name": r.name,
	}})
}

func (p *plane) removePull(t *testing.T, r pullRight) {
	t.Helper()
	var left []rule
	for _, full := range rules(t, r.role) {
		for _, one := range full.rights(r.role) {
			if one.String() != r.String() {
				left = append(left, rule{[]string{one.group}, []string{one.resource}, full.ResourceNames, []string{one.verb}})
			}
		}
	}
	less := maps.Clone(r.role)
	less["rules"] = left
	p.Apply(t, less)
	p.awaitPull(t, r, false)
}

func (p *plane) givePull(t *testing.T, r pullRight) {
	t.Helper()
	p.Apply(t, r.role)
	p.awaitPull(t, r, true)
}
