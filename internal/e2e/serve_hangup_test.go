package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"oidc-publisher/internal/testserver"
)

// newTerminal opens a terminal: what a person sits at, and what a program does.
func newTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { person.Close() })
	must(t, unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	must(t, err)
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { program.Close() })
	return person, program
}

// TestServeEndsWithItsTerminal, gracefully, when its window is closed.
func TestServeEndsWithItsTerminal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(watched(labIssuer))
	person, program := newTerminal(t)
	stderr, err := os.Create(l.dir + "/stderr")
	must(t, err)
	defer stderr.Close()
	address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	cmd := exec.CommandContext(t.Context(), built, "serve", "--kubeconfig", kubeconfig, "--listen", address, "--verify-interval", "0")
	cmd.Env, cmd.Dir = slices.Clone(l.env), l.dir
	cmd.Stdin, cmd.Stderr = program, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	// A run of tests under nohup would hand its ignorance of SIGHUP down.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := testserver.HTTPReady(http.DefaultClient, "http://"+address+"/openid/v1/jwks")
	eventually(t, 30*time.Second, "it serves", func() error { return ready(t.Context()) })

	must(t, program.Close())
	must(t, person.Close())
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it did not end as at SIGTERM: %v", err)
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Signal(syscall.SIGQUIT) // which shows where it hangs
		t.Error("it outlived its terminal")
		<-ended
	}
	if text, err := os.ReadFile(stderr.Name()); err != nil || t.Failed() || strings.Contains(string(text), "DATA RACE") {
		t.Errorf("%v\n%s", err, text)
	}
}
