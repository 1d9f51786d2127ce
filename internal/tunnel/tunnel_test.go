package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"oidc-publisher/internal/logtest"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/internal/tunnel"
)

// enough is more than a connection attempt takes on a busy machine.
const enough = 30 * time.Second

// bench is an sshd, and a tunnel through it that can be started.
type bench struct {
	*testing.T
	sshd   *testserver.SSHD
	config tunnel.Config
	log    *logtest.Log
	tunnel *tunnel.Tunnel
}

func newBench(t *testing.T, options testserver.SSHDOptions) *bench {
	t.Helper()
	testserver.Require(t, "ssh")
	b := &bench{T: t, sshd: testserver.StartSSHD(t, options), log: new(logtest.Log)}
	server, err := tunnel.ParseServer(b.sshd.URL())
	if err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello "+r.URL.Path) }))
	t.Cleanup(site.Close)
	b.config = tunnel.Config{
		Server: server, Bind: tunnel.Bind{Port: testserver.FreePort(t)}, Target: site.Listener.Addr().String(),
		Options: b.sshd.ClientOptions(t),
		Log:     slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	return b
}

// in is the same bench for a subtest, with a port of its own.
func (b *bench) in(t *testing.T) *bench {
	c := *b
	c.T, c.config.Bind.Port = t, testserver.FreePort(t)
	return &c
}

// start runs the tunnel until the end of the test, and returns how Run ends.
func (b *bench) start() (ended <-chan error) {
	b.Helper()
	return b.run(b.get)
}

// run is start with another check of what is public.
func (b *bench) run(check func(context.Context) error) (ended <-chan error) {
	b.Helper()
	b.config.Check = check
	var err error
	if b.tunnel, err = tunnel.New(b.config); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	end := make(chan error, 1)
	running.Go(func() { end <- b.tunnel.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return end
}

// isUp waits until the tunnel is ready, which must be true.
func (b *bench) isUp() time.Duration {
	b.Helper()
	took := b.ready()
	if err := b.get(b.Context()); err != nil {
		b.Errorf("it is ready, and %v", err)
	}
	return took
}

// ready waits until the tunnel reports that it is.
func (b *bench) ready() time.Duration {
	b.Helper()
	return b.eventually("up", func() error {
		if reason := b.tunnel.Unready(); reason != "" {
			return errors.New(reason)
		}
		return nil
	})
}

// fails runs the tunnel, which must not succeed, and wants these words.
func (b *bench) fails(words ...string) {
	b.Helper()
	select {
	case err := <-b.start():
		if err == nil {
			b.Fatal("it did not fail")
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				b.Errorf("the error does not say %q: %v", word, err)
			}
		}
	case <-time.After(enough):
		b.Fatal("it goes on")
	}
}

// get asks through the server's side of the forward.
func (b *bench) get(ctx context.Context) error {
	return b.getAt(ctx, strconv.Itoa(b.config.Bind.Port))
}

func (b *bench) getAt(ctx context.Context, port string) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/x", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && string(body) != "hello /x" {
		err = fmt.Errorf("it answers %q", body)
	}
	return err
}

func (b *bench) eventually(what string, check func() error) time.Duration {
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
		if took > enough {
			b.Fatalf("%s: not within %v: %v", what, enough, err)
		}
		<-tick.C
	}
}

func (b *bench) logs(text string) {
	b.Helper()
	b.eventually("logged", func() error {
		if !strings.Contains(b.log.String(), text) {
			return fmt.Errorf("the log does not contain %q", text)
		}
		return nil
	})
}

