package testserver_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"oidc-publisher/internal/testserver"
)

// doorkeeper is one account of a registry.
type doorkeeper struct{ user, password string }

func (d doorkeeper) Authenticates(user, password string) bool {
	return user == d.user && password == d.password
}

// TestKubelet pulls a private image with a plain pull secret, under the name of
// a registry that does not exist here, and runs it.
func TestKubelet(t *testing.T) {
	account := doorkeeper{"somebody", "letmein"}
	registry := testserver.Registry(t, account)
	registry.Push(t, "acme/app", "1", testserver.StaticImage(t))
	cluster := testserver.Kube(t, testserver.KubeOptions{Nodes: true})
	containerd := testserver.Containerd(t, testserver.ContainerdOptions{
		Mirrors: map[string]string{"docker.example.com": "http://" + registry.Host},
	})
	kubelet := testserver.Kubelet(t, cluster, containerd, testserver.KubeletOptions{})
	cluster.Apply(t, pullSecret(t, "right", "docker.example.com", account))
	cluster.Apply(t, pullSecret(t, "wrong", "docker.example.com", doorkeeper{account.user, "guess"}))

	for _, secret := range []string{"right", "wrong"} {
		pod := kubelet.Pod("default", secret, "docker.example.com/acme/app:1")
		pod.Spec()["imagePullSecrets"] = []any{map[string]any{"name": secret}}
		cluster.Apply(t, pod)
		if secret == "right" {
			kubelet.AwaitRunning(t, pod)
		} else {
			kubelet.AwaitEvent(t, pod, "401 Unauthorized")
		}
		kubelet.Remove(t, pod)
	}
}

func pullSecret(t *testing.T, name, host string, account doorkeeper) testserver.Object {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s:%s", account.user, account.password))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": auth}}})
	if err != nil {
		t.Fatal(err)
	}
	return testserver.Object{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
		"metadata": map[string]any{"namespace": "default", "name": name},
		"data":     map[string]any{".dockerconfigjson": config},
	}
}
