package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// link is one SSH connection with its forward.
type link struct {
	raw    net.Conn
	client *ssh.Client
	// bound is what the server listens at.
	bound Bind
	// over is closed when the connection has ended, silent when the server can
	// say nothing more in it.
	over, silent chan struct{}
}

// bindMessage is the payload of tcpip-forward (RFC 4254, 7.1). It is sent by
// hand: the library would resolve the address, which is a name to the services.
type bindMessage struct {
	Address string
	Port    uint32
}

// connect makes the SSH connection and asks for the forward, all within the
// time that the configuration gives. The server's text goes to said.
func (t *Tunnel) connect(ctx context.Context, said *speech) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, t.config.ConnectTimeout)
	defer cancel()
	l, err := t.logIn(ctx, said)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	arrivals := l.client.HandleChannelOpen("forwarded-tcpip")
	if err := l.forward(t.config.Server, t.wanted()); err != nil {
		l.close()
		return nil, errors.Join(ctx.Err(), err)
	}
	go t.receive(arrivals)
	go func() {
		_ = l.client.Wait()
		close(l.over)
	}()
	go func() { // the forward is there, whatever the server makes of a session
		defer close(l.silent)
		defer said.flush()
		l.listenTo(said)
	}()
	return l, nil
}

// logIn tries the families of host key algorithms in turn where the key is
// pinned by its fingerprint, until the server shows the right one.
func (t *Tunnel) logIn(ctx context.Context, said io.Writer) (*link, error) {
	id, err := newIdentity(ctx, t.config)
	if err != nil {
		return nil, err
	}
	defer id.close()
	check, algorithms, err := t.hostKeys.check(t.config.Server.Address())
	if err != nil {
		return nil, err
	}
	groups := [][]string{algorithms}
	switch {
	case t.hostKeys.family != nil:
		groups = [][]string{t.hostKeys.family}
	case t.hostKeys.pin != "":
		groups = families(algorithms)
	}
	var shown []*ChangedHostError
	for _, group := range groups {
		l, err := t.handshake(ctx, id, check, group, said)
		var changed *ChangedHostError
		var none *ssh.AlgorithmNegotiationError
		switch {
		case errors.As(err, &changed):
			shown = append(shown, changed)
		case len(groups) > 1 && errors.As(err, &none) && none.What == "host key":
		default:
			if err == nil && t.hostKeys.pin != "" {
				t.hostKeys.family = group
			}
			return l, err
		}
	}
	if len(shown) == 0 {
		return nil, fmt.Errorf("%s has no host key of a type that this program supports", t.config.Server.Address())
	}
	for _, other := range shown[1:] {
		shown[0].Shown += ", " + other.Shown
	}
	return nil, shown[0]
}

func (t *Tunnel) handshake(ctx context.Context, id identity, check ssh.HostKeyCallback, algorithms []string, said io.Writer) (*link, error) {
	server := t.config.Server
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Address())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	var refused error
	met := false // the server has proved who it is
	config := &ssh.ClientConfig{
		User: server.User,
		Auth: id.methods(func(text string) { _, _ = io.WriteString(said, text) }),
		HostKeyCallback: func(address string, remote net.Addr, key ssh.PublicKey) error {
			refused = check(address, remote, key)
			met = refused == nil
			return refused
		},
		HostKeyAlgorithms: algorithms,
		BannerCallback: func(text string) error {
			_, _ = io.WriteString(said, text+"\n")
			return nil
		},
	}
	conn, channels, requests, err := ssh.NewClientConn(raw, server.Address(), config)
	switch {
	case err == nil:
		return &link{raw: raw, client: ssh.NewClient(conn, channels, requests), over: make(chan struct{}), silent: make(chan struct{})}, nil
	case refused != nil:
		return nil, refused
	case ctx.Err() != nil:
		return nil, fmt.Errorf("log in to %s: no answer: %w", server, ctx.Err())
	case met && !errors.Is(err, io.EOF) && !isNetwork(err):
		return nil, loginError(server, id, err)
	default:
		return nil, fmt.Errorf("log in to %s: %w", server, remoteError(err))
	}
}

func isNetwork(err error) bool {
	var network net.Error
	return errors.As(err, &network)
}

