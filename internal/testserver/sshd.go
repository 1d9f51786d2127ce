package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// SSHDOptions are the settings of a real OpenSSH server. The zero value lets
// the user in with the key and forwards from the server's loopback address.
type SSHDOptions struct {
	// Config are more lines of sshd_config. They win over those set here.
	Config []string
	// Prints is what each session prints before it waits for the client to end
	// it, as public tunnel services do. SSHD.Print changes it.
	Prints string
	// Ends lets each session end by itself after that.
	Ends bool
}

// SSHD is a real OpenSSH server on 127.0.0.1. It runs as an ordinary user, who
// is also the one user that can log in.
type SSHD struct {
	*Process
	// Address is the host and port, User who can log in.
	Address, User string
	// KeyFile is the private key that is let in, without a passphrase; its
	// public half is beside it (.pub).
	KeyFile string

	dir  string
	port int
}

// StartSSHD starts the server and ends it, and every session, with the test.
// It needs sshd and ssh-keygen on PATH.
func StartSSHD(t testing.TB, options SSHDOptions) *SSHD {
	t.Helper()
	binary, keygen := Require(t, "sshd"), Require(t, "ssh-keygen")
	dir, err := os.MkdirTemp("", "sshd-") //nolint:usetesting // the server's user could not enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &SSHD{dir: dir, port: FreePort(t), KeyFile: filepath.Join(t.TempDir(), "id_ed25519")}
	s.Address = fmt.Sprintf("127.0.0.1:%d", s.port)
	MakeSSHKey(t, s.KeyFile, "ed25519", "")
	for _, kind := range []string{"ed25519", "ecdsa"} {
		run(t, keygen, "-q", "-t", kind, "-N", "", "-C", "", "-f", s.hostKey(kind))
	}
	copyFile(t, s.KeyFile+".pub", filepath.Join(dir, "authorized_keys"))
	s.Print(t, options.Prints)
	session := "#!/bin/sh\ncat " + filepath.Join(dir, "prints") + "\n"
	if !options.Ends {
		session += "exec cat >/dev/null\n"
	}
	s.write(t, "session", session, 0o755)
	config := append(slices.Clone(options.Config),
		"ListenAddress "+s.Address, "HostKey "+s.hostKey("ed25519"), "HostKey "+s.hostKey("ecdsa"), "PidFile none",
		"AuthorizedKeysFile "+filepath.Join(dir, "authorized_keys"), "StrictModes no", "AddressFamily inet", "UsePAM no", "PasswordAuthentication no",
		"AllowTcpForwarding remote", "GatewayPorts no", "ForceCommand "+filepath.Join(dir, "session"), "LogLevel VERBOSE", "MaxStartups 100")
	s.write(t, "sshd_config", strings.Join(config, "\n")+"\n", 0o644)
	command := Command{Name: "sshd", Path: binary, Args: []string{"-D", "-e", "-f", filepath.Join(dir, "sshd_config")}, Dir: dir, Ready: TCPReady(s.Address)}
	if os.Getuid() == 0 {
		s.asNobody(t, &command)
	} else {
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		s.User = me.Username
	}
	s.Process = Start(t, command)
	t.Cleanup(s.Stop)
	return s
}

// asNobody makes the server an ordinary user's. Root's would want a user sshd
// and /run/sshd, and ordinary users of a machine may have no shell: in a mount
// namespace of its own it sees a user database with one that has.
func (s *SSHD) asNobody(t testing.TB, command *Command) {
	t.Helper()
	const id = "65534"
	s.User = "tunnel"
	passwd := s.write(t, "passwd", "root:x:0:0::/:/bin/sh\ntunnel:x:"+id+":"+id+"::"+s.dir+":/bin/sh\n", 0o644)
	group := s.write(t, "group", "root:x:0:\ntunnel:x:"+id+":\n", 0o644)
	number, err := strconv.Atoi(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, _ error) error { return os.Chown(path, number, number) }); err != nil {
		t.Fatal(err)
	}
	unshare := Require(t, "unshare")
	if out, err := exec.CommandContext(t.Context(), unshare, "--mount", "mount", "--bind", passwd, "/etc/passwd").CombinedOutput(); err != nil {
		Missing(t, fmt.Sprintf("root may not mount here, which an sshd for tests needs; an ordinary user needs nothing: %v: %s", err, out))
	}
	script := `mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/group && shift 2 &&
exec setpriv --reuid=` + id + ` --regid=` + id + ` --clear-groups --pdeathsig=KILL "$@"`
	command.Args = append([]string{"--mount", "sh", "-c", script, "sh", passwd, group, command.Path}, command.Args...)
	command.Path = unshare
}

