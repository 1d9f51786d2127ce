// Package service answers the kubelet for a program whose work is a loop, which
// one of several replicas may run.
package service

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Loop is alive while the loop turns, whatever the API server and other
// services do: a restart would help nobody. It is ready once the loop did all
// it should since it began last, or while another replica leads.
type Loop struct {
	stuck  time.Duration
	notYet string

	mu sync.Mutex
	// turned is when the loop last turned; zero while this replica does not
	// run it, because another leads or nobody can be elected.
	turned time.Time
	// tried is when an election last was; zero where there is none.
	tried time.Time
	// done is set once a turn since Begin did all it should, standing while
	// another leads.
	done, standing bool
}

// deaf is how long no try to get or keep the Lease may end: each is a few
// requests of seconds, and giving the Lease up waits for the write in hand. A
// credential plugin that never returns heeds no deadline.
const deaf = 5 * time.Minute

// New takes how long one turn may take, and what to say while none did all it
// should.
func New(stuck time.Duration, notYet string) *Loop { return &Loop{stuck: stuck, notYet: notYet} }

// Begin is when the loop starts.
func (l *Loop) Begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turned, l.done, l.standing = time.Now(), false, false
}

// End is when the loop has ended.
func (l *Loop) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turned = time.Time{}
}

// Turn is told of every turn, and whether all is done that it should do.
func (l *Loop) Turn(done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turned = time.Now()
	l.done = l.done || done
}

// StandBy is when another replica was seen to lead.
func (l *Loop) StandBy() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.standing = true
}

// Elects is told of every try to get or to keep the Lease, whatever came of it.
func (l *Loop) Elects() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried = time.Now()
}

// Dead returns why the process should be restarted, or "".
func (l *Loop) Dead() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if still := time.Since(l.tried); !l.tried.IsZero() && still > deaf {
		return fmt.Sprintf("the election has stood still for %v", still.Round(time.Second))
	}
	if still := time.Since(l.turned); !l.turned.IsZero() && still > l.stuck {
		return fmt.Sprintf("the loop has stood still for %v", still.Round(time.Second))
	}
	return ""
}

// Unready returns why there is nothing to show yet, or "".
func (l *Loop) Unready() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done || l.standing {
		return ""
	}
	return l.notYet
}

// Handler serves /livez, /readyz and, from the given handler, /metrics.
func (l *Loop) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", answer(l.Dead))
	mux.Handle("GET /readyz", answer(l.Unready))
	mux.Handle("GET /metrics", metrics)
	return mux
}

func answer(why func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if text := why(); text != "" {
			http.Error(w, text, http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}