func TestForward(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.start()
	b.isUp()
	b.logs(`msg="tunnel up"`)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := b.get(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestReconnect measures from the loss to the first answer.
func TestReconnect(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Prints: "tunneled with tls termination, https://one.example.com\n"})
	b.config.Session = true
	b.start()
	if url, err := b.tunnel.URL(t.Context()); err != nil || url != "https://one.example.com" {
		t.Fatalf("URL %q, %v", url, err)
	}
	b.isUp()
	t.Run("connection killed", func(t *testing.T) {
		for range 3 {
			if b.sshd.EndSessions() == 0 {
				t.Fatal("nothing to kill")
			}
			b.down()
			t.Logf("up again after %v", b.isUp())
		}
		b.logs(`msg="tunnel failed"`)
		b.logs(`msg="tunnel recovered"`)
	})
	t.Run("server stopped and started", func(t *testing.T) {
		b.sshd.Stop()
		b.logs("Connection refused")
		if err := b.get(t.Context()); err == nil {
			t.Error("someone answers")
		}
		if err := b.sshd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("up again after %v", b.isUp())
	})
	if strings.Contains(b.log.String(), "CHANGED") {
		t.Error("the same URL counts as another")
	}
	t.Run("more URLs", func(t *testing.T) {
		b.sshd.Print(t, "tunneled with tls termination, https://three.example.com\ntunneled with tls termination, https://one.example.com\n")
		b.sshd.EndSessions()
		b.down()
		b.logs("ssh: tunneled with tls termination, https://three.example.com")
		b.isUp() // and see below
	})
	t.Run("another URL", func(t *testing.T) {
		b.sshd.Print(t, "tunneled with tls termination, https://two.example.com\n")
		b.sshd.EndSessions()
		b.eventually("an error", func() error {
			for line := range strings.Lines(b.log.String()) {
				if strings.Contains(line, "level=ERROR") && strings.Contains(line, "before=https://one.example.com now=https://two.example.com") &&
					strings.Contains(line, "--service-account-issuer=https://two.example.com") {
					return nil
				}
			}
			return errors.New("no error in the log")
		})
		if reason := b.tunnel.Unready(); !strings.Contains(reason, "public URL is no longer the issuer's") {
			t.Errorf("it is %q", reason)
		}
		if url, err := b.tunnel.URL(t.Context()); err != nil || url != "https://one.example.com" {
			t.Errorf("the URL is %q, %v: the issuer must stay", url, err)
		}
		b.sshd.Print(t, "tunneled with tls termination, https://one.example.com\n")
		b.sshd.EndSessions()
		b.logs("its public URL again")
		b.isUp()
		if strings.Contains(b.log.String(), "now=https://three") {
			t.Error("one more URL counted as another")
		}
	})
}

// down waits until the tunnel is known to be down.
func (b *bench) down() {
	b.Helper()
	b.eventually("down", func() error {
		if b.tunnel.Unready() == "" {
			return errors.New("it is ready")
		}
		return nil
	})
}

// TestPortIsHeld: a server that has not noticed that its client left holds the
// port.
func TestPortIsHeld(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.start()
	b.isUp()
	b.sshd.Stop()
	address := fmt.Sprintf("127.0.0.1:%d", b.config.Bind.Port)
	var holder net.Listener
	b.eventually("left", func() (err error) {
		holder, err = net.Listen("tcp", address)
		return err
	})
	if err := b.sshd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.logs("refuses to forward")
	again := *b
	again.fails("refuses to forward", fmt.Sprint(b.config.Bind.Port), "--tunnel-bind") // final at the start
	holder.Close()
	t.Logf("up %v after it is free", b.isUp())
}

