package pullsecret

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/testserver"
)

type object = testserver.Object

// world is a real API server and the secret to write.
type world struct {
	*testserver.KubeCluster
	t      *testing.T
	job    Job
	passes int
	life   time.Duration
}

const password = "s3cr3t-of-the-registry"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{KubeCluster: testserver.Kube(t, testserver.KubeOptions{}), t: t, life: time.Hour}
	w.job = Job{
		Cluster:    w.connect("admin"),
		Secret:     Secret{Name: "regcred", Registries: []string{"docker.cloudsmith.io"}, Owner: "cloudsmith/acme/kubernetes", Source: "acme kubernetes"},
		Namespaces: Namespaces{Names: []string{"default"}},
		Exchange:   w.exchange,
	}
	return w
}

func (w *world) connect(user string) *Cluster {
	w.t.Helper()
	source, err := kube.New(kube.Config{Kubeconfig: w.WriteKubeconfig(w.t, user)})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := Connect(source.RESTConfig(), source.Explain)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) exchange(context.Context) (exchange.Credential, error) {
	w.passes++
	return exchange.Credential{Username: "token", Password: discovery.NewSecret(fmt.Sprintf("%s-%d", password, w.passes)), Expiry: time.Now().Add(w.life)}, nil
}

// run does the job and demands these outcomes, by the namespaces' order.
func (w *world) run(want ...Outcome) Report {
	w.t.Helper()
	report, err := w.job.Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.wants(report, want...)
	return report
}

func (w *world) wants(report Report, want ...Outcome) {
	w.t.Helper()
	var got []Outcome
	for _, r := range report.Results {
		got = append(got, r.Outcome)
		if r.Err != nil && strings.Contains(r.Err.Error(), password) {
			w.t.Error("an error has the password")
		}
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("outcomes %q, want %q: %v", got, want, report.Results)
	}
}

