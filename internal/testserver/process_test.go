package testserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

// The test binary itself is the server under test, so that this needs no build.
func TestMain(m *testing.M) {
	if address := os.Getenv("TESTSERVER_CHILD_LISTEN"); address != "" {
		child(address)
		return
	}
	os.Exit(m.Run())
}

func child(address string) {
	fmt.Println("child says hello")
	if os.Getenv("TESTSERVER_CHILD_STUBBORN") != "" {
		signal.Ignore(syscall.SIGTERM)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	http.Serve(l, http.NotFoundHandler())
}

func childCommand(t *testing.T, env ...string) (testserver.Command, string) {
	address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return testserver.Command{
		Name:  "child",
		Path:  self,
		Env:   append(env, "TESTSERVER_CHILD_LISTEN="+address),
		Ready: testserver.HTTPReady(http.DefaultClient, "http://"+address),
	}, address
}

func TestProcessLife(t *testing.T) {
	cmd, address := childCommand(t)
	p := testserver.Start(t, cmd)
	first := p.Pid()
	if first == 0 {
		t.Fatal("running, but without a pid")
	}
	p.Kill()
	if testserver.TCPReady(address)(t.Context()) == nil {
		t.Error("still listening after Kill")
	}
	if p.Pid() != 0 {
		t.Error("a pid after Kill")
	}
	if err := p.Signal(syscall.SIGCONT); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to a stopped server: %v", err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Pid() == first {
		t.Error("the same pid after a restart")
	}
	p.Stop()
	p.Stop()
	if got := strings.Count(p.Output(), "child says hello"); got != 2 {
		t.Errorf("%d greetings in the output of two runs", got)
	}
}

func TestStopIsBounded(t *testing.T) {
	cmd, _ := childCommand(t, "TESTSERVER_CHILD_STUBBORN=1")
	cmd.StopTimeout = 50 * time.Millisecond
	p := testserver.Start(t, cmd)
	begin := time.Now()
	p.Stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a server that ignores SIGTERM took %v to stop", took)
	}
}

func TestLaunchSaysWhyAServerDied(t *testing.T) {
	cmd, _ := childCommand(t)
	cmd.Env = []string{"TESTSERVER_CHILD_LISTEN=not an address"}
	_, err := testserver.Launch(t.Context(), cmd)
	if err == nil || !strings.Contains(err.Error(), "exited before") || !strings.Contains(err.Error(), "missing port") {
		t.Errorf("got %v", err)
	}
}

func TestLaunchGivesUp(t *testing.T) {
	cmd, _ := childCommand(t)
	cmd.ReadyTimeout = 50 * time.Millisecond
	cmd.Ready = func(context.Context) error { return errors.New("never") }
	if _, err := testserver.Launch(t.Context(), cmd); err == nil || !strings.Contains(err.Error(), "never") {
		t.Errorf("got %v", err)
	}
}
