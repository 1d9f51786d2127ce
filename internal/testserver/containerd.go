package testserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ContainerdOptions are the settings of a containerd.
type ContainerdOptions struct {
	// Mirrors are the actual URLs of registries, by the host in an image's name.
	// Loopback hosts need none: containerd uses HTTP for them.
	Mirrors map[string]string
}

// ContainerdServer is a real containerd with runc, in a process and a mount
// namespace of its own: whatever it started ends with it, and so does each of
// its mounts, however the test ends.
type ContainerdServer struct {
	*Process
	// Socket is that of its API.
	Socket string

	dir   string
	space *Process
	init  int // process ID of the namespaces' first process
}

// Containerd starts one and ends it with the test. It needs root, mounts and
// cgroups, and of Debian's packages containerd, ctr and runc.
func Containerd(t testing.TB, options ContainerdOptions) *ContainerdServer {
	t.Helper()
	binary := Require(t, "containerd")
	for _, name := range []string{"ctr", "runc", "containerd-shim-runc-v2"} {
		Require(t, name)
	}
	c := &ContainerdServer{dir: shortDir(t)}
	c.Socket = filepath.Join(c.dir, "c.sock")
	config := c.configure(t, binary, options)
	c.enterSpace(t)
	c.Process = Start(t, c.Within(Command{
		Name: "containerd", Path: binary, Args: []string{"--config", config},
		Ready: func(ctx context.Context) error { return c.ctr(ctx, "version") },
	}))
	c.importImage(t, StaticImage(t).archive(t, sandboxImage))
	return c
}

const sandboxImage = "test.invalid/sandbox:1"

// shortDir is a temporary folder with a short path: the kernel limits the path
// of a socket to 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctd") //nolint:usetesting // a folder of t.TempDir has the test's name in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// enterSpace makes the namespaces. Their first process, a shell, reaps what
// shims leave behind, and everything else ends with it when it is killed.
func (c *ContainerdServer) enterSpace(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "containerd and kubelet need root: run the test as root")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		Missing(t, "unshare and nsenter are not on PATH (Debian: util-linux)")
	}
	ready := filepath.Join(c.dir, "ready")
	t.Cleanup(func() { c.removeCgroups(t) })
	space, err := Launch(t.Context(), Command{
		Name: "unshare", Path: unshare,
		Args:         []string{"--mount", "--pid", "--mount-proc", "--fork", "--kill-child=KILL", "/bin/sh", "-c", spaceScript, "sh", ready},
		Dir:          c.dir,
		Ready:        func(context.Context) error { _, err := os.Stat(ready); return err },
		ReadyTimeout: 10 * time.Second,
	})
	if err != nil {
		Missing(t, fmt.Sprintf("containerd and kubelet need namespaces and mounts of their own, as a privileged root has: %v", err))
	}
	c.space = space
	t.Cleanup(c.space.Kill)
	if c.init, err = onlyChild(c.space.Pid()); err != nil {
		t.Fatal(err)
	}
}

// Files that the two write to fixed paths do not reach the machine's own.
const spaceScript = `set -e
for place in /run/containerd /var/lib/kubelet /var/log/containers; do
  mkdir -p $place
  mount -t tmpfs -o mode=755 test $place
done
: >"$1"
while :; do sleep 3600 & wait; done
`

// onlyChild is the process ID of a process's one child.
func onlyChild(pid int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(children)))
}

// Within makes a command run in the namespaces of this containerd. The process
// that Start then knows is nsenter's: ending it leaves the command behind,
// until the namespaces end.
func (c *ContainerdServer) Within(cmd Command) Command {
	cmd.Args = append([]string{"--target", strconv.Itoa(c.init), "--mount", "--pid", cmd.Path}, cmd.Args...)
	cmd.Path = "nsenter"
	return cmd
}

func (c *ContainerdServer) configure(t testing.TB, binary string, options ContainerdOptions) (path string) {
	t.Helper()
	config, err := exec.CommandContext(t.Context(), binary, "config", "default").Output()
	if err != nil {
		t.Fatalf("containerd config default: %v", err)
	}
	for _, edit := range [][2]string{
		{`root = "/var/lib/containerd"`, `root = "` + c.dir + `/root"`},
		{`state = "/run/containerd"`, `state = "` + c.dir + `/state"`},
		{`address = "/run/containerd/containerd.sock"`, `address = "` + c.Socket + `"`},
		{`path = "/opt/containerd"`, `path = "` + c.dir + `/opt"`},
		{`restrict_oom_score_adj = false`, `restrict_oom_score_adj = true`}, // runc can't lower it everywhere
		{`sandbox_image = "registry.k8s.io/pause:3.6"`, `sandbox_image = "` + sandboxImage + `"`},
		{`conf_dir = "/etc/cni/net.d"`, `conf_dir = "` + c.dir + `/cni"`},
		{`config_path = ""`, `config_path = "` + c.dir + `/hosts"`},
	} {
		if !bytes.Contains(config, []byte(edit[0])) {
			t.Fatalf("the default configuration of this containerd has no line %s", edit[0])
		}
		config = bytes.ReplaceAll(config, []byte(edit[0]), []byte(edit[1]))
	}
	for host, url := range options.Mirrors {
		dir := filepath.Join(c.dir, "hosts", host)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		hosts := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url, url)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(c.dir, "config.toml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ctr runs containerd's own client on the images of Kubernetes.
func (c *ContainerdServer) ctr(ctx context.Context, args ...string) error {
	args = append([]string{"--address", c.Socket, "--namespace", "k8s.io"}, args...)
	out, err := exec.CommandContext(ctx, "ctr", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args[4:], " "), err, out)
	}
	return nil
}

func (c *ContainerdServer) importImage(t testing.TB, archive string) {
	t.Helper()
	if err := c.ctr(t.Context(), "images", "import", archive); err != nil {
		t.Fatal(err)
	}
}

// removeCgroups removes the control groups of containers that ended together
// with the namespaces: no other process does it. The kernel frees a group a
// moment after its last process has ended. The parent stays: another containerd
// may be about to use it.
func (c *ContainerdServer) removeCgroups(t testing.TB) {
	t.Helper()
	ctx, cancel := contextWithin(t, defaultStopTimeout)
	defer cancel()
	tasks, err := filepath.Glob(filepath.Join(c.dir, "state", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	for _, task := range tasks {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io/" + filepath.Base(task))
		groups = append(groups, "/sys/fs/cgroup/k8s.io/"+filepath.Base(task))
		for _, group := range groups {
			err = errors.Join(err, poll(ctx, func() error { return removeCgroup(group) }))
		}
	}
	if err != nil {
		t.Errorf("control groups stay behind: %v", err)
	}
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// staticProgram prints a line and runs until it gets a signal.
const staticProgram = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("running")
	<-end
}
`

// StaticImage is an image of one small program that runs until it gets a signal.
func StaticImage(t testing.TB) Image {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, []byte(staticProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), Require(t, "go"), "build", "-trimpath", "-ldflags", "-s -w", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return Image{Files: map[string][]byte{"/program": binary}, Entrypoint: []string{"/program"}}
}

// archive writes the image to a file in the format of docker save. The name is
// host/path:tag.
func (i Image) archive(t testing.TB, name string) (path string) {
	t.Helper()
	layer := i.layer(t)
	config := mustJSON(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": i.Entrypoint},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest := mustJSON(t, []any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	path = filepath.Join(t.TempDir(), "image.tar")
	all := Image{Files: map[string][]byte{"/manifest.json": manifest, "/config.json": config, "/layer.tar": layer}}
	if err := os.WriteFile(path, all.layer(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
