package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"oidc-publisher/internal/logtest"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/internal/tunnel"
)

// patience is more than a connection attempt may take on a busy machine.
const patience = 20 * time.Second

// bench is an sshd, and a configuration that it accepts.
type bench struct {
	*testing.T
	sshd   *testserver.SSHD
	config tunnel.Config
	log    *logtest.Log
	tunnel *tunnel.Tunnel
	unread *atomic.Value // when the server gave up on a client that reads nothing
}

func newBench(t *testing.T, options testserver.SSHDOptions) *bench {
	t.Helper()
	b := &bench{T: t, sshd: testserver.StartSSHD(t, options), log: new(logtest.Log), unread: new(atomic.Value)}
	server, err := tunnel.ParseServer(b.sshd.URL())
	if err != nil {
		t.Fatal(err)
	}
	b.config = tunnel.Config{
		Server:  server,
		Bind:    tunnel.Bind{Address: "localhost", Port: testserver.FreePort(t)},
		KeyFile: b.sshd.KeyFile, HostKey: b.sshd.Fingerprint(t),
		Backoff: 50 * time.Millisecond, MaxBackoff: 400 * time.Millisecond, ConnectTimeout: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
		for _, file := range []string{b.sshd.KeyFile} {
			key, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			for line := range strings.Lines(string(key)) {
				if !strings.HasPrefix(line, "-----") && strings.Contains(b.log.String(), strings.TrimSpace(line)) {
					t.Error("the log holds a part of the private key")
				}
			}
		}
	})
	return b
}

// open opens the tunnel, keeps it up and serves "hello" in it, all until the
// end of the test.
func (b *bench) open() *tunnel.Tunnel {
	b.Helper()
	b.tunnel = tunnel.New(b.config)
	if err := b.tunnel.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.tunnel.Run(ctx) })
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.URL.Path == "/endless" {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					b.unread.Store(time.Now())
					return
				}
			}
			fmt.Fprintf(w, "hello %s from %s", r.URL.Path, r.RemoteAddr)
		}),
		ReadHeaderTimeout: 2 * time.Second, IdleTimeout: time.Second, WriteTimeout: 3 * time.Second,
	}
	running.Go(func() { server.Serve(b.tunnel) })
	b.Cleanup(func() {
		server.Close()
		cancel()
		running.Wait()
	})
	return b.tunnel
}

// fails opens the tunnel, which must not succeed, and wants these words.
func (b *bench) fails(words ...string) error {
	b.Helper()
	err := tunnel.New(b.config).Open(b.Context())
	if err == nil {
		b.Fatal("it opens")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			b.Errorf("the error does not say %q: %v", word, err)
		}
	}
	return err
}

func (b *bench) publicAddress() string { return b.config.Bind.String() }

// get asks through the server's side of the forward.
func (b *bench) get() error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + b.publicAddress() + "/x")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(body), "hello /x from 127.0.0.1:") && !strings.HasPrefix(string(body), "hello /x from [::1]:") {
		return fmt.Errorf("it answers %q", body)
	}
	return nil
}

func (b *bench) eventually(what string, atMost time.Duration, check func() error) time.Duration {
	b.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > atMost {
			b.Fatalf("%s: not within %v: %v", what, atMost, err)
		}
		<-tick.C
	}
}

func (b *bench) says(text string) func() error {
	return func() error {
		if !strings.Contains(b.log.String(), text) {
			return fmt.Errorf("the log does not say %q", text)
		}
		return nil
	}
}

func TestForward(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.open()
	if err := b.get(); err != nil {
		t.Fatal(err)
	}
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := b.get(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("a slow client is let go in time", func(t *testing.T) {
		conn, err := net.Dial("tcp", b.publicAddress())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("its connection was not closed: %v", err)
		}
	})
	t.Run("an idle connection too, and used until then", func(t *testing.T) {
		conn, err := net.Dial("tcp", b.publicAddress())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
		data, err := io.ReadAll(conn)
		if n := strings.Count(string(data), "HTTP/1.1 200"); err != nil || n != 2 {
			t.Errorf("%d answers, then %v", n, err)
		}
	})
	t.Run("a client that reads nothing is given up", func(t *testing.T) {
		b := *b
		b.T = t
		conn, err := net.Dial("tcp", b.publicAddress())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
		b.eventually("given up", patience, func() error {
			if b.unread.Load() == nil {
				return errors.New("it is still being written to")
			}
			return nil
		})
		if err := b.get(); err != nil {
			t.Errorf("and others: %v", err)
		}
	})
	t.Run("a client that says no more still gets its answer", func(t *testing.T) {
		conn, err := net.Dial("tcp", b.publicAddress())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		data, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(data), "hello /") {
			t.Errorf("it gets %q, %v", data, err)
		}
	})
}

