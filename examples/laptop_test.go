package examples_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"k8s.io/apimachinery/pkg/util/yaml"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

const (
	laptopIssuer   = "https://8beaa541ba3dc2.lhr.example"
	laptopAudience = "https://api.cloudsmith.io"
)

// laptopGuide is a guide that starts a cluster on a laptop, and what stands in
// for the tool that it starts it with.
type laptopGuide struct {
	dir, tool, context string
	// starts and ends are how the guide calls the tool.
	starts, ends string
	// flags reads those of the API server out of what the tool was given.
	flags func(t *testing.T, arguments, stdin string) map[string]string
}

// TestLaptop walks through the guides, command by command, with a real API
// server and a real sshd. Stand-ins are the tool, as a script that has the test
// start the API server, and the tunnel service, as the sshd that prints what
// such services print.
func TestLaptop(t *testing.T) {
	t.Parallel()
	for _, g := range []laptopGuide{
		{"minikube", "minikube", "minikube", "start", "delete", minikubeFlags},
		{"kind", "kind", "kind-kind", "create cluster", "delete cluster", kindFlags},
	} {
		t.Run(g.dir, func(t *testing.T) { newLaptop(t, g).walk() })
	}
}

func minikubeFlags(_ *testing.T, arguments, _ string) map[string]string {
	flags := map[string]string{}
	for argument := range strings.FieldsSeq(arguments) {
		if setting, ok := strings.CutPrefix(argument, "--extra-config=apiserver."); ok {
			name, value, _ := strings.Cut(setting, "=")
			flags[name] = value
		}
	}
	return flags
}

func kindFlags(t *testing.T, arguments, stdin string) map[string]string {
	t.Helper()
	if !strings.HasSuffix(strings.TrimSpace(arguments), "--config -") {
		t.Errorf("kind is given %q", arguments)
	}
	var cluster struct {
		Kind, APIVersion     string
		KubeadmConfigPatches []string
	}
	if err := yaml.UnmarshalStrict([]byte(stdin), &cluster); err != nil {
		t.Fatalf("%v:\n%s", err, stdin)
	}
	if cluster.Kind != "Cluster" || cluster.APIVersion != "kind.x-k8s.io/v1alpha4" || len(cluster.KubeadmConfigPatches) != 1 {
		t.Fatalf("kind is given:\n%s", stdin)
	}
	var patch struct {
		Kind      string
		APIServer struct{ ExtraArgs map[string]string }
	}
	if err := yaml.UnmarshalStrict([]byte(cluster.KubeadmConfigPatches[0]), &patch); err != nil {
		t.Fatal(err)
	}
	if patch.Kind != "ClusterConfiguration" {
		t.Errorf("the patch is for %q", patch.Kind)
	}
	return patch.APIServer.ExtraArgs
}

// laptop is where a guide is followed.
type laptop struct {
	*testing.T
	guide    laptopGuide
	dir      string
	internet *fake.Internet
	sshd     *testserver.SSHD
	port     int
	output   bytes.Buffer
}

func newLaptop(t *testing.T, g laptopGuide) *laptop {
	t.Helper()
	l := &laptop{T: t, guide: g, dir: t.TempDir(), internet: fake.NewInternet(t), port: testserver.FreePort(t)}
	host := strings.TrimPrefix(laptopIssuer, "https://")
	l.sshd = testserver.StartSSHD(t, testserver.SSHDOptions{
		Prints: "Welcome! Documentation: https://localhost.run/docs/\r\n" + host + " tunneled with tls termination, " + laptopIssuer + "\r\n",
	})
	l.internet.Route(host, fake.Upstream(fmt.Sprintf("http://127.0.0.1:%d", l.port)))
	if err := os.CopyFS(l.dir, os.DirFS(g.dir)); err != nil {
		t.Fatal(err)
	}
	// The cluster that a person works with otherwise: it is not touched.
	other := fake.Kubeconfig{Server: "https://127.0.0.1:1", Token: "x", Context: "production"}
	if err := other.Write(l.path("kubeconfig")); err != nil {
		t.Fatal(err)
	}
	l.standIn()
	return l
}

func (l *laptop) path(name string) string { return filepath.Join(l.dir, name) }

// standIn is the tool: it hands over what it was given, and waits until the
// cluster is there.
func (l *laptop) standIn() {
	l.Helper()
	script := fmt.Sprintf(`#!/bin/sh
case "$*" in
%q*) if [ ! -t 0 ]; then cat >%[2]s/stdin; fi
  echo "$*" >%[2]s/wanted.part && mv %[2]s/wanted.part %[2]s/wanted
  until [ -e %[2]s/started ]; do sleep 0.1; done ;;
%[3]q*) touch %[2]s/deleted ;;
*) echo "$0 $*: not in the guide's test" >&2; exit 1 ;;
esac
`, l.guide.starts, l.dir, l.guide.ends)
	bin := l.path("bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, l.guide.tool), []byte(script), 0o755),
		os.Symlink(program(l.T), filepath.Join(bin, "oidc-publisher"))); err != nil {
		l.Fatal(err)
	}
}

