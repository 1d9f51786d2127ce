package serve

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// slow is the time that a client has to send a request before its connection
	// is the first to be evicted.
	slow = time.Second
	// stuck is how long a response may take before its connection may be evicted
	// too: responses fit into the kernel's buffers, so the client must be slow.
	stuck = 2 * time.Second
)

// limiter is a listener that limits the number of connections. It never stops
// accepting, because then slow clients could stop the server by filling it. For
// a new connection it evicts the one that has been without a complete request
// for longest.
type limiter struct {
	net.Listener
	room    int
	metrics *Metrics

	mu   sync.Mutex
	open map[*limited]struct{}
}

func newLimiter(l net.Listener, room int, m *Metrics) *limiter {
	return &limiter{Listener: l, room: room, metrics: m, open: map[*limited]struct{}{}}
}

type connState int32

const (
	waiting connState = iota // for the first request
	idle                     // between requests
	busy                     // with a response
)

// limited is a connection with its state, and the time at which it entered that
// state.
type limited struct {
	net.Conn
	limiter *limiter
	state   atomic.Int32
	since   atomic.Int64 // nanoseconds since 1970
}

func (c *limited) enter(state connState) {
	c.since.Store(time.Now().UnixNano())
	c.state.Store(int32(state))
}

func (c *limited) Close() error {
	c.limiter.forget(c)
	return c.Conn.Close()
}

// Accept evicts a connection if there is no room.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		switch {
		case noFiles(err) && l.evict():
		case err != nil:
			return nil, err
		default:
			if admitted := l.admit(conn); admitted != nil {
				return admitted, nil
			}
			_ = conn.Close() // all others are being served
			l.metrics.evicted.Inc()
		}
	}
}

func noFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func (l *limiter) admit(conn net.Conn) net.Conn {
	if l.count() >= l.room && !l.evict() {
		return nil
	}
	c := &limited{Conn: conn, limiter: l}
	c.enter(waiting)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	l.metrics.connections.Inc()
	return c
}

func (l *limiter) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

func (l *limiter) forget(c *limited) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[c]; open {
		delete(l.open, c)
		l.metrics.connections.Dec()
	}
}

// evict closes a connection that is not being served, if there is one.
func (l *limiter) evict() bool {
	c := l.candidate(time.Now().UnixNano())
	if c == nil {
		return false
	}
	l.metrics.evicted.Inc()
	_ = c.Close() // the server's read of it fails
	return true
}

// candidate returns the connection to evict: one without a complete request for
// a while, or else the one that has been idle for longest, or else one whose
// client does not read the response.
func (l *limiter) candidate(now int64) *limited {
	l.mu.Lock()
	defer l.mu.Unlock()
	var oldest [3]*limited // by state
	for c := range l.open {
		state := c.state.Load()
		if best := oldest[state]; best == nil || c.since.Load() < best.since.Load() {
			oldest[state] = c
		}
	}
	age := func(c *limited) time.Duration { return time.Duration(now - c.since.Load()) }
	w, i, b := oldest[waiting], oldest[idle], oldest[busy]
	switch {
	case w != nil && (i == nil || age(w) > slow || age(w) > age(i)):
		return w
	case i != nil:
		return i
	case b != nil && age(b) > stuck:
		return b
	}
	return nil
}

// observe is called as the http.Server's ConnState. Active means that a whole
// header was read.
func (l *limiter) observe(conn net.Conn, state http.ConnState) {
	if wrapped, ok := conn.(*tls.Conn); ok {
		conn = wrapped.NetConn()
	}
	c, ok := conn.(*limited)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		c.enter(busy)
	case http.StateIdle:
		c.enter(idle)
	}
}