// TestReconnect measures from the loss to the first answer.
func TestReconnect(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Says: "tunneled with tls termination, https://one.example.com\n"})
	tun := b.open()
	name, err := tun.Name(t.Context())
	if err != nil || name != "https://one.example.com" {
		t.Fatalf("name %q, %v", name, err)
	}
	t.Run("connection killed", func(t *testing.T) {
		for range 3 {
			if b.sshd.EndSessions() == 0 {
				t.Fatal("nothing to kill")
			}
			t.Logf("served again after %v", b.eventually("served", patience, b.get))
		}
	})
	t.Run("server stopped and started", func(t *testing.T) {
		b.sshd.Stop()
		b.eventually("told", patience, b.says("trying again"))
		if err := b.get(); err == nil {
			t.Error("it is served by nobody")
		}
		if err := b.sshd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("served again after %v", b.eventually("served", patience, b.get))
	})
	if bound := tun.Bound(); bound != b.config.Bind {
		t.Errorf("it listens at %v, and should at %v", bound, b.config.Bind)
	}
	if strings.Contains(b.log.String(), "CHANGED") {
		t.Error("the same name counts as another")
	}

	t.Run("more names", func(t *testing.T) {
		b.sshd.Say(t, "tunneled with tls termination, https://three.example.com\ntunneled with tls termination, https://one.example.com\n")
		b.sshd.EndSessions()
		b.eventually("told", patience, b.says("server says: tunneled with tls termination, https://three.example.com"))
		b.eventually("served", patience, b.get) // and see below
	})
	t.Run("another name", func(t *testing.T) {
		b.sshd.Say(t, "tunneled with tls termination, https://two.example.com\n")
		b.sshd.EndSessions()
		b.eventually("told", patience, func() error {
			for line := range strings.Lines(b.log.String()) {
				if strings.Contains(line, "level=ERROR") && strings.Contains(line, "before=https://one.example.com now=https://two.example.com") &&
					strings.Contains(line, "--service-account-issuer=https://two.example.com") {
					return nil
				}
			}
			return errors.New("no error in the log")
		})
		if name, err := tun.Name(t.Context()); err != nil || name != "https://one.example.com" {
			t.Errorf("the name is %q, %v: the issuer must stay", name, err)
		}
		b.sshd.Say(t, "tunneled with tls termination, https://one.example.com\n")
		b.sshd.EndSessions()
		b.eventually("told", patience, b.says("its public name again"))
		if strings.Contains(b.log.String(), "now=https://three") {
			t.Error("one more name counted as another")
		}
	})
}

// TestPortIsHeld: a server that has not noticed that we left holds the port.
func TestPortIsHeld(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.open()
	b.sshd.Stop()
	var holder net.Listener
	b.eventually("left", patience, func() (err error) {
		holder, err = net.Listen("tcp", b.publicAddress())
		return err
	})
	if err := b.sshd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.eventually("told", patience, b.says("refuses to forward"))
	b.fails("refuses to forward", b.publicAddress(), "--tunnel-bind") // at the start it is fatal
	holder.Close()
	t.Logf("served %v after it is free", b.eventually("served", patience, b.get))
}

func TestServerChoosesThePort(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.config.Bind.Port = 0
	tun := b.open()
	chosen := tun.Bound()
	if chosen.Port == 0 {
		t.Fatal("no port")
	}
	b.config.Bind = chosen
	if err := b.get(); err != nil {
		t.Fatal(err)
	}
	b.sshd.EndSessions()
	b.eventually("served", patience, b.get)
	if tun.Bound() != chosen {
		t.Errorf("it listens at %v, and did at %v", tun.Bound(), chosen)
	}
}

