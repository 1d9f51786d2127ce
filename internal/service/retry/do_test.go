package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
)

// opener fails with the error of each attempt, and records when it was called.
type opener struct {
	err func(try int) error
	at  []time.Time
}

func (o *opener) open() error {
	o.at = append(o.at, time.Now())
	return o.err(len(o.at))
}

func (o *opener) shortestWait() time.Duration {
	shortest := time.Hour
	for i, at := range o.at[1:] {
		shortest = min(shortest, at.Sub(o.at[i]))
	}
	return shortest
}

type busy struct{ after time.Duration }

func (b busy) Error() string             { return fmt.Sprintf("10.0.0.1:443 is busy, for %v", b.after) }
func (b busy) RetryAfter() time.Duration { return b.after }

// TestDo: attempts become rarer, a server's Retry-After counts, and errors that
// differ in nothing but their ports are logged once.
func TestDo(t *testing.T) {
	for _, tc := range []struct {
		name        string
		err         func(try int) error
		least, most int // attempts within ten minutes
		shortest    time.Duration
		lines       int
	}{
		{"it is gone", func(try int) error {
			return fmt.Errorf("read tcp 10.0.0.7:%d->10.0.0.1:443: connection reset", 40000+try)
		}, 40, 90, 500 * time.Millisecond, 1},
		{"it is busy", func(int) error { return busy{30 * time.Second} }, 15, 20, 30 * time.Second, 1},
		{"it asks for a day", func(int) error { return busy{24 * time.Hour} }, 10, 10, time.Minute, 1},
		{"another error", func(try int) error {
			return errors.New(map[bool]string{true: "refused", false: "certificate"}[try < 10])
		}, 40, 90, 500 * time.Millisecond, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				failures := service.NewFailures(slog.New(slog.NewTextHandler(&log, nil)))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute-time.Millisecond)
				defer cancel()
				o := &opener{err: tc.err}
				never := func(error) bool { return false }
				if err := retry.Do(ctx, o.open, never, func(err error) { failures.Report("open", err) }); err != nil {
					t.Error(err)
				}
				if got := len(o.at); got < tc.least || got > tc.most || o.shortestWait() < tc.shortest {
					t.Errorf("%d attempts, want %d to %d; the shortest wait was %v, want %v", got, tc.least, tc.most, o.shortestWait(), tc.shortest)
				}
				if got := strings.Count(log.String(), "level="); got != tc.lines {
					t.Errorf("%d lines, want %d:\n%s", got, tc.lines, log.String())
				}
			})
		})
	}
}

// TestDoEndsAtOnce with a permanent error, and with success.
func TestDoEndsAtOnce(t *testing.T) {
	permanent := errors.New("--to is missing")
	for _, want := range []error{nil, fmt.Errorf("usage: %w", permanent)} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := retry.Do(t.Context(), func() error { return want }, func(err error) bool { return errors.Is(err, permanent) },
				func(err error) { t.Errorf("reported %v", err) })
			if !errors.Is(err, want) || time.Since(began) > 0 {
				t.Errorf("%v after %v, want %v", err, time.Since(began), want)
			}
		})
	}
}
