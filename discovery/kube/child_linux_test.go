package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// Some of what client-go looks at is fixed for a whole process: the paths of a
// pod's service account and the proxies of the environment. Such tests run the
// test binary as a child, which fetches once and reports.

// podFiles is the environment variable by which the child gets a folder to see
// as /run/secrets/kubernetes.io/serviceaccount.
const (
	childMode = "KUBE_TEST_CHILD"
	podFiles  = "KUBE_TEST_POD_FILES"
)

func TestMain(m *testing.M) {
	if os.Getenv(childMode) == "" {
		os.Exit(testserver.Main(m))
	}
	if err := json.NewEncoder(os.Stdout).Encode(child()); err != nil {
		os.Exit(1)
	}
}

// childReport is what the child found.
type childReport struct {
	Issuer, Canary, Error string
	Cluster               []string
}

func child() childReport {
	if err := enterPod(os.Getenv(podFiles)); err != nil {
		return childReport{Error: err.Error()}
	}
	s, err := kube.New(kube.Config{Kubeconfig: os.Getenv("KUBE_TEST_KUBECONFIG"), Timeout: 10 * time.Second})
	if err != nil {
		return childReport{Error: err.Error()}
	}
	snapshot, err := s.Fetch(context.Background())
	if err != nil {
		return childReport{Error: err.Error()}
	}
	report := childReport{Issuer: string(snapshot.Document.Issuer()), Cluster: snapshot.Cluster, Error: strings.Join(snapshot.Warnings, "; ")}
	if snapshot.Canary != nil {
		report.Canary = snapshot.Canary.KeyID
	}
	return report
}

// enterPod puts the files where pods have them. The child has a mount
// namespace of its own, so nothing outside sees them.
func enterPod(files string) error {
	if files == "" {
		return nil
	}
	// Every read is done before /run disappears.
	content := map[string][]byte{}
	for _, name := range []string{"token", "ca.crt"} {
		data, err := os.ReadFile(filepath.Join(files, name))
		if err != nil {
			return err
		}
		content[name] = data
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	const dir = "/run/secrets/kubernetes.io/serviceaccount"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, data := range content {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// runChild runs the test binary as a child with just that environment.
func runChild(t *testing.T, pod bool, env ...string) childReport {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(env, childMode+"=1", "HOME="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	if pod {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	out, err := cmd.Output()
	if err != nil && pod && cmd.Process == nil {
		testserver.Missing(t, "this machine gives no user namespaces: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	var report childReport
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return report
}

func TestInAPod(t *testing.T) {
	t.Parallel()
	cluster := testserver.Kube(t, testserver.KubeOptions{Keys: testserver.KubeKeys{Signing: testserver.NewKubeKey(t, "ES256")}})
	cluster.CreateServiceAccount(t, "oidc", "publisher")
	cluster.GrantMint(t, "system:serviceaccount:oidc:publisher", "oidc", "publisher")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "token"), []byte(cluster.MintToken(t, "oidc", "publisher", cluster.Issuer())))
	writeFile(t, filepath.Join(dir, "ca.crt"), cluster.CA)
	host, port, _ := strings.Cut(cluster.Servers[0].Address(), ":")

	got := runChild(t, true, podFiles+"="+dir, "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	if got.Error != "" || got.Issuer != cluster.Issuer() || got.Canary == "" || len(got.Cluster) != 1 {
		t.Errorf("got %+v", got)
	}
	got = runChild(t, true, podFiles+"="+dir)
	if !strings.Contains(got.Error, "not a pod") {
		t.Errorf("without the service's address: %+v", got)
	}
}

func TestProxyOfTheEnvironment(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{Names: []string{"api.cluster.invalid"}})
	var tunnels atomic.Int32
	proxy := newPlainServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnels.Add(1)
		r.Host = e.Address()
		tunnel(w, r)
	}))
	k := e.Kubeconfig("publisher")
	k.Server = "https://api.cluster.invalid:6443"
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := k.Write(kubeconfig); err != nil {
		t.Fatal(err)
	}
	env := []string{"KUBE_TEST_KUBECONFIG=" + kubeconfig, "HTTPS_PROXY=http://" + proxy}
	if got := runChild(t, false, env...); got.Error != "" || got.Issuer != e.Issuer() || tunnels.Load() == 0 {
		t.Errorf("%d tunnels, %+v", tunnels.Load(), got)
	}
	got := runChild(t, false, append(env, "NO_PROXY=.cluster.invalid")...)
	if !strings.Contains(got.Error, `"api.cluster.invalid" can't be resolved`) || strings.Contains(got.Error, "proxy") {
		t.Errorf("got %+v", got)
	}
	e.Stop()
	if got := runChild(t, false, env...); !strings.Contains(got.Error, "API server api.cluster.invalid:6443 (through proxy "+proxy+")") {
		t.Errorf("got %+v", got)
	}
}
