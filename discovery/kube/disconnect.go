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
	// At most maxReports ended connections are reported per reportWindow: some
	// gateways end each connection with its answer, which means nothing.
	maxReports   = 5
	reportWindow = 30 * time.Second
	// closeDelay is how soon after the server's last bytes the client closes a
	// connection that the server ended.
	closeDelay = 100 * time.Millisecond
)

// dialer connects to API servers and reports when one of them ends a connection:
// it may be restarting, which is when its keys change.
type dialer struct {
	net.Dialer
	report func()

	mu       sync.Mutex
	reported [maxReports]time.Time // the latest, oldest first
}

func newDialer(report func()) *dialer {
	return &dialer{Dialer: net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}, report: report}
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
	if time.Since(d.reported[0]) < reportWindow {
		return
	}
	copy(d.reported[:], d.reported[1:])
	d.reported[maxReports-1] = time.Now()
	d.report()
}

// watchedConn calls ended once when the server ends the connection. It relies on
// HTTP clients to read from idle connections all the time.
type watchedConn struct {
	net.Conn
	lastRead atomic.Int64 // when the server last sent something
	once     sync.Once
	ended    func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	// Ignore net.ErrClosed (we closed it) and deadline errors.
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(c.ended)
	}
	return n, err
}

// Close counts as the server's doing if it directly follows bytes of the server:
// TLS and HTTP/2 have closing messages of their own, after which the client
// closes the connection without another Read.
func (c *watchedConn) Close() error {
	if time.Since(time.Unix(0, c.lastRead.Load())) < closeDelay {
		c.once.Do(c.ended)
	}
	return c.Conn.Close()
}
