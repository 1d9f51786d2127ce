package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

const (
	laptopHost = "laptop.example.com"
	laptop     = "https://" + laptopHost
	// laptopSays is how serveo announces it.
	laptopSays = "\x1b[0;32mForwarding HTTP traffic from https://" + laptopHost + "\x1b[0m\n"
)

// far is a running `oidc-publisher serve --tunnel`, and the server behind which
// it is.
type far struct {
	*testserver.Process
	lab    *lab
	sshd   *testserver.SSHD
	stdout string // file
}

// sshServer starts one, which is public as laptopHost, and returns the
// flags with which the program logs in there.
func (l *lab) sshServer(options testserver.SSHDOptions) (sshd *testserver.SSHD, flags []string) {
	l.t.Helper()
	testserver.Require(l.t, "ssh")
	sshd = testserver.StartSSHD(l.t, options)
	port := testserver.FreePort(l.t)
	l.internet.Route(laptopHost, fake.Upstream(fmt.Sprintf("http://127.0.0.1:%d", port)))
	key, err := os.ReadFile(sshd.KeyFile)
	if err != nil {
		l.t.Fatal(err)
	}
	l.secrets = append(l.secrets, strings.Split(string(key), "\n")[1])
	return sshd, append(sshOptions(sshd.ClientOptions(l.t)), "--tunnel", sshd.URL(), "--tunnel-bind", fmt.Sprint(port))
}

func sshOptions(options []string) (flags []string) {
	for _, option := range options {
		flags = append(flags, "--tunnel-ssh-option", option)
	}
	return flags
}

// serveFar starts the program with standard output in a file, as a script would.
func (l *lab) serveFar(sshd *testserver.SSHD, args ...string) *far {
	l.t.Helper()
	f := &far{lab: l, sshd: sshd, stdout: filepath.Join(l.t.TempDir(), "stdout")}
	f.Process = testserver.Start(l.t, testserver.Command{
		Name: "oidc-publisher serve --tunnel", Path: testserver.Require(l.t, "sh"),
		Args: append([]string{"-c", `out="$1"; shift; exec "$@" >"$out"`, "sh", f.stdout, built, "serve"}, args...),
		Env:  slices.Clone(l.env), Dir: l.dir,
	})
	l.t.Cleanup(func() {
		f.Stop()
		for _, bad := range slices.Concat([]string{"DATA RACE", "panic:", jwtHeader, "\x1b"}, l.secrets) {
			if strings.Contains(f.Output()+f.printed(), bad) {
				l.t.Errorf("serve prints %q", bad)
			}
		}
	})
	return f
}

func (f *far) printed() string {
	text, err := os.ReadFile(f.stdout)
	if err != nil {
		return ""
	}
	return string(text)
}

func (f *far) prints(want string) {
	f.lab.t.Helper()
	eventually(f.lab.t, 30*time.Second, "standard output", func() error {
		if got := f.printed(); got != want {
			return fmt.Errorf("it is %q, want %q; stderr:\n%s", got, want, f.Output())
		}
		return nil
	})
}

func (f *far) logs(texts ...string) {
	f.lab.t.Helper()
	eventually(f.lab.t, 30*time.Second, "the log", func() error {
		for text := range strings.Lines(f.Output()) {
			if !slices.ContainsFunc(texts, func(t string) bool { return !strings.Contains(text, t) }) {
				return nil
			}
		}
		return fmt.Errorf("no line contains %q:\n%s", texts, f.Output())
	})
}

