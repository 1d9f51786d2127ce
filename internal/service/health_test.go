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

// wants asks as the kubelet does; "" means healthy.
func wants(t *testing.T, l *service.Health, when, dead, unready string) {
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

// TestHealth: alive while it makes passes, ready after the first complete one.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := service.NewHealth(10*time.Minute, notYet)
		time.Sleep(time.Hour)
		wants(t, l, "before it begins", "", notYet)
		l.Start()
		wants(t, l, "at the start", "", notYet)
		l.Passed(false)
		wants(t, l, "after a turn that failed", "", notYet)
		l.Passed(true)
		l.Passed(false)
		wants(t, l, "after one that succeeded and another that failed", "", "")
		time.Sleep(10 * time.Minute)
		wants(t, l, "at the end of a turn's time", "", "")
		time.Sleep(time.Second)
		wants(t, l, "after it", "the loop has made no progress for 10m1s", "")
		l.Passed(false)
		wants(t, l, "when it turns again", "", "")
		l.Stop()
		time.Sleep(time.Hour)
		wants(t, l, "when it has ended", "", "")
	})
}

// TestElection: a replica that stands by is ready, and dead once its attempts to
// get the Lease hang.
func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := service.NewHealth(time.Hour, notYet)
		l.TriedElection()
		wants(t, l, "before anybody is elected", "", notYet)
		l.StandBy()
		wants(t, l, "while another leads", "", "")
		l.Start()
		wants(t, l, "when elected", "", notYet)
		time.Sleep(5*time.Minute + time.Second)
		wants(t, l, "after no try to keep the Lease", "leader election has made no progress for 5m1s", notYet)
		l.TriedElection()
		wants(t, l, "after a try", "", notYet)
		l.Passed(true)
		l.Stop()
		wants(t, l, "when nobody leads any more", "", "")
		l.Start()
		wants(t, l, "when elected again", "", notYet)
	})
}
