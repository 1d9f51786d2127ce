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
	// slow is how long a client may take to say what it wants before it is the
	// first to go when room is needed.
	slow = time.Second
	// stuck is how long an answer may take before its connection may go too: the
	// answers fit into the kernel's buffers, so it is the client that is slow.
	stuck = 2 * time.Second
)

// limiter is a listener with room for so many connections. It never stops
// accepting, as a listener that blocks when it is full would let whoever fills
// it stop the server: for a new connection, the one goes that has been without a
// complete request for longest.
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
	waiting connState = iota // for its first request
	idle                     // for another one
	busy
)

// limited is a connection that knows what it is doing, and since when.
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

// Accept makes room where there is none.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		switch {
		case noFiles(err) && l.shed():
		case err != nil:
			return nil, err
		default:
			if admitted := l.admit(conn); admitted != nil {
				return admitted, nil
			}
			_ = conn.Close() // every place is taken by a client that is being served
			l.metrics.shed.Inc()
		}
	}
}

func noFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func (l *limiter) admit(conn net.Conn) net.Conn {
	if l.count() >= l.room && !l.shed() {
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

// shed closes the connection that will be missed least, if there is one.
func (l *limiter) shed() bool {
	c := l.leastMissed(time.Now().UnixNano())
	if c == nil {
		return false
	}
	l.metrics.shed.Inc()
	_ = c.Close() // its reader will find out
	return true
}

// leastMissed prefers those that said nothing complete for a while, then
// whoever rests longest, then an answer that is not taken.
func (l *limiter) leastMissed(now int64) *limited {
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

// observe is the http.Server's ConnState: active is when a whole header was read.
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