// status asks the issuer for its document, as a relying party does.
func (l *lab) status(issuer string) (status int, err error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/"+discovery.ConfigurationPath, nil)
	if err != nil {
		return 0, err
	}
	resp, err := l.internet.Client().Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestServeTunnel: the third article in one program. The tunnel is there before
// the API server, which gets the issuer that was printed; tokens verify through
// it, also after a rotation, after the tunnel broke, and after it got another
// URL that the cluster does not have.
func TestServeTunnel(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sshd, flags := l.sshServer(testserver.SSHDOptions{Prints: "Welcome. Read https://docs.example.com/\n" + laptopSays})
	kubeconfig, ready := filepath.Join(l.dir, "later"), filepath.Join(l.dir, "ready")
	f := l.serveFar(sshd, append(flags, "--kubeconfig", kubeconfig, "--interval", "1s", "--ready-file", ready)...)
	f.prints(laptop + "\n")
	eventually(t, 30*time.Second, "503", func() error {
		status, err := l.status(laptop)
		if err == nil && status != http.StatusServiceUnavailable {
			err = fmt.Errorf("HTTP status %d", status)
		}
		return err
	})

	issuer := strings.TrimSpace(f.printed())
	first, second := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, _ := l.kube(testserver.KubeOptions{Issuer: issuer, Keys: testserver.KubeKeys{Signing: first}})
	if err := cluster.Servers[0].Kubeconfig("publisher").Write(kubeconfig); err != nil {
		t.Fatal(err)
	}
	f.logs("documents served")
	f.logs("tunnel up")
	eventually(t, 30*time.Second, "ready file", func() error {
		text, err := os.ReadFile(ready)
		if err == nil && string(text) != laptop+"\n" {
			err = fmt.Errorf("it is %q", text)
		}
		return err
	})
	before := l.mint(cluster)
	l.accepts(issuer, before)

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: second})
	took := eventually(t, 30*time.Second, "rotation", l.shows(issuer, first.ID, second.ID))
	t.Logf("the new key is public through the tunnel %v after the API server is back", took)
	l.accepts(issuer, before, l.mint(cluster))

	if sshd.EndSessions() == 0 {
		t.Fatal("no tunnel to break")
	}
	f.logs("tunnel recovered")
	l.accepts(issuer, before, l.mint(cluster))

	sshd.Print(t, "Forwarding HTTP traffic from https://other.example.com\n")
	sshd.EndSessions()
	f.logs("error: THE TUNNEL'S PUBLIC URL HAS CHANGED", laptop, "https://other.example.com", "--service-account-issuer=https://other.example.com")
	l.accepts(issuer, before)
	f.Stop()
	f.prints(laptop + "\n") // and nothing but that, ever
	if strings.Contains(f.Output(), "error: context canceled") {
		t.Errorf("the end looks like a failure:\n%s", f.Output())
	}
}

// TestServeTunnelThroughOwnServer: a plain sshd announces no URL; --issuer does, with a
// path. The documents of a directory are served at --listen too.
func TestServeTunnelThroughOwnServer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.must(cli.ExitDone, "publish", "--public-key", l.publicKey(), "--issuer", laptop+"/a", "--to", filepath.Join(l.dir, "public"), "--no-verify")
	sshd, flags := l.sshServer(testserver.SSHDOptions{})
	l.env = append(l.env, "SSH_AUTH_SOCK="+testserver.SSHAgent(t, sshd.KeyFile))
	flags = append(sshOptions([]string{"IdentityFile=none", "UserKnownHostsFile=" + sshd.KnownHosts(t, "ecdsa")}), flags[len(flags)-4:]...)
	s := l.serve(append(flags, "--issuer", laptop+"/a", "--dir", filepath.Join(l.dir, "public"))...)
	if got := s.awaitEvent("public_url", 1).URL; got != laptop+"/a" {
		t.Errorf("the public URL is %q", got)
	}
	s.awaitEvent("serving", 1)
	s.answers("/a/"+discovery.ConfigurationPath, http.StatusOK)
	eventually(t, 30*time.Second, "ready", func() error { return testserver.HTTPReady(http.DefaultClient, s.admin+"/readyz")(t.Context()) })
	if status, err := l.status(laptop + "/a"); err != nil || status != http.StatusOK {
		t.Errorf("through the tunnel: HTTP status %d, %v", status, err)
	}
	if got := readyFile(t, s.ready); got != laptop+"/a\n" {
		t.Errorf("the ready file says %q", got)
	}
}

