package tunnel

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// forwarded is the payload of a forwarded-tcpip channel (RFC 4254, 7.2).
type forwarded struct {
	Address       string
	Port          uint32
	OriginAddress string
	OriginPort    uint32
}

// conn is a forwarded connection with deadlines, which an SSH channel lacks
// and without which an HTTP server can't end what is idle, slow, or not read.
// Each direction is a pipe, and a goroutine that passes on what goes through it.
type conn struct {
	reads, writes net.Conn // the near ends
	local, remote net.Addr
	close         sync.Once
	closed        chan struct{}
}

// address is what a conn says of its ends.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func newConn(channel ssh.Channel, f forwarded) *conn {
	reads, arrivals := net.Pipe()
	writes, departures := net.Pipe()
	c := &conn{
		reads: reads, writes: writes,
		local: hostPort(f.Address, f.Port), remote: hostPort(f.OriginAddress, f.OriginPort),
		closed: make(chan struct{}),
	}
	go func() {
		pump(arrivals, channel)
		_ = arrivals.Close()
	}()
	go func() { // may wait for a reader at the far end, until that closes or the link ends
		pump(channel, departures)
		_ = departures.Close()
		_ = channel.CloseWrite()
		<-c.closed
		_ = channel.Close()
	}()
	return c
}

// pump copies until either side ends. The documents are a kilobyte or two.
func pump(to io.Writer, from io.Reader) { _, _ = io.CopyBuffer(to, from, make([]byte, 4<<10)) }

// hostPort is a TCP address where it can be one: handlers take it apart.
func hostPort(host string, port uint32) net.Addr {
	if ip := net.ParseIP(host); ip != nil && port <= 65535 {
		return &net.TCPAddr{IP: ip, Port: int(port)}
	}
	return address(net.JoinHostPort(clean([]byte(host)), strconv.Itoa(int(port))))
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.reads.Read(p)
	return n, closedError(err)
}

// Write returns when the data is on its way.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.writes.Write(p)
	return n, closedError(err)
}

// closedError is the error that users of a net.Conn know.
func closedError(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return net.ErrClosed
	}
	return err
}

// Close ends the connection once what was written is on its way.
func (c *conn) Close() error {
	c.close.Do(func() { close(c.closed) })
	return errors.Join(c.reads.Close(), c.writes.Close())
}

// CloseWrite tells the far side that nothing more comes.
func (c *conn) CloseWrite() error { return c.writes.Close() }

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error  { return c.reads.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.writes.SetWriteDeadline(t) }
