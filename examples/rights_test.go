package examples_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"
)

// right is one verb on one resource. The one of the ClusterRoleBinding has
// neither.
type right struct {
	role                               object // or the ClusterRoleBinding
	verb, group, resource, subresource string
	name                               string // "" for any
}

func (r right) String() string {
	if r.verb == "" {
		return "read the documents"
	}
	return strings.TrimSuffix(r.verb+" "+r.resource+"/"+r.subresource, "/")
}

// attributes are those of a SubjectAccessReview.
func (r right) attributes() object {
	if r.verb == "" {
		return object{"nonResourceAttributes": map[string]any{"verb": "get", "path": "/openid/v1/jwks"}}
	}
	return object{"resourceAttributes": map[string]any{
		"namespace": r.role.Namespace(), "verb": r.verb, "group": r.group, "resource": r.resource, "subresource": r.subresource, "name": r.name,
	}}
}

// rule is of a Role.
type rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	ResourceNames []string `json:"resourceNames,omitempty"`
	Verbs         []string `json:"verbs"`
}

// rights are all that the roles and bindings give, one by one.
func rights(t *testing.T, objects []object) (all []right) {
	t.Helper()
	for _, o := range objects {
		switch o.Kind() {
		case "ClusterRoleBinding":
			all = append(all, right{role: o})
		case "ClusterRole":
			t.Errorf("a ClusterRole %s: this test does not know it", o.Name())
		case "Role":
			for _, r := range rules(t, o) {
				all = append(all, r.rights(o)...)
			}
		}
	}
	return all
}

func rules(t *testing.T, role object) (all []rule) {
	t.Helper()
	into(t, role, &all, "rules")
	return all
}

func (r rule) rights(role object) (all []right) {
	names := r.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			resource, subresource, _ := strings.Cut(resource, "/")
			for _, verb := range r.Verbs {
				for _, name := range names {
					all = append(all, right{role, verb, group, resource, subresource, name})
				}
			}
		}
	}
	return all
}

// remove takes one right away, and give gives it back. Both wait until that is
// in force.
func (p *plane) remove(t *testing.T, r right) {
	t.Helper()
	if r.verb == "" {
		p.Delete(t, r.role)
	} else {
		var left []rule
		for _, full := range rules(t, r.role) {
			for _, one := range full.rights(r.role) {
				if one.String() == r.String() {
					continue
				}
				left = append(left, rule{[]string{one.group}, []string{strings.TrimSuffix(one.resource+"/"+one.subresource, "/")}, full.ResourceNames, []string{one.verb}})
			}
		}
		less := maps.Clone(r.role)
		less["rules"] = left
		p.Apply(t, less)
	}
	p.AwaitAccess(t, namespace, namespace, false, r.attributes())
}

func (p *plane) give(t *testing.T, r right) {
	t.Helper()
	p.Apply(t, r.role)
	p.AwaitAccess(t, namespace, namespace, true, r.attributes())
}

// testRights proves that the base with all components has no right too many:
// whichever is taken away, something breaks.
func testRights(t *testing.T, p *plane) {
	objects := kustomize(t, "directory", true)
	p.apply(t, objects)
	needed := map[string]func(*testing.T, *plane, []object, right){
		"read the documents":           withoutDocuments,
		"create serviceaccounts/token": withoutCanary,
		"list endpointslices":          withoutEndpoints,
		"get namespaces":               withoutUID,
	}
	t.Run("all", func(t *testing.T) {
		q := p.pod(t, objects, nil, nil)
		p.internet.Route(issuerHost, http.StripPrefix("/cluster-a", fake.Website(q.volumes["issuer"])))
		p.serves(t, q)
		if owner := ownerOf(t, q); owner != "uid:"+p.UID(t) {
			t.Errorf("the owner is %q", owner)
		}
	})
	t.Run("no more", func(t *testing.T) {
		for _, more := range []map[string]any{
			{"namespace": namespace, "verb": "get", "resource": "secrets"},
			{"namespace": namespace, "verb": "list", "resource": "pods"},
			{"namespace": namespace, "verb": "get", "group": "coordination.k8s.io", "resource": "leases"},
			{"namespace": namespace, "verb": "create", "group": "coordination.k8s.io", "resource": "leases"},
			{"namespace": namespace, "verb": "create", "resource": "serviceaccounts", "subresource": "token", "name": "default"},
			{"namespace": "default", "verb": "create", "resource": "serviceaccounts", "subresource": "token", "name": "oidc-publisher"},
			{"namespace": "default", "verb": "update", "group": "discovery.k8s.io", "resource": "endpointslices"},
			{"namespace": "kube-system", "verb": "list", "resource": "namespaces"},
			{"verb": "list", "resource": "namespaces"},
			{"namespace": "default", "verb": "get", "resource": "namespaces", "name": "default"},
		} {
			p.AwaitAccess(t, namespace, namespace, false, object{"resourceAttributes": more})
		}
	})
	var given []string
	for _, r := range rights(t, objects) {
		given = append(given, r.String())
		without, known := needed[r.String()]
		if !known {
			t.Errorf("the right to %s is given, and no test needs it", r)
			continue
		}
		t.Run("without "+strings.ReplaceAll(r.String(), " ", "-"), func(t *testing.T) {
			p.remove(t, r)
			defer p.give(t, r)
			without(t, p, objects, r)
		})
	}
	for name := range needed {
		if !slices.Contains(given, name) {
			t.Errorf("the right to %s is tested and not given", name)
		}
	}
}

func withoutDocuments(t *testing.T, p *plane, objects []object, _ right) {
	q := p.pod(t, objects, nil, nil).start()
	q.says("is not allowed to get /.well-known/openid-configuration")
	publishesNothing(t, q)
}

func withoutEndpoints(t *testing.T, p *plane, objects []object, _ right) {
	q := p.pod(t, objects, nil, nil).start()
	q.says("--resource=endpointslices")
	publishesNothing(t, q)
}

// withoutCanary: the API server signs with a key that it doesn't list. Only a
// token tells.
func withoutCanary(t *testing.T, p *plane, objects []object, mint right) {
	blind, seeing := p.pod(t, objects, nil, nil), p.pod(t, objects, nil, nil)
	p.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: testserver.NewKubeKey(t, "ES256"), Published: []*testserver.KubeKey{p.key}})
	defer p.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: p.key})
	blind.start()
	eventually(t, blind.wants("/readyz", http.StatusOK))
	blind.process.Stop()

	p.give(t, mint)
	seeing.start()
	seeing.says("--service-account-key-file")
	publishesNothing(t, seeing)
}

// withoutUID: the cluster is known by its CA alone.
func withoutUID(t *testing.T, p *plane, objects []object, _ right) {
	q := p.pod(t, objects, nil, nil).start()
	eventually(t, q.wants("/readyz", http.StatusOK))
	if owner := ownerOf(t, q); !strings.HasPrefix(owner, "ca:") {
		t.Errorf("the owner is %q", owner)
	}
}

// publishesNothing: alive, not ready, and the directory has no keys.
func publishesNothing(t *testing.T, q *pod) {
	t.Helper()
	for path, status := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable} {
		if err := q.wants(path, status)(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(q.volumes["issuer"], "openid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was published: %v", err)
	}
}

func ownerOf(t *testing.T, q *pod) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(q.volumes["issuer"], publish.StateName))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ Owner string }
	if err := json.Unmarshal(data, &state); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", publish.StateName, err))
	}
	return state.Owner
}