// TestServeTunnelReadiness: who can't be reached at the issuer's URL is not
// ready, and lives.
func TestServeTunnelReadiness(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sshd, flags := l.sshServer(testserver.SSHDOptions{Prints: laptopSays})
	s := l.serve(append(flags, "--public-key", l.publicKey(), "--interval", "1s")...)
	s.awaitEvent("serving", 1)
	readiness := func(want int, text string) {
		t.Helper()
		eventually(t, 30*time.Second, "/readyz", func() error {
			resp, err := http.Get(s.admin + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err == nil && (resp.StatusCode != want || !strings.Contains(string(body), text)) {
				err = fmt.Errorf("HTTP status %d, %q, want %d, %q", resp.StatusCode, body, want, text)
			}
			return err
		})
		s.adminAnswers("/livez", http.StatusOK)
	}
	readiness(http.StatusOK, "")
	sshd.Stop()
	readiness(http.StatusServiceUnavailable, "the tunnel is down")
	s.answers("/"+discovery.ConfigurationPath, http.StatusOK) // at --listen
	if err := sshd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	readiness(http.StatusOK, "")

	sshd.Print(t, "Forwarding HTTP traffic from https://other.example.com\n")
	sshd.EndSessions()
	readiness(http.StatusServiceUnavailable, "the tunnel's public URL is no longer the issuer's")
	sshd.Print(t, laptopSays)
	sshd.EndSessions()
	readiness(http.StatusOK, "")
}

// publicKey is a file that an API server could have been given.
func (l *lab) publicKey() string {
	l.t.Helper()
	path := filepath.Join(l.dir, "sa.pub")
	if err := os.WriteFile(path, testserver.NewKubeKey(l.t, "RS256").PublicPEM(l.t), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// TestServeTunnelJSON: the events report the issuer too.
func TestServeTunnelJSON(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sshd, flags := l.sshServer(testserver.SSHDOptions{Prints: laptopSays})
	f := l.serveFar(sshd, append(flags, "--output", "json", "--public-key", l.publicKey())...)
	eventually(t, 30*time.Second, "serving", func() error {
		var names []string
		for text := range strings.Lines(f.printed()) {
			var e event
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				return err
			}
			if e.URL != "" && e.URL != laptop {
				t.Errorf("%s: %s", e.Event, e.URL)
			}
			names = append(names, e.Event)
		}
		if !slices.Contains(names, "public_url") || !slices.Contains(names, "serving") {
			return fmt.Errorf("the events are %v; stderr:\n%s", names, f.Output())
		}
		return nil
	})
	if status, err := l.status(laptop); err != nil || status != http.StatusOK {
		t.Errorf("HTTP status %d, %v", status, err)
	}
}

// TestServeTunnelFails: what is wrong at the start ends the program, with what
// fixes it.
func TestServeTunnelFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sshd, flags := l.sshServer(testserver.SSHDOptions{Prints: "Hello.\n"})
	empty, encrypted := filepath.Join(l.dir, "empty"), filepath.Join(l.dir, "encrypted")
	testserver.MakeSSHKey(t, encrypted, "ed25519", "passphrase")
	// ssh takes the first value of an option.
	with := func(options ...string) []string { return append(sshOptions(options), flags...) }
	server, known := flags[len(flags)-4:], "UserKnownHostsFile="+sshd.KnownHosts(t, "ed25519")
	source := []string{"--public-key", l.publicKey()}
	for _, c := range []struct {
		name string
		code int
		args []string
		says []string
	}{
		{"no such form", cli.ExitUsage, []string{"--tunnel", "localhost.run"}, []string{"--tunnel", "ssh://user@host"}},
		{"a password", cli.ExitUsage, []string{"--tunnel", "ssh://me:hunter2@host"}, []string{"password", "ssh-add"}},
		{"an option for a host", cli.ExitUsage, []string{"--tunnel", "ssh://-oProxyCommand=id"}, []string{"ssh://user@host"}},
		{"no tunnel", cli.ExitUsage, []string{"--issuer", laptop, "--tunnel-ssh-option", "IdentityFile=x"}, []string{"--tunnel-ssh-option needs --tunnel"}},
		{"no port", cli.ExitUsage, []string{"--tunnel", sshd.URL(), "--tunnel-bind", "x"}, []string{"--tunnel-bind", "ADDRESS:PORT"}},
		{"an option of its own", cli.ExitUsage, with("ControlMaster=yes"), []string{"--tunnel-ssh-option \"ControlMaster=yes\"", "by the tunnel itself"}},
		{"any host key", cli.ExitUsage, with("StrictHostKeyChecking=no"), []string{"host key must be checked"}},
		{"an unknown server", cli.ExitFailed, with("UserKnownHostsFile=" + empty), []string{"the host key of " + sshd.URL() + " is unknown", "accept it once with `ssh -T ", "-- " + sshd.User + "@127.0.0.1`"}},
		{"an encrypted key", cli.ExitFailed, append(sshOptions([]string{known, "IdentityFile=" + encrypted, "IdentitiesOnly=yes", "IdentityAgent=none"}), server...), []string{"passphrase", "`ssh-add`"}},
		{"a port that it may not have", cli.ExitFailed, append(slices.Clone(flags[:len(flags)-2]), "--tunnel-bind", "80"), []string{"refuses to forward port 80", "--tunnel-bind"}},
		{"no URL", cli.ExitFailed, append(slices.Clone(flags), "--timeout", "6s"), []string{
			"ssh: Hello.", "waiting: " + sshd.URL() + " announced no public URL yet: ", "error: --tunnel: " + sshd.URL() + " announced no public URL (context deadline exceeded): name it with --issuer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := l.in(t)
			got := l.must(c.code, append(append([]string{"serve"}, source...), c.args...)...)
			for _, want := range c.says {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("it does not say %q:\n%s", want, got.stderr)
				}
			}
			if got.stdout != "" || strings.Contains(got.stderr, "hunter2") {
				t.Errorf("it prints too much:\n%s%s", got.stdout, got.stderr)
			}
		})
	}
}