// TestServerChoosesThePort: it is asked for the same port again, and for another
// only once it keeps refusing that.
func TestServerChoosesThePort(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	chosen := regexp.MustCompile(`msg="ssh: Allocated port (\d+) for remote forward`)
	ports := func() (ports []string) {
		for _, found := range chosen.FindAllStringSubmatch(b.log.String(), -1) {
			ports = append(ports, found[1])
		}
		return ports
	}
	get := func(ctx context.Context) error {
		all := ports()
		if len(all) == 0 {
			return errors.New("there is no port yet")
		}
		return b.getAt(ctx, all[len(all)-1])
	}
	b.config.Bind.Port = 0
	b.run(get)
	b.ready()
	if err := get(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.logs(`msg="tunnel up"`)
	b.logs("bind=" + ports()[0] + "\n")
	for range 3 {
		b.sshd.EndSessions()
		b.down()
		b.ready()
		if got := ports(); len(got) != 1 {
			t.Fatalf("the server chose again: %v", got)
		}
		if err := get(t.Context()); err != nil {
			t.Error(err)
		}
	}
	b.sshd.Stop()
	var holder net.Listener
	b.eventually("left", func() (err error) {
		holder, err = net.Listen("tcp", "127.0.0.1:"+ports()[0])
		return err
	})
	defer holder.Close()
	if err := b.sshd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.logs("refuses to forward port " + ports()[0])
	b.logs("the server listens at another port now")
	b.ready()
	now := ports()
	if len(now) != 2 {
		t.Fatalf("the server chose %v", now)
	}
	b.logs("before=" + now[0] + " now=" + now[1] + "\n")
}

// TestFirstConnectionIsLost: a connection that is lost soon after the start, and
// before the documents were public, is made again.
func TestFirstConnectionIsLost(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	var published atomic.Bool
	ended := b.run(func(ctx context.Context) error {
		if !published.Load() {
			return errors.New("there are no documents yet")
		}
		return b.get(ctx)
	})
	b.eventually("forwarded", func() error { return b.get(t.Context()) })
	if b.sshd.EndSessions() == 0 {
		t.Fatal("nothing to kill")
	}
	b.logs(`msg="tunnel failed"`)
	published.Store(true)
	b.isUp()
	select {
	case err := <-ended:
		t.Errorf("it ended: %v", err)
	default:
	}
}

// TestBlackHole: packets vanish without an error.
func TestBlackHole(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	proxy := newToxiproxy(t, b.sshd.Address)
	server, err := tunnel.ParseServer("ssh://" + b.sshd.User + "@" + proxy.address)
	if err != nil {
		t.Fatal(err)
	}
	b.config.Server = server
	b.config.Options = append(b.config.Options, "ServerAliveInterval=1", "ServerAliveCountMax=1", "ConnectTimeout=2", "HostKeyAlias=["+strings.Replace(b.sshd.Address, ":", "]:", 1))
	b.start()
	b.isUp()
	proxy.swallow(t)
	b.down()
	b.logs("not responding")
	proxy.heal(t)
	b.sshd.EndSessions() // sshd holds the port for as long as its own keep-alives say
	t.Logf("up again after %v", b.isUp())
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
	login := "`ssh -T -o IdentityFile=" // and what follows
	known := b.sshd.KnownHosts(t, "ed25519")
	with := func(t *testing.T, file string) *bench {
		c := b.in(t)
		c.config.Options = []string{"IdentityFile=" + b.sshd.KeyFile, "IdentitiesOnly=yes", "GlobalKnownHostsFile=none", "UserKnownHostsFile=" + file}
		return c
	}
	opens := func(t *testing.T, file string) {
		t.Helper()
		c := with(t, file)
		c.start()
		c.isUp()
	}
	t.Run("unknown", func(t *testing.T) {
		empty := filepath.Join(t.TempDir(), "known_hosts")
		with(t, empty).fails("the host key of "+b.sshd.URL()+" is unknown", login, "UserKnownHostsFile="+empty, " -- "+b.sshd.User+"@127.0.0.1`")
		if _, err := os.Stat(empty); err == nil {
			t.Error("it was accepted")
		}
	})
	t.Run("unknown at this machine", func(t *testing.T) { // as ssh's configuration could set it
		c := with(t, filepath.Join(t.TempDir(), "known_hosts"))
		c.config.Options = append(c.config.Options, "NoHostAuthenticationForLocalhost=yes")
		c.fails("is unknown")
	})
	t.Run("known", func(t *testing.T) { opens(t, known) })
	t.Run("known by one key of two", func(t *testing.T) { opens(t, b.sshd.KnownHosts(t, "ecdsa")) })
	t.Run("revoked", func(t *testing.T) {
		revoked := filepath.Join(t.TempDir(), "known_hosts")
		line, err := os.ReadFile(known)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(revoked, []byte("@revoked "+string(line)), 0o600); err != nil {
			t.Fatal(err)
		}
		with(t, revoked).fails("revoked")
	})
	t.Run("changed", func(t *testing.T) {
		b.sshd.ReplaceHostKeys(t)
		if err := b.sshd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		with(t, known).fails("has changed", "in between", known+":1", login)
	})
}

// TestHostKeyChangesLater: the host key is checked at each connection.
func TestHostKeyChangesLater(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.start()
	b.isUp()
	b.sshd.ReplaceHostKeys(t)
	b.sshd.Stop()
	if err := b.sshd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.logs("someone may be in between")
	if b.get(t.Context()) == nil || b.tunnel.Unready() == "" {
		t.Error("it serves through a server that it does not know")
	}
}

func TestKeys(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	dir := t.TempDir()
	other, encrypted := filepath.Join(dir, "other"), filepath.Join(dir, "encrypted")
	testserver.MakeSSHKey(t, other, "rsa", "")
	testserver.MakeSSHKey(t, encrypted, "ed25519", "a passphrase")
	agent := testserver.SSHAgent(t, other, b.sshd.KeyFile)
	host := "UserKnownHostsFile=" + b.sshd.KnownHosts(t, "ed25519")
	for _, c := range []struct {
		name    string
		options []string
		user    string
		fails   []string // nil: it succeeds
	}{
		{"a file", []string{"IdentityFile=" + b.sshd.KeyFile, "IdentitiesOnly=yes"}, "", nil},
		{"the agent", []string{"IdentityAgent=" + agent}, "", nil},
		{"one of the agent's", []string{"IdentityAgent=" + agent, "IdentityFile=" + b.sshd.KeyFile + ".pub", "IdentitiesOnly=yes"}, "", nil},
		{"another", []string{"IdentityFile=" + other, "IdentitiesOnly=yes"}, "", []string{"refuses the login", "Permission denied"}},
		{"a passphrase without an agent", []string{"IdentityFile=" + encrypted, "IdentitiesOnly=yes", "IdentityAgent=none"}, "", []string{"passphrase", "`ssh-add`"}},
		{"another user", []string{"IdentityFile=" + b.sshd.KeyFile, "IdentitiesOnly=yes"}, "ada", []string{"ssh://ada@", "refuses the login"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := b.in(t)
			b.config.Options = append(c.options, host)
			if c.user != "" {
				b.config.Server.User = c.user
			}
			if c.fails != nil {
				b.fails(c.fails...)
				return
			}
			b.start()
			b.isUp()
		})
	}
}

// TestJumpHost: the server is reached through another one.
func TestJumpHost(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Config: []string{"AllowTcpForwarding yes"}})
	jump := "ProxyCommand=ssh -o BatchMode=yes"
	for _, option := range b.config.Options {
		jump += " -o " + option
	}
	host, port, _ := strings.Cut(b.sshd.Address, ":")
	b.config.Options = append(b.config.Options, jump+" -p "+port+" -W %h:%p "+b.sshd.User+"@"+host)
	b.start()
	b.isUp()
}

