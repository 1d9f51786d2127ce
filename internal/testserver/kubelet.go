package testserver

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
)

// KubeletOptions are the settings of a kubelet.
type KubeletOptions struct {
	// Node is its name, "node" if empty.
	Node string
	// CredentialProviders is its CredentialProviderConfig, a file or a folder
	// of them, none if empty, and CredentialProviderBin the folder of the
	// plugins.
	CredentialProviders, CredentialProviderBin string
}

// KubeletServer is a real kubelet that runs pods in a containerd.
type KubeletServer struct {
	*Process
	// Node is its name.
	Node string

	cluster    *KubeCluster
	containerd *ContainerdServer
}

// Kubelet starts one as a node of the cluster, which must have been started
// with Nodes, and ends it with the test.
func Kubelet(t testing.TB, cluster *KubeCluster, containerd *ContainerdServer, options KubeletOptions) *KubeletServer {
	t.Helper()
	binary := Require(t, "kubelet")
	k := &KubeletServer{Node: options.Node, cluster: cluster, containerd: containerd}
	if k.Node == "" {
		k.Node = "node"
	}
	dir := shortDir(t)
	health := FreePort(t)
	args := []string{
		"--config=" + k.configure(t, dir, health),
		"--kubeconfig=" + k.kubeconfig(t, dir),
		"--hostname-override=" + k.Node,
		"--root-dir=" + filepath.Join(dir, "root"), "--cert-dir=" + filepath.Join(dir, "pki"),
		"--v=2",
	}
	if options.CredentialProviders != "" {
		args = append(args, "--image-credential-provider-config="+options.CredentialProviders, "--image-credential-provider-bin-dir="+options.CredentialProviderBin)
	}
	k.Process = Start(t, containerd.Within(Command{
		Name: "kubelet", Path: binary, Args: args,
		Ready: HTTPReady(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/healthz", health)),
	}))
	t.Cleanup(k.end)
	return k
}

// end stops the kubelet itself, not just nsenter.
func (k *KubeletServer) end() {
	if pid, err := onlyChild(k.Pid()); err == nil {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended by itself
	}
}

func (k *KubeletServer) configure(t testing.TB, dir string, health int) (path string) {
	t.Helper()
	path = filepath.Join(dir, "config.json")
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": "127.0.0.1", "port": FreePort(t), "readOnlyPort": 0,
		"healthzBindAddress": "127.0.0.1", "healthzPort": health,
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": false}},
		"authorization":            map[string]any{"mode": "AlwaysAllow"},
		"containerRuntimeEndpoint": "unix://" + k.containerd.Socket,
		"volumePluginDir":          filepath.Join(dir, "volume-plugins"),
		"podLogsDir":               filepath.Join(dir, "logs"),
		// What a test machine may lack: cgroup v2, systemd, free disk and memory.
		"failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": []string{},
		"localStorageCapacityIsolation": false, "failSwapOn": false,
		"evictionHard":                map[string]string{"memory.available": "1Mi", "nodefs.available": "1Mi", "nodefs.inodesFree": "1", "imagefs.available": "1Mi"},
		"imageGCHighThresholdPercent": 100, "registerWithTaints": []any{},
		// A test waits for the next attempt at a pull, and for pods that end.
		"crashLoopBackOff": map[string]any{"maxContainerRestartPeriod": "1s"},
	}
	if err := os.WriteFile(path, mustJSON(t, config), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (k *KubeletServer) kubeconfig(t testing.TB, dir string) (path string) {
	t.Helper()
	issued, err := k.cluster.ca.Client("system:node:"+k.Node, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "kubeconfig")
	config := fake.Kubeconfig{Server: k.cluster.Servers[0].URL(), CA: k.cluster.CA}
	if config.Certificate, config.Key, err = fake.EncodeCertificate(issued); err != nil {
		t.Fatal(err)
	}
	if err := config.Write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Pod is a pod of one container on this node, which needs no CNI and pulls its
// image whenever it starts.
func (k *KubeletServer) Pod(namespace, name, image string) Object {
	return Object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"namespace": namespace, "name": name},
		"spec":     k.podSpec(image),
	}
}

func (k *KubeletServer) podSpec(image string) map[string]any {
	return map[string]any{
		"nodeName": k.Node, "hostNetwork": true, "restartPolicy": "Always",
		"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
		"containers": []any{map[string]any{"name": "app", "image": image, "imagePullPolicy": "Always"}},
	}
}

// podTimeout bounds the wait for a pod, which takes a second or two. kubelet's
// own limit for a credential plugin is as long.
const podTimeout = 60 * time.Second

// AwaitRunning waits until the pod's container runs.
func (k *KubeletServer) AwaitRunning(t testing.TB, pod Object) {
	t.Helper()
	ctx, cancel := contextWithin(t, podTimeout)
	defer cancel()
	err := poll(ctx, func() error {
		state := k.state(t, pod)
		if _, running := state["running"]; !running {
			return fmt.Errorf("its state is %v", state)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("pod %s does not run: %v\n%s", pod.Name(), err, strings.Join(k.Events(t, pod), "\n"))
	}
}

// AwaitEvent waits for an event of the pod that holds a text, and returns it.
func (k *KubeletServer) AwaitEvent(t testing.TB, pod Object, text string) string {
	t.Helper()
	ctx, cancel := contextWithin(t, podTimeout)
	defer cancel()
	var found string
	err := poll(ctx, func() error {
		for _, event := range k.Events(t, pod) {
			if strings.Contains(event, text) {
				found = event
				return nil
			}
		}
		return fmt.Errorf("no event contains %q", text)
	})
	if err != nil {
		t.Fatalf("pod %s: %v:\n%s", pod.Name(), err, strings.Join(k.Events(t, pod), "\n"))
	}
	return found
}

// AwaitLog waits until the kubelet's own log has a line that holds the texts,
// and returns it with escaped quotes unescaped.
func (k *KubeletServer) AwaitLog(t testing.TB, texts ...string) string {
	t.Helper()
	ctx, cancel := contextWithin(t, podTimeout)
	defer cancel()
	var found string
	err := poll(ctx, func() error {
		for line := range strings.Lines(strings.ReplaceAll(k.Output(), `\"`, `"`)) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				found = line
				return nil
			}
		}
		return fmt.Errorf("kubelet does not say %q", texts)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// state is that of the pod's one container.
func (k *KubeletServer) state(t testing.TB, pod Object) map[string]any {
	t.Helper()
	status, _ := k.cluster.Get(t, podPath(pod))["status"].(map[string]any)
	containers, _ := status["containerStatuses"].([]any)
	if len(containers) == 0 {
		return nil
	}
	container, _ := containers[0].(map[string]any)
	state, _ := container["state"].(map[string]any)
	return state
}

// Events are the pod's events, each as its reason and message.
func (k *KubeletServer) Events(t testing.TB, pod Object) []string {
	t.Helper()
	list := k.cluster.Get(t, "/api/v1/namespaces/"+pod.Namespace()+"/events?fieldSelector=involvedObject.name="+pod.Name())
	items, _ := list["items"].([]any)
	var events []string
	for _, item := range items {
		event, _ := item.(map[string]any)
		events = append(events, fmt.Sprintf("%v: %v", event["reason"], event["message"]))
	}
	return events
}

// Remove deletes the pod at once and waits until it is gone.
func (k *KubeletServer) Remove(t testing.TB, pod Object) {
	t.Helper()
	k.cluster.Delete(t, pod)
	ctx, cancel := contextWithin(t, podTimeout)
	defer cancel()
	err := poll(ctx, func() error {
		status, err := k.cluster.send(ctx, k.cluster.Servers[0], http.MethodGet, podPath(pod), nil, nil)
		if err == nil && status != http.StatusNotFound {
			err = fmt.Errorf("HTTP status %d", status)
		}
		return err
	})
	if err != nil {
		t.Fatalf("pod %s does not end: %v", pod.Name(), err)
	}
}

// contextWithin bounds a wait, also in a cleanup.
func contextWithin(t testing.TB, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), limit)
}

func podPath(pod Object) string {
	return "/api/v1/namespaces/" + pod.Namespace() + "/pods/" + pod.Name()
}
