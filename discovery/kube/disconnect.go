package kube

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// At most so many ends of connections are told in such a time: a gateway
	// may end each connection with its answer, and that means nothing.
	maxEnds    = 5
	endsWindow = 30 * time.Second
	// farewellTime is how soon after a server's last word the client hangs up.
	farewellTime = 100 * time.Millisecond
)

// dialer connects to API servers and tells when one of them ends a connection:
// it restarts, and a restart is when its keys change.
type dialer struct {
	net.Dialer
	tell func()

	mu   sync.Mutex
	told [maxEnds]time.Time // the last ones, oldest first
}

func newDialer(tell func()) *dialer {
	return &dialer{Dialer: net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}, tell: tell}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: conn, ended: d.ended}, nil
}

func (d *dialer) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.told[0]) < endsWindow {
		return
	}
	copy(d.told[:], d.told[1:])
	d.told[maxEnds-1] = time.Now()
	d.tell()
}

// watchedConn relies on HTTP clients to read from idle connections all the time.
type watchedConn struct {
	net.Conn
	heard atomic.Int64 // when the server last said something
	once  sync.Once
	ended func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	// net.ErrClosed is this side's own doing, a deadline nobody's.
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(c.ended)
	}
	return n, err
}

// Close tells too, where it follows at once on something that the server said:
// TLS and HTTP/2 have farewells of their own, after which nobody reads any more.
func (c *watchedConn) Close() error {
	if time.Since(time.Unix(0, c.heard.Load())) < farewellTime {
		c.once.Do(c.ended)
	}
	return c.Conn.Close()
}
