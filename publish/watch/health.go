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
	// turned is when the loop last turned; zero while it stands by.
	turned time.Time
	// stuck is how long one turn may take.
	stuck    time.Duration
	ready    bool
	because  string
	standing bool
}

// slack covers the longest pass (its timeout), the longest Retry-After, and then some.
const slack = 3 * time.Minute

func newHealth(interval time.Duration) *health {
	return &health{stuck: 2*interval + slack, turned: time.Now(), because: "nothing was published yet"}
}

func (h *health) observe(pass publish.Pass) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned, h.standing = pass.Ended, false
	if !pass.Failed() {
		h.ready = true
	}
}

func (h *health) standBy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.standing = true
}

// live returns why the process should be restarted, or "".
func (h *health) live() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if still := time.Since(h.turned); !h.standing && still > h.stuck {
		return fmt.Sprintf("the loop has stood still for %v", still.Round(time.Second))
	}
	return ""
}

// unready returns why there is nothing to show yet, or "".
func (h *health) unready() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ready || h.standing {
		return ""
	}
	return h.because
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
	mux.Handle("GET /livez", answer(w.health.live))
	mux.Handle("GET /readyz", answer(w.health.unready))
	mux.Handle("GET /metrics", metrics)
	return mux
}
