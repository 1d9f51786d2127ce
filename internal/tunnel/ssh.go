package tunnel

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// fixed are options on which the tunnel depends. They come first, because ssh
// uses the first value of each.
var fixed = []string{
	"ControlMaster=no", "ControlPath=none", // a shared connection would outlive this process
	"RemoteCommand=none", "ForkAfterAuthentication=no", "StdinNull=no",
	"ExitOnForwardFailure=yes", "ClearAllForwardings=no",
	"NoHostAuthenticationForLocalhost=no", // an unknown local server may be a tunnel to another
	"PermitLocalCommand=no",               // its output would be read as the server's
	"LogVerbose=*" + confirmForward + "*", // logs at any level that the forward succeeded
}

// confirmForward is the function of ssh that logs how the server answered the
// request for a forward, and logPlace what LogVerbose puts before its lines.
const confirmForward = "ssh_confirm_remote_forward"

var logPlace = regexp.MustCompile(`^(debug\d: )?[a-z0-9.]+:` + confirmForward + `\(\):\d+ \(pid=\d+\): `)

// defaults come after the user's options, which win. They replace what ssh's
// configuration says.
var defaults = []string{
	"ServerAliveInterval=5", "ServerAliveCountMax=2", "ConnectTimeout=20",
	"LogLevel=INFO", // at this level ssh says why it failed
}

// reserved are the keys that the user may not set.
var reserved = []string{
	"controlmaster", "controlpath", "controlpersist", "remotecommand", "forkafterauthentication", "stdinnull",
	"exitonforwardfailure", "clearallforwardings", "remoteforward", "batchmode", "requesttty", "sessiontype",
	"logverbose", "nohostauthenticationforlocalhost", "verifyhostkeydns", "knownhostscommand", "permitlocalcommand", "localcommand",
}

var optionForm = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9]*)=([^\pC]+)$`)

// CheckOption refuses an option of ssh, KEY=VALUE, that the tunnel depends on or
// that would accept any host key.
func CheckOption(option string) error {
	parts := optionForm.FindStringSubmatch(option)
	if parts == nil {
		return errors.New("it must be KEY=VALUE, such as IdentityFile=~/.ssh/id_ed25519")
	}
	key, value := strings.ToLower(parts[1]), strings.ToLower(strings.Trim(parts[2], `" `))
	switch {
	case slices.Contains(reserved, key):
		return fmt.Errorf("%s is set by the tunnel itself", parts[1])
	case key == "stricthostkeychecking" && value != "yes" && value != "ask":
		return errors.New("the server's host key must be checked: anyone in between could answer as the issuer")
	}
	return nil
}

// find finds the ssh program.
func find() (path string, err error) {
	if path, err = exec.LookPath("ssh"); err != nil {
		return "", fmt.Errorf("the tunnel needs the ssh program of OpenSSH (Debian: openssh-client): %w", err)
	}
	return path, nil
}

// arguments returns the arguments of ssh, without its name.
func (c Config) arguments(interactive bool) []string {
	args := []string{"-T"}
	options := slices.Clone(fixed)
	if c.Session {
		options = append(options, "SessionType=default")
	} else {
		args = append(args, "-N")
	}
	check := "StrictHostKeyChecking=ask"
	if !interactive {
		options = append(options, "BatchMode=yes")
		check = "StrictHostKeyChecking=yes"
	}
	for _, option := range slices.Concat(options, c.Options, []string{check}, defaults) {
		args = append(args, "-o", option)
	}
	args = append(args, "-R", c.Bind.String()+":"+c.Target)
	return append(args, c.Server.arguments()...)
}

// loginCommand returns the command that a person runs once to accept a host key
// or to see why a login fails.
func (c Config) loginCommand() string {
	command := "ssh -T"
	for _, option := range c.Options {
		command += " -o " + quoted(option)
	}
	for _, arg := range c.Server.arguments() {
		command += " " + quoted(arg)
	}
	return command
}

var plain = regexp.MustCompile(`^[A-Za-z0-9@%+=:,./_~-]+$`)

// quoted returns an argument in a form that a POSIX shell reads.
func quoted(arg string) string {
	if plain.MatchString(arg) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// forwardRefused reports whether the server refused to forward.
func forwardRefused(stderr []string) bool {
	return slices.ContainsFunc(stderr, func(line string) bool { return strings.Contains(line, "remote port forwarding failed") })
}

// explain returns an error that says why ssh ended, with the command that fixes
// it. lasting is set if another attempt would fail in the same way.
func (c Config) explain(ended error, stderr []string) (lasting bool, err error) {
	line := func(words string) string {
		for _, text := range stderr {
			if strings.Contains(text, words) {
				return text
			}
		}
		return ""
	}
	switch {
	case line("HOST IDENTIFICATION HAS CHANGED") != "":
		return true, fmt.Errorf("the host key of %s has changed, so someone may be in between: if its operator confirms the new key, remove the old one (%s) and accept the new one once with `%s`",
			c.Server, line("Offending"), c.loginCommand())
	case line("REVOKED HOST KEY") != "":
		return true, fmt.Errorf("the host key of %s is revoked in your known hosts", c.Server)
	case line("Host key verification failed") != "":
		return true, fmt.Errorf("the host key of %s is unknown: compare its fingerprint and accept it once with `%s`", c.Server, c.loginCommand())
	case line("Permission denied") != "":
		return true, fmt.Errorf("%s refuses the login (%s): if your key has a passphrase, add it to an agent once with `ssh-add`; `%s` shows whether the login works",
			c.Server, line("Permission denied"), c.loginCommand())
	case forwardRefused(stderr):
		return true, fmt.Errorf("%s refuses to forward port %s: it may be in use (by a connection that the server still holds, for example), below 1024 or not allowed (AllowTcpForwarding and PermitListen of sshd); --tunnel-bind asks for another",
			c.Server, c.Bind)
	case line("Bad configuration option") != "":
		return true, fmt.Errorf("ssh does not know an option, which needs OpenSSH 8.7 or later: %s", line("Bad configuration option"))
	case len(stderr) > 0:
		return false, fmt.Errorf("ssh to %s ended: %s", c.Server, stderr[len(stderr)-1])
	case ended == nil && c.Session:
		return false, fmt.Errorf("%s ended the session", c.Server)
	case ended == nil:
		return false, fmt.Errorf("ssh to %s ended", c.Server)
	}
	return false, fmt.Errorf("ssh to %s ended: %w", c.Server, ended)
}
