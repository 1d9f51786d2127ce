package kube

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// dialer connects to API servers and tells when one of them ends a connection:
// it restarts, and a restart is when its keys change.
type dialer struct {
	net.Dialer
	ended func()
}

func newDialer(ended func()) *dialer {
	return &dialer{Dialer: net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}, ended: ended}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: conn, ended: d.ended}, nil
}

// watchedConn relies on HTTP clients to read from idle connections all the time.
type watchedConn struct {
	net.Conn
	once  sync.Once
	ended func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	// net.ErrClosed is this side's own doing, a deadline nobody's.
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(c.ended)
	}
	return n, err
}
