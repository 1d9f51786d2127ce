package serve

import (
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestCandidate: which connection is evicted, by the state of each and for how
// long it has had it.
func TestCandidate(t *testing.T) {
	now := time.Now()
	type conn struct {
		state connState
		age   time.Duration
	}
	for _, c := range []struct {
		name   string
		conns  []conn
		evicts int // -1 for none
	}{
		{"none", nil, -1},
		{"the oldest without a request", []conn{{waiting, 2}, {waiting, 3}, {busy, 9}}, 1},
		{"the oldest idle one", []conn{{idle, 3}, {idle, 4}, {busy, 9}}, 1},
		{"idle for longer than another waits", []conn{{waiting, slow / 2}, {idle, slow}}, 1},
		{"waiting for longer than others are idle", []conn{{waiting, slow / 2}, {idle, slow / 4}}, 0},
		{"slow, although another is idle for longer", []conn{{waiting, slow + 1}, {idle, time.Minute}}, 0},
		{"none that is being served", []conn{{busy, stuck}, {busy, stuck - 1}}, -1},
		{"one that does not read the response", []conn{{busy, stuck}, {busy, stuck + 1}}, 1},
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
		if c.evicts >= 0 {
			want = all[c.evicts]
		}
		if got := l.candidate(now.UnixNano()); got != want {
			t.Errorf("%s: another one", c.name)
		}
	}
}

// TestObserve: the state of a connection is known under TLS too.
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
