// Package testserver runs the real servers that the tests talk to, each as a
// child process on a free port of the loopback address, with its own folder
// and a bounded life.
//
// The functions that take a testing.TB fail or skip the test; Launch returns
// an error instead.
package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
)

const (
	defaultReadyTimeout = 60 * time.Second
	defaultStopTimeout  = 10 * time.Second
	readyInterval       = 20 * time.Millisecond
	readyAttempt        = 2 * time.Second
	outputLimit         = 64 << 10
)

// Require returns the path of a server's binary. Where it is not on PATH the
// test fails if the environment has CI or OIDC_PUBLISHER_REQUIRE_SERVERS, and
// is skipped otherwise. With -short it is always skipped.
func Require(t testing.TB, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("-short: needs the server %s", name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, fmt.Sprintf("%s is not on PATH: `make servers` builds it", name))
	}
	return path
}

// Missing ends a test that lacks something of its surroundings: it fails where
// servers are required (CI or OIDC_PUBLISHER_REQUIRE_SERVERS is set) and is
// skipped elsewhere.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("OIDC_PUBLISHER_REQUIRE_SERVERS") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// Command describes a server.
type Command struct {
	// Name is what messages call the server.
	Name string
	// Path is the binary, as Require returns it.
	Path string
	Args []string
	// Env is the server's environment beside PATH. Nothing else is inherited:
	// a developer's own cloud settings must not affect a test.
	Env []string
	// Dir is the working directory; Start makes a temporary one if empty.
	Dir string
	// Ready returns nil once the server answers. It is tried until it does,
	// until the server exits, or until ReadyTimeout (default one minute).
	Ready        func(ctx context.Context) error
	ReadyTimeout time.Duration
	// StopTimeout is how long SIGTERM may take before SIGKILL (default 10 s).
	StopTimeout time.Duration
	// KillAtEnd makes the end of the test kill the server, which would take
	// seconds to end by itself.
	KillAtEnd bool
}

// TCPReady is a Command.Ready that waits for a listener on the address.
func TCPReady(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// UnixReady is a Command.Ready that waits for a listener on a socket.
func UnixReady(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// HTTPReady is a Command.Ready that waits for any answer below 500.
func HTTPReady(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode >= 500 {
			return fmt.Errorf("%s: HTTP status %d", url, resp.StatusCode)
		}
		return nil
	}
}

// Process is a server that was started. Its methods may be called from several
// goroutines.
type Process struct {
	cmd    Command
	output tail

	mu   sync.Mutex // held while the process is started or stopped
	proc *os.Process
	done chan struct{} // closed once proc was waited for
}

// Start launches the server and ends it with the test. The server's output is
// shown if the test fails. The test fails if the output contains a token,
// whether the server is our program or one that our program called.
func Start(t testing.TB, cmd Command) *Process {
	t.Helper()
	if cmd.Dir == "" {
		cmd.Dir = t.TempDir()
	}
	p := &Process{cmd: cmd}
	t.Cleanup(func() {
		if cmd.KillAtEnd {
			p.Kill()
		}
		p.Stop()
		if p.output.hasToken() {
			t.Errorf("the output of %s contains a token", cmd.Name)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd.Name, p.Output())
		}
	})
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// Launch starts the server and waits until it is ready. The caller must Stop
// it; the context bounds the start only.
func Launch(ctx context.Context, cmd Command) (*Process, error) {
	p := &Process{cmd: cmd}
	if err := p.Restart(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, p.Output())
	}
	return p, nil
}

// Restart stops the server if it runs and starts it again with the same
// arguments, hence on the same port. It returns when the server is ready.
func (p *Process) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(syscall.SIGTERM)
	if err := p.begin(); err != nil {
		return fmt.Errorf("start %s: %w", p.cmd.Name, err)
	}
	if err := p.awaitReady(ctx); err != nil {
		p.end(syscall.SIGKILL)
		return fmt.Errorf("start %s: %w", p.cmd.Name, err)
	}
	return nil
}

// Stop ends the server with SIGTERM, and with SIGKILL if that takes longer
// than StopTimeout. It may be called more than once.
func (p *Process) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(syscall.SIGTERM)
}

// Kill ends the server with SIGKILL.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(syscall.SIGKILL)
}

// Signal sends a signal to the running server (SIGSTOP and SIGCONT, say).
func (p *Process) Signal(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return fmt.Errorf("%s: %w", p.cmd.Name, os.ErrProcessDone)
	}
	return p.proc.Signal(signal)
}

// Pid returns the process ID, or 0 while the server is stopped.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.Pid
}

// Output returns the last 64 KiB that the server printed, across restarts.
func (p *Process) Output() string { return p.output.String() }

// begin starts the child. endWithParent ends it with the thread that forked, so
// one goroutine keeps that thread until the child has ended.
func (p *Process) begin() error {
	cmd := exec.Command(p.cmd.Path, p.cmd.Args...)
	cmd.Dir = p.cmd.Dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, p.cmd.Env...)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.SysProcAttr = endWithParent()
	cmd.WaitDelay = time.Second // grandchildren may hold the output open
	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.proc, p.done = cmd.Process, done
	return nil
}

func (p *Process) end(signal syscall.Signal) {
	if p.proc == nil {
		return
	}
	p.proc.Signal(signal)
	timeout := time.NewTimer(orDefault(p.cmd.StopTimeout, defaultStopTimeout))
	defer timeout.Stop()
	select {
	case <-p.done:
	case <-timeout.C:
		p.proc.Kill()
		<-p.done
	}
	p.proc = nil
}

func (p *Process) awaitReady(ctx context.Context) error {
	if p.cmd.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(p.cmd.ReadyTimeout, defaultReadyTimeout))
	defer cancel()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		err := p.tryReady(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return errors.New("it exited before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w", err)
		case <-tick.C:
		}
	}
}

func (p *Process) tryReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyAttempt)
	defer cancel()
	return p.cmd.Ready(ctx)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// tokenBeginnings are those of tokens that an API server signs (their header
// begins with alg) and of credentials that StandIns issue.
var tokenBeginnings = [][]byte{[]byte("eyJhbGciOi"), []byte(fake.GoogleTokenPrefix)}

// tail is a writer that keeps the last outputLimit bytes, and whether there
// ever was a token.
type tail struct {
	mu    sync.Mutex
	buf   []byte
	token bool
}

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.buf)
	w.buf = append(w.buf, p...)
	const longest = 16 // of the beginnings, which two writes may share
	fresh := w.buf[max(before-longest, 0):]
	for _, beginning := range tokenBeginnings {
		w.token = w.token || bytes.Contains(fresh, beginning)
	}
	if excess := len(w.buf) - outputLimit; excess > 0 {
		w.buf = append(w.buf[:0], w.buf[excess:]...)
	}
	return len(p), nil
}

func (w *tail) hasToken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.token
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.buf)
}
