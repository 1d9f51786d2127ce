package service_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/internal/service"
)

const notYet = "nothing was done yet"

// wants asks as the kubelet does; "" is well.
func wants(t *testing.T, l *service.Loop, when, dead, unready string) {
	t.Helper()
	handler := l.Handler(http.NotFoundHandler())
	for path, want := range map[string]string{"/livez": dead, "/readyz": unready} {
		status, text := http.StatusServiceUnavailable, want
		if want == "" {
			status, text = http.StatusOK, "ok"
		}
		got := httptest.NewRecorder()
		handler.ServeHTTP(got, httptest.NewRequest(http.MethodGet, path, nil))
		if got.Code != status || strings.TrimSpace(got.Body.String()) != text {
			t.Errorf("%s, %s answers %d %q, want %d %q", when, path, got.Code, got.Body, status, text)
		}
	}
}

// TestLoop: alive while it turns, ready once it did all it should.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := service.New(10*time.Minute, notYet)
		time.Sleep(time.Hour)
		wants(t, l, "before it begins", "", notYet)
		l.Begin()
		wants(t, l, "at the start", "", notYet)
		l.Turn(false)
		wants(t, l, "after a turn that failed", "", notYet)
		l.Turn(true)
		l.Turn(false)
		wants(t, l, "after one that succeeded and another that failed", "", "")
		time.Sleep(10 * time.Minute)
		wants(t, l, "at the end of a turn's time", "", "")
		time.Sleep(time.Second)
		wants(t, l, "after it", "the loop has stood still for 10m1s", "")
		l.Turn(false)
		wants(t, l, "when it turns again", "", "")
		l.End()
		time.Sleep(time.Hour)
		wants(t, l, "when it has ended", "", "")
	})
}

// TestElection: who stands by is ready, and dead once nobody asks for the
// Lease any more.
func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := service.New(time.Hour, notYet)
		l.Elects()
		wants(t, l, "before anybody is elected", "", notYet)
		l.StandBy()
		wants(t, l, "while another leads", "", "")
		l.Begin()
		wants(t, l, "when elected", "", notYet)
		time.Sleep(5*time.Minute + time.Second)
		wants(t, l, "after no try to keep the Lease", "the election has stood still for 5m1s", notYet)
		l.Elects()
		wants(t, l, "after a try", "", notYet)
		l.Turn(true)
		l.End()
		wants(t, l, "when nobody leads any more", "", "")
		l.Begin()
		wants(t, l, "when elected again", "", notYet)
	})
}
