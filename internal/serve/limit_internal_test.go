package serve

import (
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestLeastMissed: who goes when there is no room, by how long each connection
// has been what it is.
func TestLeastMissed(t *testing.T) {
	now := time.Now()
	type conn struct {
		state connState
		age   time.Duration
	}
	for _, c := range []struct {
		name  string
		conns []conn
		goes  int // -1 for nobody
	}{
		{"nobody there", nil, -1},
		{"the oldest that waits", []conn{{waiting, 2}, {waiting, 3}, {busy, 9}}, 1},
		{"the oldest that rests", []conn{{idle, 3}, {idle, 4}, {busy, 9}}, 1},
		{"who rests longer than a newcomer waits", []conn{{waiting, slow / 2}, {idle, slow}}, 1},
		{"who waits longer than others rest", []conn{{waiting, slow / 2}, {idle, slow / 4}}, 0},
		{"who is slow, although others rest longer", []conn{{waiting, slow + 1}, {idle, time.Minute}}, 0},
		{"nobody who is being served", []conn{{busy, stuck}, {busy, stuck - 1}}, -1},
		{"who does not take the answer", []conn{{busy, stuck}, {busy, stuck + 1}}, 1},
	} {
		l := newLimiter(nil, 1, NewMetrics(prometheus.NewRegistry()))
		var all []*limited
		for _, open := range c.conns {
			one := &limited{limiter: l}
			one.state.Store(int32(open.state))
			one.since.Store(now.Add(-open.age).UnixNano())
			l.open[one] = struct{}{}
			all = append(all, one)
		}
		var want *limited
		if c.goes >= 0 {
			want = all[c.goes]
		}
		if got := l.leastMissed(now.UnixNano()); got != want {
			t.Errorf("%s: not that one", c.name)
		}
	}
}

// TestObserve: what a connection does is known under TLS too.
func TestObserve(t *testing.T) {
	l := newLimiter(nil, 1, NewMetrics(prometheus.NewRegistry()))
	one := &limited{limiter: l}
	for _, conn := range []net.Conn{one, tls.Server(one, nil)} {
		for _, c := range []struct {
			http http.ConnState
			ours connState
		}{{http.StateActive, busy}, {http.StateIdle, idle}, {http.StateActive, busy}} {
			if l.observe(conn, c.http); connState(one.state.Load()) != c.ours {
				t.Errorf("%T, %v: state %d, want %d", conn, c.http, one.state.Load(), c.ours)
			}
		}
		one.enter(waiting)
	}
}