func (w *world) namespace(name string, labels ...string) {
	w.t.Helper()
	all := map[string]any{}
	for pair := range slices.Chunk(labels, 2) {
		all[pair[0]] = pair[1]
	}
	w.Apply(w.t, object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": all}})
}

type secretObject struct {
	Metadata struct {
		UID, ResourceVersion string
		Labels, Annotations  map[string]string
	}
	Type string
	Data map[string][]byte
}

func (w *world) secret(namespace string) (s secretObject) {
	w.t.Helper()
	data, err := json.Marshal(w.Get(w.t, "/api/v1/namespaces/"+namespace+"/secrets/regcred"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func foreign(namespace, kind string, data map[string]any) object {
	return object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": namespace}, "type": kind, "data": data}
}

// TestWrites goes through the life cycle of one secret.
func TestWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(Created)
	first := w.secret("default")
	auth := base64.StdEncoding.EncodeToString([]byte("token:" + password + "-1"))
	want := `{"auths":{"docker.cloudsmith.io":{"username":"token","password":"` + password + `-1","auth":"` + auth + `"}}}`
	if got := string(first.Data[secretKey]); got != want || first.Type != secretType || len(first.Data) != 1 {
		t.Errorf("%s with %s, want %s", first.Type, got, want)
	}
	a := first.Metadata.Annotations
	expiry, err := time.Parse(time.RFC3339, a[AnnotationExpiresAt])
	if err != nil || time.Until(expiry) < 59*time.Minute || a[AnnotationOwner] != "cloudsmith/acme/kubernetes" || len(a[AnnotationInputs]) != 32 ||
		first.Metadata.Labels[LabelManagedBy] != Manager {
		t.Errorf("labels %v, annotations %v, %v", first.Metadata.Labels, a, err)
	}

	w.run(Updated)
	second := w.secret("default")
	if second.Metadata.UID != first.Metadata.UID || second.Metadata.Annotations[AnnotationInputs] != a[AnnotationInputs] {
		t.Errorf("the secret changed its UID or its inputs: %v, %v", first.Metadata, second.Metadata)
	}
	if got := string(second.Data[secretKey]); !strings.Contains(got, password+"-2") {
		t.Error("the content is not the new one")
	}

	w.job.DryRun = true
	w.run(Updated)
	w.job.DryRun = false
	if now := w.secret("default"); now.Metadata.ResourceVersion != second.Metadata.ResourceVersion {
		t.Error("a dry run wrote")
	}

	w.job.MinRemaining = 30 * time.Minute
	before := w.passes
	if report := w.run(Unchanged); report.Exchanged || w.passes != before {
		t.Error("there was an exchange though everything is fresh")
	}
	w.job.MinRemaining = 2 * time.Hour
	w.run(Updated)
	w.job.MinRemaining = 30 * time.Minute
	w.job.Secret.Registries = append(w.job.Secret.Registries, "docker.example.com")
	w.run(Updated)
	if got := string(w.secret("default").Data[secretKey]); strings.Count(got, `"auth"`) != 2 {
		t.Errorf("the second registry is missing: %d bytes", len(got))
	}
}

// TestChangesByOthersAreUndone: they are found without reading the content, and
// undone.
func TestChangesByOthersAreUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.job.MinRemaining = time.Minute
	w.run(Created)
	uid := w.secret("default").Metadata.UID
	edits := map[string]object{
		"content": {"stringData": map[string]any{secretKey: `{"auths":{"x":{}}}`}},
		"expiry":  {"metadata": map[string]any{"annotations": map[string]any{AnnotationExpiresAt: "2099-01-01T00:00:00Z"}}},
		"inputs":  {"metadata": map[string]any{"annotations": map[string]any{AnnotationInputs: "0"}}},
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			w.run(Unchanged)
			w.edit(t, "default", edit)
			w.run(Updated)
			now := w.secret("default")
			if now.Metadata.UID != uid || !strings.Contains(string(now.Data[secretKey]), password) || strings.HasPrefix(now.Metadata.Annotations[AnnotationExpiresAt], "2099") {
				t.Error("it was not undone")
			}
		})
	}
	// A label of another manager stays.
	w.edit(t, "default", object{"metadata": map[string]any{"labels": map[string]any{"team": "blue"}}})
	w.run(Unchanged)
	w.job.MinRemaining = 0
	w.run(Updated)
	if w.secret("default").Metadata.Labels["team"] != "blue" {
		t.Error("somebody else's label is gone")
	}
}

// edit is what kubectl edit does.
func (w *world) edit(t *testing.T, namespace string, change object) {
	t.Helper()
	w.Patch(t, "/api/v1/namespaces/"+namespace+"/secrets/regcred", "application/merge-patch+json", change)
}