// blocks are the commands of the guide.
func (l *laptop) blocks() []string {
	l.Helper()
	text := read(l.T, filepath.Join(l.guide.dir, "README.md"))
	var blocks []string
	for _, found := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, found[1])
	}
	if len(blocks) < 5 {
		l.Fatalf("%d blocks of commands", len(blocks))
	}
	return blocks
}

// script is the guide as it is followed here: with this service in place of the
// public one, and a pause before the end.
func (l *laptop) script() string {
	l.Helper()
	blocks := l.blocks()
	last := len(blocks) - 1
	if !strings.Contains(blocks[last], l.guide.tool+" "+l.guide.ends) {
		l.Fatalf("the last commands are not those that clean up:\n%s", blocks[last])
	}
	blocks[last] = "touch working; until [ -e seen ]; do sleep 0.1; done\n" + blocks[last]
	text := strings.Join(blocks, "\n")
	host, port, _ := strings.Cut(l.sshd.Address, ":")
	for _, replace := range [][2]string{
		{"TUNNEL=ssh://nokey@localhost.run\n", "TUNNEL=" + l.sshd.URL() + "\n"},
		{"ssh-keyscan localhost.run ", "ssh-keyscan -p " + port + " " + host + " "},
		{"--tunnel-ssh-option ", "--tunnel-ssh-option IdentitiesOnly=yes --tunnel-ssh-option IdentityFile=" + l.sshd.KeyFile + " --tunnel-ssh-option "},
	} {
		if strings.Count(text, replace[0]) != 1 {
			l.Fatalf("the guide does not have %q once", replace[0])
		}
		text = strings.Replace(text, replace[0], replace[1], 1)
	}
	return "set -eu -o pipefail\n" + text
}

// walk follows the guide.
func (l *laptop) walk() {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testserver.Require(l.T, "bash"), "-c", l.script())
	cmd.Dir = l.dir
	cmd.Env = append(l.internet.Env(), "PATH="+l.path("bin")+":"+os.Getenv("PATH"), "HOME="+l.dir, "KUBECONFIG="+l.path("kubeconfig"),
		fmt.Sprintf("OIDC_PUBLISHER_TUNNEL_BIND=%d", l.port), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &l.output, &l.output, 5*time.Second
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	l.await("wanted", ended)
	flags := l.guide.flags(l.T, read(l.T, l.path("wanted")), l.stdin())
	if len(flags) != 1 || flags["service-account-issuer"] != laptopIssuer {
		l.Errorf("the API server is given %v", flags)
	}
	cluster := testserver.Kube(l.T, testserver.KubeOptions{Issuer: flags["service-account-issuer"]})
	kubeconfig := cluster.Servers[0].Kubeconfig("admin")
	kubeconfig.Context = l.guide.context
	if err := errors.Join(kubeconfig.Write(l.path("kubeconfig")), os.WriteFile(l.path("started"), nil, 0o600)); err != nil {
		l.Fatal(err)
	}

	l.await("working", ended)
	if err := l.verify(cluster.MintToken(l.T, "default", "default", laptopAudience)); err != nil {
		l.Errorf("a relying party refuses the token: %v", err)
	}
	if err := os.WriteFile(l.path("seen"), nil, 0o600); err != nil {
		l.Fatal(err)
	}
	if err := <-ended; err != nil {
		l.Fatalf("the guide ends with %v:\n%s", err, &l.output)
	}
	l.leavesNothing()
}

// await waits for a file, as long as the guide is being followed.
func (l *laptop) await(name string, ended chan error) {
	l.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(l.path(name)); err == nil {
			return
		}
		select {
		case err := <-ended:
			l.Fatalf("the guide ends early (%v):\n%s", err, &l.output)
		case <-tick.C:
		}
	}
}

func (l *laptop) stdin() string {
	data, err := os.ReadFile(l.path("stdin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.Fatal(err)
	}
	return string(data)
}

// verify is an independent relying party's.
func (l *laptop) verify(token string) error {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(l.Context(), l.internet.Client()), 20*time.Second)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, laptopIssuer)
	if err != nil {
		return err
	}
	_, err = provider.VerifierContext(ctx, &oidc.Config{ClientID: laptopAudience}).Verify(ctx, token)
	return err
}

// leavesNothing checks what the guide's last step leaves behind, and what was
// printed on the way.
func (l *laptop) leavesNothing() {
	l.Helper()
	for name, there := range map[string]bool{"deleted": true, "issuer": false, "ready": false, "known_hosts": false} {
		if _, err := os.Stat(l.path(name)); (err == nil) != there {
			l.Errorf("%s: %v", name, err)
		}
	}
	printed := l.output.String()
	for _, want := range []string{l.sshd.Fingerprint(l.T), "\n" + laptopIssuer + "\n", "tunnel up", "waiting: ", "cluster found", "documents served"} {
		if !strings.Contains(printed, want) {
			l.Errorf("it did not print %q\n%s", want, printed)
		}
	}
	for _, bad := range []string{"127.0.0.1:1:", "eyJhbGciOi", "DATA RACE"} {
		if strings.Contains(printed, bad) {
			l.Errorf("it printed %q\n%s", bad, printed)
		}
	}
}
