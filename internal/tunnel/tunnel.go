package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Config says how a tunnel is made. Server, Bind and Log are necessary.
type Config struct {
	Server Server
	Bind   Bind

	// KeyFile is a private key without a passphrase, or a public key whose
	// private half the agent holds. If it is empty, the agent's keys and those
	// of DefaultKeys that can be read are tried.
	KeyFile     string
	DefaultKeys []string
	// AgentSocket is where the agent listens (SSH_AUTH_SOCK), if anywhere.
	AgentSocket string

	// HostKey is the SHA256:… fingerprint of the only host key to accept. If
	// it is empty, KnownHosts decide: files, of which those that don't exist
	// are left out and the first gets the keys that Confirm accepts.
	HostKey    string
	KnownHosts []string
	// Confirm asks a person whether a host key is the right one. Nil: there is
	// nobody to ask, and an unknown server is refused.
	Confirm func(ctx context.Context, unknown *UnknownHostError) (bool, error)

	// ConnectTimeout bounds one attempt (default 20 s), KeepAlive is the time
	// between signs of life that are asked for (default 5 s), and KeepAliveTimeout
	// how late one may be (default 10 s: many services give a new name to a new
	// connection, so none is given up lightly).
	ConnectTimeout, KeepAlive, KeepAliveTimeout time.Duration
	// Backoff is the pause before the second attempt to reconnect (default
	// 0.5 s, jittered; the first comes at once). It doubles each time, up to MaxBackoff (default 15 s).
	Backoff, MaxBackoff time.Duration

	Log *slog.Logger
}

// backlog is how many connections wait for Accept; more are turned away.
const backlog = 128

// spokenLines is how many lines of the server's text a person gets to see for
// each connection.
const spokenLines = 40

// Tunnel is a net.Listener at the far side of an SSH server. Call Open, then
// Run; Accept at any time.
type Tunnel struct {
	config   Config
	hostKeys hostKeys
	conns    chan net.Conn
	closed   chan struct{}
	named    chan struct{} // closed once name is known

	mu    sync.Mutex
	link  *link
	up    bool // link is not known to have ended
	bound Bind
	name  string
	lost  bool // the server has given it away
	once  sync.Once
}

// New prepares a tunnel and does nothing yet.
func New(c Config) *Tunnel {
	orDefault := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	orDefault(&c.ConnectTimeout, 20*time.Second)
	orDefault(&c.KeepAlive, 5*time.Second)
	orDefault(&c.KeepAliveTimeout, 10*time.Second)
	orDefault(&c.Backoff, 500*time.Millisecond)
	orDefault(&c.MaxBackoff, 15*time.Second)
	return &Tunnel{
		config:   c,
		hostKeys: hostKeys{pin: c.HostKey, files: c.KnownHosts},
		conns:    make(chan net.Conn, backlog),
		closed:   make(chan struct{}),
		named:    make(chan struct{}),
	}
}

// Open makes the first connection. Whatever is wrong is an error here, while
// Run goes on trying. The caller must call Run, which ends the connection.
func (t *Tunnel) Open(ctx context.Context) error {
	l, err := t.connect(ctx, t.speech(ctx, slog.LevelInfo))
	var unknown *UnknownHostError
	if errors.As(err, &unknown) && t.config.Confirm != nil {
		if err := t.confirm(ctx, unknown); err != nil {
			return err
		}
		l, err = t.connect(ctx, t.speech(ctx, slog.LevelInfo))
	}
	if err != nil {
		return err
	}
	t.use(l)
	t.config.Log.Info("tunnel up", "server", t.config.Server, "bind", l.bound)
	return nil
}

func (t *Tunnel) confirm(ctx context.Context, unknown *UnknownHostError) error {
	yes, err := t.config.Confirm(ctx, unknown)
	if err != nil {
		return fmt.Errorf("%w (%w)", unknown, err)
	}
	if !yes {
		return unknown
	}
	t.hostKeys.trusted = unknown.key
	if len(t.config.KnownHosts) == 0 {
		return nil
	}
	if err := remember(t.config.KnownHosts[0], unknown.Address, unknown.key); err != nil {
		t.config.Log.Warn("the host key could not be remembered", "error", err)
	}
	return nil
}

func (t *Tunnel) use(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.link, t.up, t.bound = l, true, l.bound
}

func (t *Tunnel) down() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.up = false
}