// TestSecretsOfOthers are left alone, and taken over only on demand.
func TestSecretsOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ours := func(namespace string) object {
		o := foreign(namespace, secretType, map[string]any{secretKey: []byte(`{"auths":{}}`)})
		o["metadata"].(map[string]any)["labels"] = map[string]any{LabelManagedBy: Manager}
		o["metadata"].(map[string]any)["annotations"] = map[string]any{AnnotationOwner: w.job.Secret.Owner}
		return o
	}
	for _, c := range []struct {
		name   string
		secret func(namespace string) object
		says   string
		over   Outcome // with TakeOver
	}{
		{"type", func(n string) object { return foreign(n, "Opaque", map[string]any{"a": []byte("b")}) }, `is of type "Opaque"`, Replaced},
		{"stranger", func(n string) object {
			return foreign(n, secretType, map[string]any{secretKey: []byte(`{"auths":{}}`)})
		}, `was written by "test"`, TakenOver},
		{"owner", func(n string) object {
			o := ours(n)
			o["metadata"].(map[string]any)["annotations"] = map[string]any{AnnotationOwner: "gcp/other"}
			return o
		}, `belongs to owner "gcp/other", not to "cloudsmith/acme/kubernetes"`, TakenOver},
		{"applier", ours, `is also applied by "test"`, TakenOver},
		{"immutable", func(n string) object {
			o := foreign(n, secretType, map[string]any{secretKey: []byte(`{"auths":{}}`)})
			o["immutable"] = true
			return o
		}, `was written by "test"`, Replaced},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.namespace(c.name)
			w.Apply(t, c.secret(c.name))
			before := w.secret(c.name)
			w.job.Namespaces.Names = []string{c.name}
			passes := w.passes
			report := w.run(Refused)
			if err := report.Results[0].Err; !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "secret "+c.name+"/regcred") {
				t.Errorf("it says %q, want %q", err, c.says)
			}
			if w.passes != passes {
				t.Error("a token was exchanged for nothing")
			}
			if now := w.secret(c.name); now.Metadata.ResourceVersion != before.Metadata.ResourceVersion {
				t.Error("it was written")
			}
			w.job.TakeOver = true
			defer func() { w.job.TakeOver = false }()
			w.job.DryRun = true
			w.job.Run(t.Context())
			w.job.DryRun = false
			if now := w.secret(c.name); now.Metadata.ResourceVersion != before.Metadata.ResourceVersion {
				t.Error("the dry run wrote")
			}
			w.run(c.over)
			now := w.secret(c.name)
			if kept := now.Metadata.UID == before.Metadata.UID; kept == (c.over == Replaced) {
				t.Errorf("that the UID is the same is %t", kept)
			}
			if now.Type != secretType || !strings.Contains(string(now.Data[secretKey]), password) {
				t.Errorf("it is of type %s", now.Type)
			}
			w.job.TakeOver = false
			if !strings.HasPrefix(c.name, "applier") {
				w.run(Updated)
			}
		})
	}
}

// TestNamespaces: by label, all, and not those that are excluded or being deleted.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("blue-1", "team", "blue")
	w.namespace("blue-2", "team", "blue")
	w.namespace("blue-3", "team", "blue")
	w.namespace("red", "team", "red")
	// No controller empties it, so the deletion never ends.
	w.Delete(t, object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "blue-3"}})
	w.job.Namespaces = Namespaces{Selector: "team=blue"}
	report := w.run(Created, Created, Skipped)
	if r := report.Results[2]; r.Namespace != "blue-3" || r.Err != nil {
		t.Errorf("%+v", r)
	}
	w.job.Namespaces = Namespaces{Names: []string{"blue-3", "red", "red"}}
	w.run(Skipped, Created)
	w.job.Namespaces = Namespaces{Except: []string{"kube-*", "default", "red", "oidc*"}}
	w.run(Updated, Updated, Skipped)
	w.job.Namespaces = Namespaces{Names: []string{"nowhere"}}
	report = w.run(Failed)
	if err := report.Results[0].Err.Error(); !strings.Contains(err, "secret nowhere/regcred: the namespace does not exist") {
		t.Error(err)
	}
	w.job.Namespaces = Namespaces{Selector: "team=green"}
	if _, err := w.job.Run(t.Context()); err == nil || err.Error() != "no namespace is selected" {
		t.Error(err)
	}
}

// TestOneNamespaceFails: one namespace fails, the others are done.
func TestOneNamespaceFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c"} {
		w.namespace(name)
	}
	w.role("a")
	w.role("c")
	w.Apply(t, object{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "full", "namespace": "c"}, "spec": map[string]any{"hard": map[string]any{"secrets": "0"}}})
	w.Patch(t, "/api/v1/namespaces/c/resourcequotas/full/status", "application/merge-patch+json",
		object{"status": map[string]any{"hard": map[string]any{"secrets": "0"}, "used": map[string]any{"secrets": "0"}}})
	w.job.Cluster = w.connect("publisher")
	w.job.Namespaces.Names = []string{"a", "b", "c"}
	report := w.run(Created, Failed, Failed)
	for i, says := range []string{"", "is not allowed to get secret regcred in namespace b (HTTP 403)", "exceeded quota: full, requested: secrets=1, used: secrets=0, limited: secrets=0: check quotas and admission policies"} {
		if err := report.Results[i].Err; err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if n := report.Count(Failed, Refused); n != 2 {
		t.Errorf("%d failed", n)
	}
}

