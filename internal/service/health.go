package service

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Health answers health checks for a program that runs a loop, possibly on only
// one of several replicas. The program is alive while the loop makes passes,
// even if the API server or other services fail, because a restart would not
// help. It is ready after its first complete pass, or while another replica
// leads.
type Health struct {
	stuck   time.Duration
	unready string

	mu sync.Mutex
	// passed is the time of the last pass; zero while this replica does not run
	// the loop, because another leads or no replica can be elected.
	passed time.Time
	// tried is the time of the last attempt to get or keep the Lease; zero
	// without an election.
	tried time.Time
	// complete is set once a pass since Start was complete.
	complete bool
	// standingBy is set while another replica leads.
	standingBy bool
}

// electionStuck is the longest time without a finished attempt to get or keep
// the Lease: an attempt is a few requests of seconds, and giving up the Lease
// waits for the write in progress. A credential plugin that hangs ignores every
// deadline.
const electionStuck = 5 * time.Minute

// NewHealth returns the Health of a loop. stuck is how long one pass may take,
// and unready the reason that /readyz gives before the first complete pass.
func NewHealth(stuck time.Duration, unready string) *Health {
	return &Health{stuck: stuck, unready: unready}
}

// Start marks the start of the loop.
func (h *Health) Start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.passed, h.complete, h.standingBy = time.Now(), false, false
}

// Stop marks the end of the loop.
func (h *Health) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.passed = time.Time{}
}

// Passed marks the end of a pass. complete is set if the pass left nothing
// undone.
func (h *Health) Passed(complete bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.passed = time.Now()
	h.complete = h.complete || complete
}

// StandBy marks that another replica leads.
func (h *Health) StandBy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.standingBy = true
}

// TriedElection marks the end of an attempt to get or keep the Lease, whatever
// its result.
func (h *Health) TriedElection() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried = time.Now()
}

// Dead returns why the process should be restarted, or "".
func (h *Health) Dead() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since := time.Since(h.tried); !h.tried.IsZero() && since > electionStuck {
		return fmt.Sprintf("leader election has made no progress for %v", since.Round(time.Second))
	}
	if since := time.Since(h.passed); !h.passed.IsZero() && since > h.stuck {
		return fmt.Sprintf("the loop has made no progress for %v", since.Round(time.Second))
	}
	return ""
}

// Unready returns why there is no result yet, or "".
func (h *Health) Unready() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.complete || h.standingBy {
		return ""
	}
	return h.unready
}

// Handler serves /livez, /readyz and, from the given handler, /metrics.
func (h *Health) Handler(metrics http.Handler) http.Handler {
	return StatusHandler(h.Dead, h.Unready, metrics)
}