// Run keeps the tunnel up until ctx ends, and then ends it. Open must have
// succeeded.
func (t *Tunnel) Run(ctx context.Context) {
	for {
		t.mu.Lock()
		l := t.link
		t.mu.Unlock()
		err := l.watch(ctx, t.config.KeepAlive, t.config.KeepAliveTimeout)
		l.close()
		t.down()
		if err == nil {
			return
		}
		lost := time.Now()
		t.config.Log.Warn("tunnel lost, connecting again", "server", t.config.Server, "error", err)
		if l = t.reconnect(ctx); l == nil {
			return
		}
		before := t.Bound()
		t.use(l)
		t.config.Log.Info("tunnel up again", "server", t.config.Server, "bind", l.bound, "after", time.Since(lost).Round(time.Millisecond))
		if l.bound != before {
			t.config.Log.Error("the server listens elsewhere now: what leads there must be changed", "before", before, "now", l.bound)
		}
	}
}

// reconnect tries until it succeeds, or until ctx ends: then it returns nil.
func (t *Tunnel) reconnect(ctx context.Context) *link {
	said := ""
	for pause := t.config.Backoff; ; pause = min(2*pause, t.config.MaxBackoff) {
		l, err := t.connect(ctx, t.speech(ctx, slog.LevelDebug))
		if ctx.Err() != nil {
			if err == nil {
				l.close()
			}
			return nil
		}
		if err == nil {
			return l
		}
		if err.Error() != said {
			said = err.Error()
			t.config.Log.Error("the tunnel is down, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
	}
}

// speech is what listens to one connection.
func (t *Tunnel) speech(ctx context.Context, level slog.Level) *speech {
	lines := 0
	return &speech{
		host: t.config.Server.Host,
		line: func(text string) {
			if lines++; lines <= spokenLines {
				t.config.Log.Log(ctx, level, "the tunnel's server says: "+text)
			}
		},
		name:    t.heard,
		settled: t.settled,
	}
}

// heard takes the first public URL that the server names for the tunnel's.
func (t *Tunnel) heard(url string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.name == "" {
		t.name = url
		close(t.named)
	}
}

// settled compares the names that a connection got with the tunnel's.
func (t *Tunnel) settled(urls []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := !slices.Contains(urls, t.name)
	switch {
	case lost:
		t.config.Log.Error("THE TUNNEL'S PUBLIC NAME HAS CHANGED: nobody reaches the issuer any more. Its documents stay as they are; give the cluster the new issuer (--service-account-issuer="+urls[0]+") and start again",
			"before", t.name, "now", urls[0])
	case t.lost:
		t.config.Log.Info("the tunnel has its public name again", "name", t.name)
	}
	t.lost = lost
}

// Name waits until the server has told the tunnel's public URL, for as long as
// the context allows and the server can still tell it. It is the first that the server told: a later one makes
// an error in the log, and the issuer stays what it was.
func (t *Tunnel) Name(ctx context.Context) (string, error) {
	t.mu.Lock()
	var over, silent <-chan struct{}
	if t.link != nil {
		over, silent = t.link.over, t.link.silent
	}
	t.mu.Unlock()
	var err error
	select {
	case <-t.named:
	case <-over:
		err = fmt.Errorf("%s ended the connection before it told a public URL", t.config.Server)
	case <-silent:
		err = fmt.Errorf("%s told no public URL, and its session is over: say with --issuer at which it is reached", t.config.Server)
	case <-ctx.Done():
		err = fmt.Errorf("%s told no public URL (%w): say with --issuer at which it is reached", t.config.Server, ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.name != "" { // it may have come with the end
		return t.name, nil
	}
	return "", err
}

// Up reports whether the server forwards to here, as far as is known.
func (t *Tunnel) Up() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up
}

// Renamed reports whether the server last told other names than the one that
// Name returned.
func (t *Tunnel) Renamed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

// Bound is where the server listens.
func (t *Tunnel) Bound() Bind {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bound
}

// Accept implements net.Listener. It waits through reconnects.
func (t *Tunnel) Accept() (net.Conn, error) {
	select {
	case <-t.closed:
		return nil, net.ErrClosed
	case c := <-t.conns:
		return c, nil
	}
}

// Close ends Accept. The connections that were accepted live on until the
// context of Run ends.
func (t *Tunnel) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// Addr implements net.Listener: the address at the server.
func (t *Tunnel) Addr() net.Addr { return address(t.Bound().String()) }