// TestMissingRights: each refusal names user, server and object, and what it
// says to do is enough.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubectl, admin := testserver.Require(t, "kubectl"), w.WriteKubeconfig(t, "admin")
	w.namespace("a")
	w.CreateServiceAccount(t, "a", "default")
	w.job.Cluster, w.job.Namespaces.Names, w.job.Attach = w.connect("publisher"), []string{"a"}, []string{"default"}
	obey := func(err error, refused string, verbs []string, attributes object) {
		t.Helper()
		says, commands, found := strings.Cut(fmt.Sprint(err), ": an administrator can allow it with: ")
		if want := "API server " + strings.TrimPrefix(w.Servers[0].URL(), "https://") + `: user "publisher" is not allowed to ` + refused + " (HTTP 403)"; !found || !strings.HasSuffix(says, want) {
			t.Fatalf("error %v, want %q", err, want)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(commands, "kubectl", kubectl))
		cmd.Env = append(os.Environ(), "KUBECONFIG="+admin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", commands, err, out)
		}
		for _, verb := range verbs {
			attributes["verb"] = verb
			w.AwaitUser(t, "publisher", true, object{"resourceAttributes": attributes})
		}
	}
	obey(w.run(Failed).Results[0].Err, "get secret regcred in namespace a", []string{"get", "create", "patch"},
		object{"namespace": "a", "resource": "secrets", "name": "regcred"})
	obey(w.run(Created).Results[0].Err, "get serviceaccount default in namespace a", []string{"get", "update"},
		object{"namespace": "a", "resource": "serviceaccounts", "name": "default"})
	if r := w.run(Updated).Results[0]; r.Err != nil || !slices.Equal(r.Accounts, []string{"default"}) {
		t.Errorf("%+v", r)
	}

	w.job.Namespaces.Names = nil
	_, err := w.job.Run(t.Context())
	obey(err, "list namespaces", []string{"list"}, object{"resource": "namespaces"})
	w.job.Namespaces.Except = []string{"kube-*", "default", "oidc*"}
	w.run(Updated)

	// The role with more verbs exists beside the one with fewer.
	opaque := object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": "a"}, "type": "Opaque"}
	w.Delete(t, opaque)
	w.Apply(t, opaque)
	w.job.TakeOver = true
	obey(w.run(Failed).Results[0].Err, "delete secret regcred in namespace a", []string{"get", "create", "patch", "delete"},
		object{"namespace": "a", "resource": "secrets", "name": "regcred"})
	w.run(Replaced)
}

// role is the least that a namespace has to give: every verb for one name.
func (w *world) role(namespace string) {
	w.t.Helper()
	w.Apply(w.t, object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{"name": "pull-secret", "namespace": namespace},
		"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"secrets"}, "resourceNames": []any{"regcred"}, "verbs": []any{"get", "create", "patch"}}},
	})
	w.Apply(w.t, object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "pull-secret", "namespace": namespace},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pull-secret"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "publisher"}},
	})
	for _, verb := range []string{"get", "create", "patch"} {
		w.AwaitUser(w.t, "publisher", true, object{"resourceAttributes": map[string]any{"namespace": namespace, "verb": verb, "resource": "secrets", "name": "regcred"}})
	}
}

