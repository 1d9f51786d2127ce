package retry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestBackoff: waits double up to the longest, and start small after a success.
func TestBackoff(t *testing.T) {
	b := Backoff{First: time.Second, Longest: 10 * time.Second}
	for range 2 {
		for i, seconds := range []int{1, 2, 4, 8, 10, 10} {
			whole := time.Duration(seconds) * time.Second
			if got := b.Next(); got < whole/2 || got > whole {
				t.Errorf("wait %d is %v, want %v to %v", i, got, whole/2, whole)
			}
		}
		b.Reset()
	}
}

type busy time.Duration

func (busy) Error() string               { return "busy" }
func (b busy) RetryAfter() time.Duration { return time.Duration(b) }

func TestAfter(t *testing.T) {
	for err, want := range map[error]time.Duration{
		nil:                    0,
		errors.New("x"):        0,
		busy(20 * time.Second): 20 * time.Second,
		busy(24 * time.Hour):   time.Minute,
	} {
		if err != nil {
			err = fmt.Errorf("server: %w", err)
		}
		if got := After(err); got != want {
			t.Errorf("After(%v) = %v, want %v", err, got, want)
		}
	}
}

// TestWaitEndsByEitherClock, whichever is first.
func TestWaitEndsByEitherClock(t *testing.T) {
	for name, tc := range map[string]struct{ jump, want time.Duration }{
		"right":                       {0, time.Hour},
		"the machine was suspended":   {50 * time.Minute, 10 * time.Minute},
		"the wall clock was set back": {-50 * time.Minute, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				wall := func() time.Time {
					if time.Since(began) < time.Minute {
						return time.Now().Round(0)
					}
					return time.Now().Round(0).Add(tc.jump)
				}
				wait(t.Context(), time.Hour, nil, wall)
				if got := time.Since(began); got != tc.want {
					t.Errorf("it ended after %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// TestSleepTicking: a long wait reports in time that it is alive.
func TestSleepTicking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := time.Now()
		if !SleepTicking(t.Context(), time.Hour, func() {
			if time.Since(last) > Tick {
				t.Errorf("no tick for %v, want at most %v", time.Since(last), Tick)
			}
			last = time.Now()
		}) {
			t.Error("the context ended the wait")
		}
		if time.Since(last) > Tick {
			t.Errorf("no tick in the last %v", time.Since(last))
		}
	})
}

func TestWaitEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nudge, began := make(chan struct{}, 1), time.Now()
		nudge <- struct{}{}
		if !Wait(t.Context(), time.Hour, nudge) || time.Since(began) > 0 {
			t.Errorf("a nudge did not end the wait at once, but after %v", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if Wait(ctx, time.Hour, nudge) || Sleep(ctx, time.Hour) || time.Since(began) != time.Second {
			t.Errorf("the context did not end the wait, which took %v", time.Since(began))
		}
		if !Sleep(t.Context(), time.Minute) {
			t.Error("a complete wait was reported as ended by the context")
		}
	})
}
