package testserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Object is a Kubernetes object in the form of its JSON.
type Object map[string]any

// Kind is the object's kind.
func (o Object) Kind() string { kind, _ := o["kind"].(string); return kind }

// Name is the object's name.
func (o Object) Name() string { return o.metadata("name") }

// Namespace is the object's namespace, "" if it names none.
func (o Object) Namespace() string { return o.metadata("namespace") }

// Spec is the object's specification; a change of it changes the object.
func (o Object) Spec() map[string]any { spec, _ := o["spec"].(map[string]any); return spec }

func (o Object) metadata(key string) string {
	metadata, _ := o["metadata"].(map[string]any)
	value, _ := metadata[key].(string)
	return value
}

// Apply creates or changes an object, as kubectl apply --server-side
// --force-conflicts does. Unknown fields are an error.
func (k *KubeCluster) Apply(t testing.TB, object Object) {
	t.Helper()
	path := k.collection(t, object) + "/" + object.Name() + "?fieldManager=test&force=true&fieldValidation=Strict"
	if err := k.request(t.Context(), http.MethodPatch, path, "application/apply-patch+yaml", object, nil); err != nil {
		t.Fatal(err)
	}
}

// DryRun returns why the API server would not create an object, or nil.
func (k *KubeCluster) DryRun(t testing.TB, object Object) error {
	t.Helper()
	path := k.collection(t, object) + "?dryRun=All&fieldValidation=Strict"
	return k.request(t.Context(), http.MethodPost, path, "application/json", object, nil)
}

// Delete removes an object.
func (k *KubeCluster) Delete(t testing.TB, object Object) {
	t.Helper()
	path := k.collection(t, object) + "/" + object.Name()
	if err := k.request(t.Context(), http.MethodDelete, path, "application/json", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// Patch changes the object at any path of the API, as the field manager "editor".
func (k *KubeCluster) Patch(t testing.TB, path, contentType string, change Object) {
	t.Helper()
	if err := k.request(t.Context(), http.MethodPatch, path+"?fieldManager=editor", contentType, change, nil); err != nil {
		t.Error(err)
	}
}

// Get reads any path of the API.
func (k *KubeCluster) Get(t testing.TB, path string) Object {
	t.Helper()
	var object Object
	if err := k.request(t.Context(), http.MethodGet, path, "application/json", nil, &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// AwaitAccess waits until every server allows a service account what the
// attributes of a SubjectAccessReview say, or denies it.
func (k *KubeCluster) AwaitAccess(t testing.TB, namespace, name string, allowed bool, attributes Object) {
	t.Helper()
	attributes["groups"] = []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
	k.awaitRight(t, "system:serviceaccount:"+namespace+":"+name, allowed, attributes)
}

// AwaitUser is AwaitAccess for a user.
func (k *KubeCluster) AwaitUser(t testing.TB, user string, allowed bool, attributes Object) {
	t.Helper()
	k.awaitRight(t, user, allowed, attributes)
}

// AwaitUserAccess is AwaitAccess for any user and groups.
func (k *KubeCluster) AwaitUserAccess(t testing.TB, user string, groups []string, allowed bool, attributes Object) {
	t.Helper()
	attributes["groups"] = groups
	k.awaitRight(t, user, allowed, attributes)
}

// collection is the path of an object's kind, from the API server's discovery.
func (k *KubeCluster) collection(t testing.TB, object Object) string {
	t.Helper()
	version, _ := object["apiVersion"].(string)
	base := "/apis/" + version
	if !strings.Contains(version, "/") {
		base = "/api/" + version
	}
	var list struct {
		Resources []struct {
			Name, Kind string
			Namespaced bool
		}
	}
	if err := k.request(t.Context(), http.MethodGet, base, "application/json", nil, &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Resources {
		if r.Kind != object.Kind() || strings.Contains(r.Name, "/") {
			continue
		}
		if r.Namespaced {
			return base + "/namespaces/" + object.Namespace() + "/" + r.Name
		}
		return base + "/" + r.Name
	}
	t.Fatalf("the API server has no %s of %s", object.Kind(), version)
	return ""
}

// request is send with the API server's own words as the error. It works in
// cleanups, too.
func (k *KubeCluster) request(ctx context.Context, method, path, contentType string, body Object, into any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cacheTimeout)
	defer cancel()
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, k.Servers[0].URL()+path, reader)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+k.tokens["admin"])
	req.Header.Set("Content-Type", contentType)
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		var status struct{ Message string }
		_ = json.Unmarshal(data, &status) // the code says enough
		return fmt.Errorf("kube-apiserver: %s %s: HTTP status %d: %s", method, path, resp.StatusCode, status.Message)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}