func TestServerForbids(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Config: []string{"AllowTcpForwarding no"}})
	b.fails("refuses to forward", "AllowTcpForwarding")
	b.sshd.Stop()
	b.in(t).fails("ended", "Connection refused")
}

// TestNoProgram: without ssh on the PATH there is a clear error.
func TestNoProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := tunnel.New(tunnel.Config{}); err == nil || !strings.Contains(err.Error(), "needs the ssh program") {
		t.Errorf("error %v", err)
	}
}

func TestNoURL(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{Prints: "Welcome! Read https://docs.example.com/ and https://example.com/a/page\n"})
	b.config.Session = true
	b.start()
	b.logs("ssh: Welcome!")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if url, err := b.tunnel.URL(ctx); err == nil || !strings.Contains(err.Error(), "--issuer") {
		t.Errorf("URL %q, error %v", url, err)
	}
}

// TestNoURLWillCome: it is known as soon as the server ends or refuses the
// session.
func TestNoURLWillCome(t *testing.T) {
	for name, options := range map[string]testserver.SSHDOptions{
		"the session ends":       {Prints: "Welcome!\n", Ends: true},
		"the session is refused": {Config: []string{"MaxSessions 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options)
			b.config.Session = true
			// As in serve, where there are no documents without an issuer.
			b.run(func(context.Context) error { return errors.New("there are no documents") })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if url, err := b.tunnel.URL(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("URL %q, error %v", url, err)
			}
		})
	}
}

// TestLastURL: a URL without the end of its line counts although the session
// ends with it.
func TestLastURL(t *testing.T) {
	for _, says := range []string{"https://one.example.com", "your site is public at https://one.example.com now"} {
		b := newBench(t, testserver.SSHDOptions{Prints: says, Ends: true})
		b.config.Session = true
		b.start()
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		if url, err := b.tunnel.URL(ctx); err != nil || url != "https://one.example.com" {
			t.Errorf("%q: URL %q, error %v", says, url, err)
		}
	}
}

// TestEnd: the end of the context ends ssh.
func TestEnd(t *testing.T) {
	b := newBench(t, testserver.SSHDOptions{})
	b.config.Check = b.get
	tun, err := tunnel.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.tunnel = tun
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tun.Run(ctx) }()
	b.isUp()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	b.eventually("the port is free", func() error {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", b.config.Bind.Port))
		if err != nil {
			return err
		}
		return l.Close()
	})
}