// TestAttach keeps the order and the entries of others, while another client
// writes to the same service account.
func TestAttach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const path = "/api/v1/namespaces/default/serviceaccounts/default"
	references := func() (names []string) {
		list, _ := w.Get(t, path)["imagePullSecrets"].([]any)
		for _, reference := range list {
			names = append(names, reference.(map[string]any)["name"].(string))
		}
		return names
	}
	w.Patch(t, path, "application/merge-patch+json", object{"imagePullSecrets": []any{map[string]any{"name": "theirs"}, map[string]any{"name": "another"}}})
	w.job.Attach = []string{"default"}
	w.job.DryRun = true
	if r := w.run(Created).Results[0]; !slices.Equal(r.Accounts, []string{"default"}) || len(references()) != 2 {
		t.Errorf("after a dry run: %+v, %q", r, references())
	}
	w.job.DryRun = false

	over, busy, edits := make(chan struct{}), sync.WaitGroup{}, 0
	busy.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for ; ; edits++ {
			select {
			case <-over:
				return
			case <-pace.C:
				w.Patch(t, path, "application/merge-patch+json", object{"metadata": map[string]any{"annotations": map[string]any{"edit": fmt.Sprint(edits)}}})
			}
		}
	})
	settle := sync.OnceFunc(func() { close(over); busy.Wait() })
	defer settle() // whatever fails before: the editor must not outlive the test
	for range 5 {
		report := w.run(Outcome(map[bool]string{true: "created", false: "updated"}[len(references()) == 2]))
		if got := references(); !slices.Equal(got, []string{"theirs", "another", "regcred"}) {
			t.Errorf("attached: %q: %v", got, report.Results[0].Err)
		}
		report, err := w.job.Detach(t.Context(), []string{"default"})
		if err != nil {
			t.Fatal(err)
		}
		w.wants(report, Detached)
		if got := references(); !slices.Equal(got, []string{"theirs", "another"}) {
			t.Errorf("detached: %q", got)
		}
		w.Delete(t, object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": "default"}})
	}
	settle()
	if edits < 5 {
		t.Errorf("the other editor wrote only %d times", edits)
	}
	report, err := w.job.Detach(t.Context(), []string{"default"})
	if err != nil {
		t.Fatal(err)
	}
	w.wants(report, Unchanged)
	w.job.Attach = []string{"default", "nobody"}
	const absent = "service account default/nobody does not exist: create it with kubectl create serviceaccount nobody --namespace=default, or leave it out"
	if r := w.run(Created).Results[0]; !slices.Equal(r.Accounts, []string{"default"}) || !r.Partly() || r.Err.Error() != absent || r.Expiry.IsZero() {
		t.Errorf("%+v", r)
	}
	w.job.MinRemaining = time.Minute
	if r := w.run(Unchanged).Results[0]; len(r.Accounts) != 0 || !r.Partly() || r.Err.Error() != absent {
		t.Errorf("with a fresh secret: %+v", r)
	}
	gone, err := w.job.Detach(t.Context(), []string{"nobody"})
	if err != nil {
		t.Fatal(err)
	}
	w.wants(gone, Unchanged)
	if r := gone.Results[0]; r.Err != nil || r.Partly() || len(r.Unattached) != 1 || !r.Unattached[0].Absent {
		t.Errorf("detached from nobody: %+v", r)
	}
}

// TestOnlySecretOfAnAccount is its list.
func TestOnlySecretOfAnAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.job.Attach = []string{"default"}
	w.run(Created)
	if r := w.run(Updated).Results[0]; len(r.Accounts) != 0 {
		t.Errorf("attached twice: %+v", r)
	}
	if _, err := w.job.Detach(t.Context(), w.job.Attach); err != nil {
		t.Fatal(err)
	}
	if list, there := w.Get(t, "/api/v1/namespaces/default/serviceaccounts/default")["imagePullSecrets"]; there {
		t.Errorf("it has %v", list)
	}
}

