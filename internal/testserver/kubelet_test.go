package testserver_test

import (
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

func TestKubelet(t *testing.T) {
	began := time.Now()
	cluster := testserver.Kube(t, testserver.KubeOptions{Nodes: true})
	containerd := testserver.Containerd(t, testserver.ContainerdOptions{})
	t.Log("containerd after", time.Since(began))
	kubelet := testserver.Kubelet(t, cluster, containerd, testserver.KubeletOptions{})
	t.Log("kubelet after", time.Since(began))
	pod := kubelet.Pod("default", "absent", "test.invalid/sandbox:1")
	pod["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["imagePullPolicy"]="Never"
	cluster.Apply(t, pod)
	kubelet.AwaitRunning(t, pod)
	t.Log("event after", time.Since(began))
}
