package pullsecret

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// health answers the kubelet. It is alive while the loop turns, whatever the
// API server and the service do: a restart would help nobody. It is ready once
// every namespace was tried with a credential, or while another leads.
type health struct {
	mu sync.Mutex
	// turned is when the loop last turned; zero while this replica does not
	// run it.
	turned time.Time
	// stuck is how long one turn may take.
	stuck          time.Duration
	done, standing bool
}

// slack is what a turn may take beside an exchange.
const slack = 3 * time.Minute

func newHealth(exchange time.Duration) *health { return &health{stuck: 2*exchange + turn + slack} }

func (h *health) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned, h.standing = time.Now(), false
}

func (h *health) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned = time.Time{}
}

func (h *health) turn(done bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned = time.Now()
	h.done = h.done || done
}

func (h *health) standBy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.standing = true
}

// dead returns why the process should be restarted, or "".
func (h *health) dead() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turned.IsZero() {
		return ""
	}
	if still := time.Since(h.turned); still > h.stuck {
		return fmt.Sprintf("the loop has stood still for %v", still.Round(time.Second))
	}
	return ""
}

// unready returns why there is nothing to show yet, or "".
func (h *health) unready() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done || h.standing {
		return ""
	}
	return "not every namespace was served yet"
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

// Handler serves /livez, /readyz and, from the given handler, /metrics.
func (k *Keeper) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", answer(k.health.dead))
	mux.Handle("GET /readyz", answer(k.health.unready))
	mux.Handle("GET /metrics", metrics)
	return mux
}
