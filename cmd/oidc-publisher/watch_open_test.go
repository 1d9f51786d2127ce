package main

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

	"oidc-publisher/internal/kubeerr"
	"oidc-publisher/publish"

	"oidc-publisher/internal/cli"
)

// opener fails as it is told, and knows when it was asked.
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

// TestTheClusterIsAwaited: it is asked less and less often, as it asks itself,
// and what differs in each try alone is told once.
func TestTheClusterIsAwaited(t *testing.T) {
	for _, tc := range []struct {
		name        string
		err         func(try int) error
		least, most int // tries within ten minutes
		shortest    time.Duration
		lines       int
	}{
		{"it is gone", func(try int) error {
			return fmt.Errorf("read tcp 10.0.0.7:%d->10.0.0.1:443: connection reset", 40000+try)
		}, 40, 90, 500 * time.Millisecond, 1},
		{"it is busy", func(int) error {
			return &kubeerr.BusyError{Server: "10.0.0.1:443", Status: 429, After: 30 * time.Second}
		}, 15, 20, 30 * time.Second, 1},
		{"it asks for a day", func(int) error {
			return &kubeerr.BusyError{Server: "10.0.0.1:443", Status: 503, After: 24 * time.Hour}
		}, 10, 10, time.Minute, 1},
		{"another fault", func(try int) error {
			return errors.New(map[bool]string{true: "refused", false: "certificate"}[try < 10])
		}, 40, 90, 500 * time.Millisecond, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute-time.Millisecond)
				defer cancel()
				o := &opener{err: tc.err}
				if err := inTime(ctx, slog.New(slog.NewTextHandler(&log, nil)), o.open); err != nil {
					t.Error(err)
				}
				if got := len(o.at); got < tc.least || got > tc.most || o.shortestWait() < tc.shortest {
					t.Errorf("%d tries, want %d to %d; the shortest wait was %v, want %v", got, tc.least, tc.most, o.shortestWait(), tc.shortest)
				}
				if got := strings.Count(log.String(), "level="); got != tc.lines {
					t.Errorf("%d lines, want %d:\n%s", got, tc.lines, log.String())
				}
			})
		})
	}
}

// TestWhatCanNotPassIsNotAwaited ends it at once, and so does success.
func TestWhatCanNotPassIsNotAwaited(t *testing.T) {
	for _, want := range []error{nil, cli.Usagef("--to is missing"), fmt.Errorf("%w: no keys", publish.ErrRefused)} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := inTime(t.Context(), slog.New(slog.DiscardHandler), func() error { return want })
			if !errors.Is(err, want) || time.Since(began) > 0 {
				t.Errorf("%v after %v, want %v", err, time.Since(began), want)
			}
		})
	}
}