// TestBlackHole: packets vanish and nobody says so.
func TestBlackHole(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	proxy := newToxiproxy(t, b.sshd.Address)
	server, err := tunnel.ParseServer("ssh://" + b.sshd.User + "@" + proxy.address)
	if err != nil {
		t.Fatal(err)
	}
	b.config.Server, b.config.KeepAlive, b.config.KeepAliveTimeout, b.config.ConnectTimeout = server, 500*time.Millisecond, 500*time.Millisecond, time.Second
	b.open()
	if err := b.get(); err != nil {
		t.Fatal(err)
	}
	proxy.swallow(t)
	t.Logf("noticed after %v", b.eventually("noticed", patience, b.says("no sign of life for 500ms")))
	b.eventually("told", patience, b.says("no answer"))
	proxy.heal(t)
	b.sshd.EndSessions() // sshd holds the port for as long as its own keep-alives say
	t.Logf("served again after %v", b.eventually("served", patience, b.get))
}

// toxiproxy is a TCP proxy that can swallow what passes.
type toxiproxy struct{ api, address string }

func newToxiproxy(t *testing.T, upstream string) *toxiproxy {
	t.Helper()
	binary := testserver.Require(t, "toxiproxy-server")
	p := &toxiproxy{address: fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))}
	port := testserver.FreePort(t)
	p.api = fmt.Sprintf("http://127.0.0.1:%d", port)
	testserver.Start(t, testserver.Command{
		Name: "toxiproxy", Path: binary, Args: []string{"-host", "127.0.0.1", "-port", fmt.Sprint(port)},
		Ready: testserver.HTTPReady(http.DefaultClient, p.api+"/version"),
	})
	p.post(t, "/proxies", fmt.Sprintf(`{"name": "ssh", "listen": %q, "upstream": %q}`, p.address, upstream))
	return p
}

func (p *toxiproxy) swallow(t *testing.T) {
	t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		p.post(t, "/proxies/ssh/toxics", fmt.Sprintf(`{"name": %q, "type": "timeout", "stream": %q, "attributes": {"timeout": 0}}`, stream, stream))
	}
}

func (p *toxiproxy) heal(t *testing.T) { p.post(t, "/reset", "") }

func (p *toxiproxy) post(t *testing.T, path, body string) {
	t.Helper()
	resp, err := http.Post(p.api+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("toxiproxy: %s: HTTP status %d: %s", path, resp.StatusCode, text)
	}
}

