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

// Server is an SSH server and who logs in there.
type Server struct {
	// User may be empty: the caller knows who runs the program.
	User string
	Host string
	Port int
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// ParseServer reads ssh://[user@]host[:port]. There is no place for a
// password in it: what stands on a command line is no secret.
func ParseServer(text string) (Server, error) {
	const form = "it must be ssh://user@host or ssh://user@host:port"
	u, err := url.Parse(text)
	if err != nil {
		return Server{}, errors.New(form) // url's own error would repeat a password
	}
	if _, secret := u.User.Password(); secret {
		return Server{}, errors.New("it has a password in it: use a key (--tunnel-key, or ssh-add)")
	}
	if u.Scheme != "ssh" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return Server{}, errors.New(form)
	}
	s := Server{User: u.User.Username(), Host: u.Hostname(), Port: 22}
	if net.ParseIP(s.Host) == nil && !hostName.MatchString(s.Host) || s.User != clean([]byte(s.User)) || strings.HasPrefix(s.User, "-") {
		return Server{}, errors.New(form)
	}
	if u.Port() != "" {
		if s.Port, err = strconv.Atoi(u.Port()); err != nil || s.Port < 1 || s.Port > 65535 {
			return Server{}, fmt.Errorf("the port %q is none: %s", u.Port(), form)
		}
	}
	return s, nil
}

// Address is the host and port.
func (s Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// String is the URL.
func (s Server) String() string {
	u := url.URL{Scheme: "ssh", Host: s.Host}
	if strings.Contains(s.Host, ":") {
		u.Host = "[" + s.Host + "]"
	}
	if s.Port != 22 {
		u.Host = s.Address()
	}
	if s.User != "" {
		u.User = url.User(s.User)
	}
	return u.String()
}

// Bind is where the server is asked to listen. What the address means is the
// server's business: an interface to sshd (with GatewayPorts), a name to the
// tunnel services.
type Bind struct {
	Address string
	Port    int
}

// ParseBind reads [ADDRESS:]PORT. Without an address it is localhost, as with
// `ssh -R PORT:…`; sshd then decides by its GatewayPorts.
func ParseBind(text string) (Bind, error) {
	const form = "it must be PORT or ADDRESS:PORT"
	address, port := "localhost", text
	if strings.Contains(text, ":") {
		var err error
		if address, port, err = net.SplitHostPort(text); err != nil {
			return Bind{}, errors.New(form)
		}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Bind{}, errors.New(form)
	}
	return Bind{Address: address, Port: int(number)}, nil
}

// String is what ParseBind reads.
func (b Bind) String() string { return net.JoinHostPort(b.Address, strconv.Itoa(b.Port)) }
