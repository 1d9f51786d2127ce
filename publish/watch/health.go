package watch

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"oidc-publisher/publish"
)

// health answers the kubelet. It is alive while the loop turns, whatever the
// API server does: a restart would help nobody. It is ready once it has
// published, or stands by to.
type health struct {
	mu sync.Mutex
	// turned is when the loop last turned; zero while this replica does not
	// run it, because another leads or nobody can be elected.
	turned time.Time
	// tried is when an election last was; zero where there is none.
	tried time.Time
	// stuck is how long one turn may take.
	stuck time.Duration
	// published is set once a pass did all it should, standing while another leads.
	published, standing bool
}

// deaf is how long no try to get or keep the Lease may end: each is a few
// requests of seconds, and giving the Lease up waits for the write in hand. A
// credential plugin that never returns heeds no deadline.
const deaf = 5 * time.Minute

// slack covers the longest wait between two passes but the interval (an API
// server's Retry-After), and then some.
const slack = 3 * time.Minute

// newHealth takes the interval between passes and how long one may take.
func newHealth(interval, timeout time.Duration) *health {
	return &health{stuck: 2*interval + 2*timeout + slack}
}

// begin is when the loop starts, end when it has ended.
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

func (h *health) observe(pass publish.Pass) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned = time.Now()
	h.published = h.published || !pass.Failed()
}

func (h *health) standBy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.standing = true
}

// elects is told of every try to get or to keep the Lease, whatever came of it.
func (h *health) elects() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried = time.Now()
}

// dead returns why the process should be restarted, or "".
func (h *health) dead() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if still := time.Since(h.tried); !h.tried.IsZero() && still > deaf {
		return fmt.Sprintf("the election has stood still for %v", still.Round(time.Second))
	}
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
	if h.published || h.standing {
		return ""
	}
	return "nothing was published yet"
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
func (w *Watcher) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", answer(w.health.dead))
	mux.Handle("GET /readyz", answer(w.health.unready))
	mux.Handle("GET /metrics", metrics)
	return mux
}