func TestHostKey(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	known := filepath.Join(t.TempDir(), ".ssh", "known_hosts")
	ed25519, ecdsa := b.sshd.HostKey(t, "ed25519"), b.sshd.HostKey(t, "ecdsa")
	b.config.HostKey, b.config.KnownHosts = "", []string{known, "/nonexistent/known_hosts"}
	write := func(t *testing.T, lines ...string) {
		t.Helper()
		os.MkdirAll(filepath.Dir(known), 0o700)
		if err := os.WriteFile(known, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(t *testing.T) *bench { c := *b; c.T = t; return &c }
	opens := func(t *testing.T) {
		t.Helper()
		b := in(t)
		b.config.Bind.Port = testserver.FreePort(t)
		b.open()
		if err := b.get(); err != nil {
			t.Error(err)
		}
	}

	t.Run("unknown, and nobody to ask", func(t *testing.T) {
		err := in(t).fails("known_hosts", b.sshd.Address, "--tunnel-host-key SHA256:")
		var unknown *tunnel.UnknownHostError
		if !errors.As(err, &unknown) || !strings.Contains(err.Error(), unknown.Fingerprint) {
			t.Fatalf("it is %v", err)
		}
		again := in(t)
		again.config.HostKey = unknown.Fingerprint
		again.config.Bind.Port = testserver.FreePort(t)
		again.open() // what the error says works
	})
	t.Run("pinned, of the type that is shown last", func(t *testing.T) {
		for _, kind := range []string{"ed25519", "ecdsa"} {
			again := in(t)
			again.config.HostKey = fingerprint(b.sshd.HostKey(t, kind))
			again.config.Bind.Port = testserver.FreePort(t)
			again.open()
		}
	})
	t.Run("pinned to another", func(t *testing.T) {
		again := in(t)
		again.config.HostKey = "SHA256:" + strings.Repeat("A", 43)
		again.fails(again.config.HostKey, fingerprint(ed25519), fingerprint(ecdsa))
	})
	t.Run("asked, refused", func(t *testing.T) {
		again := in(t)
		again.config.Confirm = func(_ context.Context, u *tunnel.UnknownHostError) (bool, error) { return false, nil }
		again.fails("known_hosts")
		if _, err := os.Stat(known); err == nil {
			t.Error("it was remembered")
		}
	})
	t.Run("asked, accepted, remembered", func(t *testing.T) {
		again := in(t)
		again.config.Bind.Port = testserver.FreePort(t)
		asked := 0
		again.config.Confirm = func(_ context.Context, u *tunnel.UnknownHostError) (bool, error) { asked++; return true, nil }
		again.open()
		opens(t)
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
	t.Run("known by its name", func(t *testing.T) {
		write(t, "# comment", knownhosts.Line([]string{knownhosts.Normalize(b.sshd.Address)}, ed25519))
		opens(t)
	})
	t.Run("known by one key of two", func(t *testing.T) {
		write(t, knownhosts.Line([]string{knownhosts.Normalize(b.sshd.Address)}, ecdsa))
		opens(t)
	})
	t.Run("known by a hashed name", func(t *testing.T) {
		write(t, knownhosts.Line([]string{knownhosts.HashHostname(knownhosts.Normalize(b.sshd.Address))}, ecdsa))
		opens(t)
	})
	t.Run("revoked", func(t *testing.T) {
		write(t, "@revoked * "+strings.TrimSpace(strings.SplitN(knownhosts.Line([]string{"x"}, ed25519), " ", 2)[1]),
			knownhosts.Line([]string{knownhosts.Normalize(b.sshd.Address)}, ed25519))
		in(t).fails("revokes", fingerprint(ed25519))
	})
	t.Run("a file that is none", func(t *testing.T) {
		write(t, "nonsense")
		in(t).fails("known hosts", known)
	})
	t.Run("changed", func(t *testing.T) {
		write(t, knownhosts.Line([]string{knownhosts.Normalize(b.sshd.Address)}, ed25519))
		b.sshd.ReplaceHostKeys(t)
		if err := b.sshd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		in(t).fails(fingerprint(ed25519), fingerprint(b.sshd.HostKey(t, "ed25519")), known+":1", "ssh-keygen -R '"+knownhosts.Normalize(b.sshd.Address)+"'")
	})
}

// TestHostKeyChangesLater: what was right at the start is watched for ever.
func TestHostKeyChangesLater(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.open()
	b.sshd.ReplaceHostKeys(t)
	b.sshd.Stop()
	if err := b.sshd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.eventually("told", patience, b.says("somebody may have got in between"))
	if b.get() == nil {
		t.Error("it serves through a server that it does not know")
	}
}

func TestKeys(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	dir := t.TempDir()
	key := func(name, kind, passphrase string) string {
		path := filepath.Join(dir, name)
		testserver.MakeSSHKey(t, path, kind, passphrase)
		return path
	}
	other, encrypted := key("other", "rsa", ""), key("encrypted", "ed25519", "a passphrase that nobody is told")
	agent := testserver.SSHAgent(t, other, b.sshd.KeyFile)
	loose := filepath.Join(dir, "loose")
	data, err := os.ReadFile(b.sshd.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(loose, data, 0o644)
	os.WriteFile(filepath.Join(dir, "junk"), []byte("SECRET"), 0o600)
	for _, c := range []struct {
		name   string
		change func(*tunnel.Config)
		fails  []string // nil: it opens
	}{
		{"a file", func(*tunnel.Config) {}, nil},
		{"the agent", func(c *tunnel.Config) { c.KeyFile, c.AgentSocket = "", agent }, nil},
		{"one of the agent's", func(c *tunnel.Config) { c.KeyFile, c.AgentSocket = b.sshd.KeyFile+".pub", agent }, nil},
		{"a file of the home, beside ones that don't do", func(c *tunnel.Config) {
			c.KeyFile, c.DefaultKeys = "", []string{filepath.Join(dir, "none"), encrypted, loose, b.sshd.KeyFile}
		}, nil},
		{"another", func(c *tunnel.Config) { c.KeyFile = other }, []string{other, "--tunnel-key", "does not let"}},
		{"another of the agent's", func(c *tunnel.Config) { c.KeyFile, c.AgentSocket = other+".pub", agent }, []string{"the agent's key of", "--tunnel-key"}},
		{"a public key without an agent", func(c *tunnel.Config) { c.KeyFile += ".pub" }, []string{"ssh-add"}},
		{"none", func(c *tunnel.Config) { c.KeyFile = "" }, []string{"no agent", "--tunnel-key"}},
		{"a dead agent", func(c *tunnel.Config) { c.KeyFile, c.AgentSocket = "", filepath.Join(dir, "none") }, []string{"no agent"}},
		{"encrypted", func(c *tunnel.Config) { c.KeyFile = encrypted }, []string{"passphrase", "ssh-add " + encrypted}},
		{"for all to read", func(c *tunnel.Config) { c.KeyFile = loose }, []string{"mode 0644", "chmod 600"}},
		{"no key", func(c *tunnel.Config) { c.KeyFile = filepath.Join(dir, "junk") }, []string{"not a private key"}},
		{"no file", func(c *tunnel.Config) { c.KeyFile = filepath.Join(dir, "none") }, []string{"--tunnel-key", "no such file"}},
		{"another user", func(c *tunnel.Config) { c.Server.User = "ada" }, []string{"ssh://ada@", "ssh://USER@"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.T = t
			b.config.Bind.Port = testserver.FreePort(t)
			c.change(&b.config)
			if c.fails == nil {
				b.open()
				if err := b.get(); err != nil {
					t.Error(err)
				}
				return
			}
			if err := b.fails(c.fails...); strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error quotes the file: %v", err)
			}
		})
	}
}

func TestServerForbids(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Config: []string{"AllowTcpForwarding no"}})
	b.fails("refuses to forward", "AllowTcpForwarding")
	b.sshd.Stop()
	b.fails("connect to", "refused")
}

func TestNoName(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Says: "Welcome! Read https://docs.example.com/ and https://example.com/a/page\n"})
	tun := b.open()
	b.eventually("told", patience, b.says("the tunnel's server says: Welcome!"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if name, err := tun.Name(ctx); err == nil || !strings.Contains(err.Error(), "--issuer") {
		t.Errorf("name %q, error %v", name, err)
	}
}

// TestNoNameWillCome: it is known as soon as the server ends or refuses the
// session, while the forward goes on.
func TestNoNameWillCome(t *testing.T) {
	for name, options := range map[string]testserver.SSHDOptions{
		"the session ends":       {Says: "Welcome!\n", Ends: true},
		"the session is refused": {Config: []string{"MaxSessions 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options)
			tun := b.open()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if name, err := tun.Name(ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "--issuer") {
				t.Errorf("name %q, error %v", name, err)
			}
			if err := b.get(); err != nil || !tun.Up() {
				t.Errorf("the tunnel is up: %t; %v", tun.Up(), err)
			}
		})
	}
}

// TestANameThatIsToldLast, without the end of its line, counts though the
// session ends with it.
func TestANameThatIsToldLast(t *testing.T) {
	for _, says := range []string{"https://one.example.com", "your site is public at https://one.example.com now"} {
		tun := newBench(t, testserver.SSHDOptions{Says: says, Ends: true}).open()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if name, err := tun.Name(ctx); err != nil || name != "https://one.example.com" {
			t.Errorf("%q: name %q, error %v", says, name, err)
		}
	}
}

func TestEndIsClean(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	tun := tunnel.New(b.config)
	if err := tun.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { tun.Run(ctx); close(done) }()
	tun.Close()
	tun.Close()
	if _, err := tun.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	cancel()
	<-done
	b.eventually("the port is free", patience, func() error {
		l, err := net.Listen("tcp", b.publicAddress())
		if err != nil {
			return err
		}
		return l.Close()
	})
}

func fingerprint(key ssh.PublicKey) string { return ssh.FingerprintSHA256(key) }
