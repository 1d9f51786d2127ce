package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Server is an SSH server and the user who logs in there.
type Server struct {
	// User may be empty: then ssh's configuration names the user, or it is the
	// user who runs the program.
	User string
	// Host is a name, an address, or a Host of ssh's configuration.
	Host string
	// Port may be 0: then ssh's configuration names it, or it is 22.
	Port int
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	// userName has no character that a shell would interpret: ssh's configuration
	// may pass the name to a command.
	userName = regexp.MustCompile("^([^\\s\\pC'\"`;&<>|(){}$\\\\-][^\\s\\pC'\"`;&<>|(){}$\\\\]*)?$")
)

// ParseServer reads ssh://[user@]host[:port]. A password is refused, because
// everyone on the machine can read a command line.
func ParseServer(text string) (Server, error) {
	const form = "it must be ssh://user@host or ssh://user@host:port"
	u, err := url.Parse(text)
	if err != nil {
		return Server{}, errors.New(form) // url's own error would repeat a password
	}
	if _, secret := u.User.Password(); secret {
		return Server{}, errors.New("it contains a password: use a key (ssh-add, or IdentityFile in ssh's configuration)")
	}
	if u.Scheme != "ssh" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return Server{}, errors.New(form)
	}
	s := Server{User: u.User.Username(), Host: u.Hostname()}
	// ssh would read a host that begins with - as an option.
	if net.ParseIP(s.Host) == nil && !hostName.MatchString(s.Host) || !userName.MatchString(s.User) {
		return Server{}, errors.New(form)
	}
	if u.Port() != "" {
		if s.Port, err = strconv.Atoi(u.Port()); err != nil || s.Port < 1 || s.Port > 65535 {
			return Server{}, fmt.Errorf("the port %q is not valid: %s", u.Port(), form)
		}
	}
	return s, nil
}

// String is the URL.
func (s Server) String() string {
	u := url.URL{Scheme: "ssh", Host: s.Host}
	if strings.Contains(s.Host, ":") {
		u.Host = "[" + s.Host + "]"
	}
	if s.Port != 0 {
		u.Host = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	}
	if s.User != "" {
		u.User = url.User(s.User)
	}
	return u.String()
}

// arguments returns the arguments that name the server to ssh.
func (s Server) arguments() []string {
	var args []string
	if s.Port != 0 {
		args = append(args, "-p", strconv.Itoa(s.Port))
	}
	destination := s.Host
	if s.User != "" {
		destination = s.User + "@" + s.Host
	}
	return append(args, "--", destination)
}

// Bind is where the server is asked to listen. What the address means is up to
// the server: an interface to sshd (with GatewayPorts), a name to the tunnel
// services.
type Bind struct {
	// Address is empty for the server's default, which is loopback with sshd.
	Address string
	// Port is 0 if the server chooses one.
	Port int
}

var bindName = regexp.MustCompile(`^(\*|[A-Za-z0-9_][A-Za-z0-9._-]*)$`)

// ParseBind reads [ADDRESS:]PORT, as in `ssh -R`.
func ParseBind(text string) (Bind, error) {
	const form = "it must be PORT or ADDRESS:PORT"
	address, port := "", text
	if strings.Contains(text, ":") {
		var err error
		if address, port, err = net.SplitHostPort(text); err != nil {
			return Bind{}, errors.New(form)
		}
		if address == "" {
			address = "*" // as ssh reads it
		}
		if net.ParseIP(address) == nil && !bindName.MatchString(address) {
			return Bind{}, errors.New(form)
		}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Bind{}, errors.New(form)
	}
	return Bind{Address: address, Port: int(number)}, nil
}

// String returns the form that ParseBind reads.
func (b Bind) String() string {
	if b.Address == "" {
		return strconv.Itoa(b.Port)
	}
	return net.JoinHostPort(b.Address, strconv.Itoa(b.Port))
}
