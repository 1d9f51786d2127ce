package service_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"oidc-publisher/internal/logtest"
	"oidc-publisher/internal/service"
)

// TestFailures: one line when a failure starts, when its message changes and
// when it ends.
func TestFailures(t *testing.T) {
	var log logtest.Log
	f := service.NewFailures(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo})))
	wantLines := func(when string, want ...string) {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%s, the log has %d lines, want %d:\n%s", when, len(lines), len(want), log.String())
		}
		for i, text := range want {
			if !strings.Contains(lines[i], text) {
				t.Errorf("%s, line %d is %q, want %q in it", when, i+1, lines[i], text)
			}
		}
	}
	f.Report("publish", nil, "target", "a")
	for port := range 10 {
		f.Report("publish", fmt.Errorf("read 10.0.0.7:%d->10.0.0.1:443: reset", 40000+port), "target", "a")
		f.Report("publish", fmt.Errorf("503 RequestID: %d", port), "target", "b")
	}
	f.Report("publish", errors.New("access denied"), "target", "a")
	f.Report("publish", errors.New("read 10.0.0.7:50000->10.0.0.1:443: reset"), "target", "a")
	for range 2 {
		f.Report("publish", nil, "target", "a")
	}
	want := []string{`msg="publish failed" target=a error="read`, `target=b`, `target=a error="access denied"`, `level=INFO msg="publish recovered" target=a`}
	wantLines("after the first outage", want...)
	f.Report("publish", errors.New("access denied"), "target", "a")
	want = append(want, `msg="publish failed" target=a`)
	wantLines("after the second outage began", want...)
}

// TestFailureWithManyMessages: the latest are remembered, and no others.
func TestFailureWithManyMessages(t *testing.T) {
	f := service.NewFailures(slog.New(slog.DiscardHandler))
	message := func(i int) error { return fmt.Errorf("reason %c", 'A'+i) }
	for i := range 20 {
		if !f.IsNew("publish", message(i)) {
			t.Errorf("message %d is not new", i)
		}
	}
	for _, i := range []int{19, 4, 4} {
		if f.IsNew("publish", message(i)) {
			t.Errorf("message %d was forgotten", i)
		}
	}
	if !f.IsNew("publish", message(0)) {
		t.Error("the oldest message is still remembered")
	}
	if f.IsNew("publish", message(4)) {
		t.Error("a message that was repeated was forgotten before older ones")
	}
}

// TestWarningOfTwoTargets is logged for both.
func TestWarningOfTwoTargets(t *testing.T) {
	var log logtest.Log
	f := service.NewFailures(slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		for _, target := range []string{"a", "b"} {
			f.Warn("odd", "target", target)
		}
		f.EndPass()
	}
	for _, line := range []string{"msg=odd target=a", "msg=odd target=b"} {
		if got := strings.Count(log.String(), line); got != 1 {
			t.Errorf("%q was logged %d times:\n%s", line, got, log.String())
		}
	}
}

// TestWarnings: a warning is logged again only after a pass without it.
func TestWarnings(t *testing.T) {
	var log logtest.Log
	f := service.NewFailures(slog.New(slog.NewTextHandler(&log, nil)))
	pass := func(texts ...string) {
		for _, text := range texts {
			f.Warn(text, "target", "a")
		}
		f.EndPass()
	}
	pass("odd", "odd")
	pass("odd")
	pass("other")
	pass("odd")
	if got := strings.Count(log.String(), "msg=odd target=a"); got != 2 {
		t.Errorf("it was logged %d times:\n%s", got, log.String())
	}
}
