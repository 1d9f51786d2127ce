package tunnel

import (
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
// and without which an HTTP server can't end what is idle or slow.
type conn struct {
	channel       ssh.Channel
	reads         net.Conn // the near end of a pipe that the channel is read into
	local, remote net.Addr

	mu      sync.Mutex
	expire  *time.Timer // ends writes
	expired bool
}

// address is what a conn says of its ends.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func newConn(channel ssh.Channel, f forwarded) *conn {
	near, far := net.Pipe()
	c := &conn{channel: channel, reads: near, local: hostPort(f.Address, f.Port), remote: hostPort(f.OriginAddress, f.OriginPort)}
	go func() { // ends with the channel, or with the pipe
		_, _ = io.Copy(far, channel)
		_ = far.Close()
	}()
	return c
}

// hostPort is a TCP address where it can be one: handlers take it apart.
func hostPort(host string, port uint32) net.Addr {
	if ip := net.ParseIP(host); ip != nil && port <= 65535 {
		return &net.TCPAddr{IP: ip, Port: int(port)}
	}
	return address(net.JoinHostPort(clean([]byte(host)), strconv.Itoa(int(port))))
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.reads.Read(p)
	if err == io.ErrClosedPipe { //nolint:errorlint // net.Pipe returns it bare, and it is compared to tell Close from the rest
		err = net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.channel.Write(p)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.expired {
			err = timeoutError{}
		}
	}
	return n, err
}

func (c *conn) Close() error {
	_ = c.SetWriteDeadline(time.Time{})
	_ = c.reads.Close()
	if err := c.channel.Close(); err != io.EOF { //nolint:errorlint // the channel's own: the far side closed it before
		return err
	}
	return nil
}

// CloseWrite tells the far side that nothing more comes.
func (c *conn) CloseWrite() error { return c.channel.CloseWrite() }

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error { return c.reads.SetReadDeadline(t) }

// SetWriteDeadline closes the channel when the time comes: a peer that has
// stopped reading gets no more of anything.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expire != nil {
		c.expire.Stop()
		c.expire = nil
	}
	if !t.IsZero() && !c.expired {
		c.expire = time.AfterFunc(time.Until(t), c.endWrites)
	}
	return nil
}

func (c *conn) endWrites() {
	c.mu.Lock()
	c.expired = true
	c.mu.Unlock()
	_ = c.reads.Close()
	_ = c.channel.Close()
}

// timeoutError is a net.Error.
type timeoutError struct{}

func (timeoutError) Error() string   { return "write time-out" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return false }