// loginError is a login that the server refused. Its reason is worth a word
// where it gave one.
func loginError(server Server, id identity, err error) error {
	reason := ""
	if strings.Contains(err.Error(), "disconnect") {
		reason = " (" + remoteError(err).Error() + ")"
	}
	return fmt.Errorf("%s does not let %q in with %s%s: name the right key with --tunnel-key (a .pub file picks one of the agent's) and the right user in ssh://USER@…",
		server, server.User, id.tried, reason)
}

// remoteError keeps a server's words in an error short and harmless, and the
// errors that can be told apart.
func remoteError(err error) error {
	var negotiation *ssh.AlgorithmNegotiationError
	if errors.As(err, &negotiation) || errors.Is(err, io.EOF) {
		return err
	}
	return errors.New(shorten(clean([]byte(err.Error()))))
}

// forward asks for the first of the addresses that the server grants.
func (l *link) forward(server Server, wanted []Bind) error {
	for _, bind := range wanted {
		ok, reply, err := l.client.SendRequest("tcpip-forward", true, ssh.Marshal(&bindMessage{bind.Address, uint32(bind.Port)})) //nolint:gosec // a port
		if err != nil {
			return fmt.Errorf("ask %s for the forward of %s: %w", server, bind, remoteError(err))
		}
		if !ok {
			continue
		}
		l.bound = bind
		var chosen struct{ Port uint32 }
		if bind.Port == 0 && ssh.Unmarshal(reply, &chosen) == nil && chosen.Port <= 65535 {
			l.bound.Port = int(chosen.Port)
		}
		return nil
	}
	return fmt.Errorf("%s refuses to forward %s: the port may be taken (by a connection that it has not given up yet, say), below 1024, or not allowed (AllowTcpForwarding and PermitListen of sshd); --tunnel-bind asks for another", server, wanted[len(wanted)-1])
}

// listenTo opens the session in which the tunnel services print the public URL
// and without which some end the tunnel, and returns when it has ended. One's
// own sshd may refuse it.
func (l *link) listenTo(said io.Writer) {
	session, err := l.client.NewSession()
	if err != nil {
		return
	}
	session.Stdout, session.Stderr = said, said
	if _, err := session.StdinPipe(); err != nil { // stays open: services take its end for a farewell
		return
	}
	if session.Shell() == nil { // refused: then there is nothing to hear
		_ = session.Wait()
	}
}

// watch returns why the connection ended, or nil once ctx has. A server that
// owes an answer for too long is dead.
func (l *link) watch(ctx context.Context, every, timeout time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.over:
			return errors.New("the connection ended")
		case <-tick.C:
		}
		answered := make(chan struct{})
		go func() { // ends with the connection at the latest
			defer close(answered)
			_, _, _ = l.client.SendRequest("keepalive@openssh.com", true, nil)
		}()
		late := time.NewTimer(timeout)
		select {
		case <-answered:
			late.Stop()
		case <-ctx.Done():
			late.Stop()
			return nil
		case <-late.C:
			return fmt.Errorf("no sign of life for %v", timeout)
		}
	}
}

func (l *link) close() { _ = l.raw.Close() }

// wanted is what to ask for: where the server was to choose the port, the one
// that it chose before comes first.
func (t *Tunnel) wanted() []Bind {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := []Bind{t.bound, t.config.Bind}
	if t.bound == (Bind{}) || t.bound == t.config.Bind {
		wanted = wanted[1:]
	}
	return slices.Clip(wanted)
}

// receive takes connections in until the link ends.
func (t *Tunnel) receive(arrivals <-chan ssh.NewChannel) {
	for arrival := range arrivals {
		var f forwarded
		if err := ssh.Unmarshal(arrival.ExtraData(), &f); err != nil {
			_ = arrival.Reject(ssh.ConnectionFailed, "")
			continue
		}
		if len(t.conns) == cap(t.conns) {
			_ = arrival.Reject(ssh.ResourceShortage, "busy")
			continue
		}
		channel, requests, err := arrival.Accept()
		if err != nil {
			continue // the link is gone, and the loop with it
		}
		go ssh.DiscardRequests(requests)
		c := newConn(channel, f)
		select {
		case t.conns <- c:
		default:
			_ = c.Close()
		}
	}
}