// TestServeTunnelNeedsSSH: without an ssh program it fails at once.
func TestServeTunnelNeedsSSH(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	got := l.runWith([]string{"PATH=" + t.TempDir()}, "serve", "--public-key", l.publicKey(), "--tunnel", "ssh://me@host.example.com")
	if got.code != cli.ExitFailed || !strings.Contains(got.stderr, "--tunnel: the tunnel needs the ssh program of OpenSSH") || got.stdout != "" {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
}

// TestServeTunnelEndsWithServe: ssh does not outlive a serve that is killed.
func TestServeTunnelEndsWithServe(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, flags := l.sshServer(testserver.SSHDOptions{})
	bind := "127.0.0.1:" + flags[len(flags)-1]
	s := l.serve(append(flags, "--issuer", laptop, "--public-key", l.publicKey())...)
	eventually(t, 30*time.Second, "ready", func() error { return testserver.HTTPReady(http.DefaultClient, s.admin+"/readyz")(t.Context()) })
	if err := s.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the end of the forward", func() error {
		listener, err := net.Listen("tcp", bind)
		if err != nil {
			return err
		}
		return listener.Close()
	})
}

// TestServeTunnelAsks: ssh asks on the terminal about a server that it does not
// know. `script` gives it one.
func TestServeTunnelAsks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sshd, flags := l.sshServer(testserver.SSHDOptions{Prints: laptopSays})
	known := filepath.Join(l.dir, "hosts")
	args := append(append([]string{built, "serve", "--public-key", l.publicKey(), "--tunnel-ssh-option", "UserKnownHostsFile=" + known}, flags...), "--interval", "1s")
	for _, c := range []struct {
		answer string
		code   int
		says   string
	}{
		{"no", cli.ExitFailed, "is unknown"},
		{"yes", cli.ExitDone, laptop + "\r\n"},
	} {
		t.Run(c.answer, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, testserver.Require(t, "script"), "--quiet", "--return", "--command", "exec "+strings.Join(args, " "), "/dev/null")
			cmd.Env, cmd.Dir = l.env, l.dir
			keyboard, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			screen, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var seen strings.Builder
			until := func(text string) bool {
				buf := make([]byte, 1)
				for !strings.Contains(seen.String(), text) {
					if n, err := screen.Read(buf); n == 0 && err != nil {
						return false
					}
					seen.Write(buf)
				}
				return true
			}
			if !until("(yes/no/[fingerprint])? ") || !strings.Contains(seen.String(), sshd.Fingerprint(t)) {
				t.Fatalf("it does not ask:\n%s", &seen)
			}
			fmt.Fprintln(keyboard, c.answer)
			if !until(c.says) {
				t.Fatalf("after %q it does not say %q:\n%s", c.answer, c.says, &seen)
			}
			if c.code == cli.ExitDone {
				fmt.Fprint(keyboard, "\x03") // ^C
			}
			for until("\x00") { // read on to the end
			}
			err = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d (%v), want %d:\n%s", got, err, c.code, &seen)
			}
			if _, err := os.Stat(known); (err == nil) != (c.code == cli.ExitDone) {
				t.Errorf("what is remembered: %v", err)
			}
			if strings.Contains(seen.String(), "tunnel failed") {
				t.Errorf("the interrupt looks like a failure:\n%s", &seen)
			}
		})
	}
}

// TestServeTunnelTLS: where TLS ends here, the SSH server passes on what it can
// neither read nor forge.
func TestServeTunnelTLS(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	site := httptest.NewTLSServer(nil) // for its certificate and the client that trusts it
	site.Close()
	key, err := x509.MarshalPKCS8PrivateKey(site.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{filepath.Join(l.dir, "tls.crt"), filepath.Join(l.dir, "tls.key")}
	if err := errors.Join(
		os.WriteFile(files[0], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.Certificate().Raw}), 0o600),
		os.WriteFile(files[1], pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)); err != nil {
		t.Fatal(err)
	}
	sshd, flags := l.sshServer(testserver.SSHDOptions{})
	f := l.serveFar(sshd, append(flags, "--issuer", "https://example.com", "--public-key", l.publicKey(), "--tls-cert", files[0], "--tls-key", files[1])...)
	f.logs("documents served")
	var resp *http.Response
	eventually(t, 30*time.Second, "the tunnel", func() (err error) {
		resp, err = site.Client().Get("https://127.0.0.1:" + flags[len(flags)-1] + "/" + discovery.ConfigurationPath)
		return err
	})
	defer resp.Body.Close()
	var document struct{ Issuer string }
	if err := json.NewDecoder(resp.Body).Decode(&document); err != nil || document.Issuer != "https://example.com" {
		t.Errorf("HTTP status %d, %+v, %v", resp.StatusCode, document, err)
	}
	f.prints("https://example.com\n")
}