// Print changes what new sessions print.
func (s *SSHD) Print(t testing.TB, text string) {
	t.Helper()
	s.write(t, "prints", text, 0o644)
}

func (s *SSHD) write(t testing.TB, name, content string, mode os.FileMode) (path string) {
	t.Helper()
	path = filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *SSHD) hostKey(kind string) string { return filepath.Join(s.dir, "host_"+kind) }

// URL is how a client names the server.
func (s *SSHD) URL() string { return "ssh://" + s.User + "@" + s.Address }

// KnownHosts writes the host key of a kind, ed25519 or ecdsa, into a known_hosts
// file for the test.
func (s *SSHD) KnownHosts(t testing.TB, kind string) (path string) {
	t.Helper()
	key, err := os.ReadFile(s.hostKey(kind) + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(s.Address, ":")
	path = filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(path, fmt.Appendf(nil, "[%s]:%s %s", host, port, key), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ClientOptions are the options of ssh, KEY=VALUE, with which it logs in and
// knows the server.
func (s *SSHD) ClientOptions(t testing.TB) []string {
	t.Helper()
	return []string{"IdentityFile=" + s.KeyFile, "IdentitiesOnly=yes", "UserKnownHostsFile=" + s.KnownHosts(t, "ed25519"), "GlobalKnownHostsFile=none"}
}

// Fingerprint is that of the ed25519 host key.
func (s *SSHD) Fingerprint(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), Require(t, "ssh-keygen"), "-lf", s.hostKey("ed25519")+".pub").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 2 {
		t.Fatalf("ssh-keygen -l: %v: %s", err, out)
	}
	return fields[1]
}

// ReplaceHostKeys makes new ones; the next start reads them.
func (s *SSHD) ReplaceHostKeys(t testing.TB) {
	t.Helper()
	for _, kind := range []string{"ed25519", "ecdsa"} {
		path := s.hostKey(kind)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(path)
		os.Remove(path + ".pub")
		run(t, Require(t, "ssh-keygen"), "-q", "-t", kind, "-N", "", "-C", "", "-f", path)
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			os.Chown(path, int(owner.Uid), int(owner.Gid))
		}
	}
}

// Stop ends the listening process and every session: by itself sshd would let
// the sessions live on.
func (s *SSHD) Stop() {
	sessions := s.sessions()
	s.Process.Stop()
	killAll(sessions)
}

// EndSessions kills the processes that serve connections, and not the one that
// listens. It returns how many there were.
func (s *SSHD) EndSessions() int { return killAll(s.sessions()) }

func killAll(pids []int) (killed int) {
	for _, pid := range pids {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// sessions are the descendants of the listening process.
func (s *SSHD) sessions() (pids []int) {
	listener := s.Pid()
	if listener == 0 {
		return nil
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent …: the name may hold anything.
		text := string(data)
		fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
		pid, err := strconv.Atoi(strings.Fields(text)[0])
		parent, err2 := strconv.Atoi(fields[1])
		if err == nil && err2 == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	for next := children[listener]; len(next) > 0; next = next[1:] {
		pids = append(pids, next[0])
		next = append(next, children[next[0]]...)
	}
	return pids
}

// MakeSSHKey makes a key with ssh-keygen, and its public half beside it.
func MakeSSHKey(t testing.TB, path, kind, passphrase string) {
	t.Helper()
	run(t, Require(t, "ssh-keygen"), "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", path)
}

// SSHAgent starts ssh-agent with keys in it, ends it with the test, and
// returns its socket. It needs ssh-agent and ssh-add on PATH.
func SSHAgent(t testing.TB, keyFiles ...string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	Start(t, Command{Name: "ssh-agent", Path: Require(t, "ssh-agent"), Args: []string{"-D", "-a", socket}, Ready: UnixReady(socket)})
	for _, file := range keyFiles {
		cmd := exec.CommandContext(t.Context(), Require(t, "ssh-add"), "-q", file)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v: %s", err, out)
		}
	}
	return socket
}

func run(t testing.TB, path string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", filepath.Base(path), err, out)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