// TestRaces: a change between our read and our write is read and decided on
// again.
func TestRaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	writes := &writer{cluster: w.job.Cluster, secret: w.job.Secret}
	got, err := w.exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := credential{got, time.Now()}
	first := writes.write(t.Context(), "default", c, nil, version{})
	stale, err := w.job.Cluster.find(t.Context(), "default", "regcred")
	if err != nil || first.Outcome != Created {
		t.Fatal(first, err)
	}
	later := credential{got, time.Now()}
	w.edit(t, "default", object{"metadata": map[string]any{"labels": map[string]any{"team": "blue"}}})
	if r := writes.write(t.Context(), "default", later, &seen{stale}, version{}); r.Outcome != Updated {
		t.Errorf("edited meanwhile: %+v", r)
	}
	w.Delete(t, foreign("default", secretType, nil))
	if r := writes.write(t.Context(), "default", later, &seen{stale}, version{}); r.Outcome != Created {
		t.Errorf("deleted meanwhile: %+v", r)
	}
	w.Delete(t, foreign("default", secretType, nil))
	w.Apply(t, foreign("default", "Opaque", map[string]any{"a": []byte("b")}))
	for name, known := range map[string]*seen{"replaced": {stale}, "created": {nil}} {
		if r := writes.write(t.Context(), "default", later, known, version{}); r.Outcome != Refused {
			t.Errorf("%s meanwhile: %+v", name, r)
		}
	}
	w.Delete(t, foreign("default", "Opaque", nil))
	w.Apply(t, foreign("default", secretType, map[string]any{secretKey: []byte(`{"auths":{}}`)}))
	if r := writes.write(t.Context(), "default", c, &seen{nil}, version{}); r.Outcome != Refused {
		t.Errorf("created with our type meanwhile: %+v", r)
	}
}

// TestWithoutTheRightToList reads one after the other.
func TestWithoutTheRightToList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("a", "team", "blue")
	w.namespace("b", "team", "blue")
	w.role("a")
	w.role("b")
	w.Apply(t, object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": "namespaces"},
		"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"namespaces"}, "verbs": []any{"list"}}},
	})
	w.Apply(t, object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "namespaces"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "namespaces"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "publisher"}},
	})
	w.AwaitUser(t, "publisher", true, object{"resourceAttributes": map[string]any{"verb": "list", "resource": "namespaces"}})
	w.job.Cluster = w.connect("publisher")
	w.job.Namespaces = Namespaces{Selector: "team=blue"}
	w.job.MinRemaining = time.Minute
	w.run(Created, Created)
	w.run(Unchanged, Unchanged)
	w.job.Cluster = w.connect("admin") // who may
	w.run(Unchanged, Unchanged)
	w.edit(t, "b", object{"stringData": map[string]any{secretKey: `{"auths":{}}`}})
	w.run(Updated, Updated)
}

// TestOnlyWhatWasSeenIsDeleted: a secret that was replaced or changed since is
// read again.
func TestOnlyWhatWasSeenIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got, err := w.exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	writes, c := &writer{cluster: w.job.Cluster, secret: w.job.Secret, takeOver: true}, credential{got, time.Now()}
	opaque := foreign("default", "Opaque", map[string]any{"a": []byte("b")})
	w.Apply(t, opaque)
	stale, err := w.job.Cluster.find(t.Context(), "default", "regcred")
	if err != nil {
		t.Fatal(err)
	}
	w.edit(t, "default", object{"stringData": map[string]any{"a": "more"}})
	if err := w.job.Cluster.remove(t.Context(), *stale); !apierrors.IsConflict(err) {
		t.Errorf("changed since: %v", err)
	}
	w.Delete(t, opaque)
	w.Apply(t, foreign("default", secretType, map[string]any{secretKey: []byte(`{"auths":{}}`)}))
	before := w.secret("default").Metadata.UID
	if err := w.job.Cluster.remove(t.Context(), *stale); !apierrors.IsConflict(err) {
		t.Errorf("another one: %v", err)
	}
	if r := writes.write(t.Context(), "default", c, &seen{stale}, version{}); r.Outcome != TakenOver || w.secret("default").Metadata.UID != before {
		t.Errorf("another one, which need not be deleted: %+v", r)
	}
}

// TestImmutableSecret is no reason to delete it unasked.
func TestImmutableSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(Created)
	w.edit(t, "default", object{"immutable": true})
	before := w.secret("default").Metadata
	r := w.run(Failed).Results[0]
	if !strings.Contains(r.Err.Error(), "if it is immutable, --take-over replaces it") {
		t.Error(r.Err)
	}
	if now := w.secret("default").Metadata; now.UID != before.UID || now.ResourceVersion != before.ResourceVersion {
		t.Error("it was written, or deleted and made anew")
	}
	w.job.TakeOver = true
	w.run(Replaced)
}
