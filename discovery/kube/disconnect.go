package kube

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// At most maxReports ended connections are reported per reportWindow: some
	// gateways end every connection after one answer, which says nothing about
	// the API server.
	maxReports   = 5
	reportWindow = 30 * time.Second
	// closeDelay is the time after the server's last bytes within which the
	// client closes a connection that the server ended.
	closeDelay = 100 * time.Millisecond
)

// reportEnds returns a dialer for API servers that reports when one of them
// ends a connection: it may be restarting, and its keys change when it does.
func reportEnds(report func()) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	limit := rate.NewLimiter(rate.Every(reportWindow/maxReports), maxReports)
	ended := func() {
		if limit.Allow() {
			report()
		}
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: conn, ended: ended}, nil
	}
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

// Close is counted as ended by the server if it directly follows bytes from the
// server: TLS and HTTP/2 have closing messages of their own, after which the
// client closes the connection without another Read.
func (c *watchedConn) Close() error {
	if time.Since(time.Unix(0, c.lastRead.Load())) < closeDelay {
		c.once.Do(c.ended)
	}
	return c.Conn.Close()
}
