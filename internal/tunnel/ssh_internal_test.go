package tunnel

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestArguments: what the tunnel depends on comes before what the user asks for,
// as ssh takes the first value, and the destination comes last.
func TestArguments(t *testing.T) {
	c := Config{
		Server: Server{User: "ada", Host: "tunnel.example.com", Port: 2222}, Bind: Bind{Address: "*", Port: 80}, Target: "127.0.0.1:8080",
		Options: []string{"ServerAliveInterval=60"},
	}
	args := strings.Join(c.arguments(false), " ")
	const options = "-o ControlMaster=no -o ControlPath=none -o RemoteCommand=none -o ForkAfterAuthentication=no -o StdinNull=no -o ExitOnForwardFailure=yes -o ClearAllForwardings=no -o NoHostAuthenticationForLocalhost=no -o PermitLocalCommand=no -o LogVerbose=*ssh_confirm_remote_forward*"
	const rest = " -o ServerAliveInterval=60 -o StrictHostKeyChecking=CHECK -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o ConnectTimeout=20 -o LogLevel=INFO -R *:80:127.0.0.1:8080 -p 2222 -- ada@tunnel.example.com"
	if want := "-T -N " + options + " -o BatchMode=yes" + strings.Replace(rest, "CHECK", "yes", 1); args != want {
		t.Errorf("arguments are\n%s\nwant\n%s", args, want)
	}
	c.Session = true
	args = strings.Join(c.arguments(true), " ")
	if want := "-T " + options + " -o SessionType=default" + strings.Replace(rest, "CHECK", "ask", 1); args != want {
		t.Errorf("arguments are\n%s\nwant\n%s", args, want)
	}
	c.Server, c.Options = Server{Host: "2001:db8::1"}, nil
	if args := c.arguments(true); !slices.Equal(args[len(args)-2:], []string{"--", "2001:db8::1"}) || slices.Contains(args, "-p") {
		t.Errorf("arguments are %q", args)
	}
}

// TestExplain: an error of ssh becomes one line with what to do.
func TestExplain(t *testing.T) {
	c := Config{Server: Server{User: "ada", Host: "tunnel.example.com", Port: 2222}, Bind: Bind{Port: 80}, Options: []string{"IdentityFile=my key"}}
	exit := errors.New("exit status 255")
	const login = "`ssh -T -o 'IdentityFile=my key' -p 2222 -- ada@tunnel.example.com`"
	for _, tc := range []struct {
		name    string
		ended   error
		stderr  []string
		says    []string
		lasting bool
	}{
		{"unknown host", exit, []string{"Host key verification failed."}, []string{"unknown", login}, true},
		{"changed host", exit, []string{"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @", "Offending ED25519 key in /k:1", "Host key verification failed."}, []string{"in between", "Offending ED25519 key in /k:1", login}, true},
		{"revoked host", exit, []string{"@       WARNING: REVOKED HOST KEY DETECTED!               @", "Host key verification failed."}, []string{"revoked"}, true},
		{"login", exit, []string{"Welcome.", "ada@tunnel.example.com: Permission denied (publickey)."}, []string{"Permission denied (publickey)", "ssh-add", login}, true},
		{"forward", exit, []string{"Error: remote port forwarding failed for listen port 80"}, []string{"forward port 80", "--tunnel-bind", "AllowTcpForwarding"}, true},
		{"old ssh", exit, []string{"command-line: line 0: Bad configuration option: forkafterauthentication"}, []string{"8.7", "forkafterauthentication"}, true},
		{"network", exit, []string{"ssh: connect to host tunnel.example.com port 2222: Connection refused"}, []string{"ssh to ssh://ada@tunnel.example.com:2222 ended", "Connection refused"}, false},
		{"session", nil, nil, []string{"ended the session"}, false},
		{"silence", exit, nil, []string{"exit status 255"}, false},
	} {
		c.Session = tc.ended == nil
		lasting, err := c.explain(tc.ended, tc.stderr)
		for _, text := range tc.says {
			if !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, want %q", tc.name, err, text)
			}
		}
		if lasting != tc.lasting {
			t.Errorf("%s: lasting is %v", tc.name, lasting)
		}
	}
}
