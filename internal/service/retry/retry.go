// Package retry waits between attempts.
package retry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Backoff is the wait after each failed attempt: it doubles from First to
// Longest, and is shortened at random by up to half, so that replicas that
// started together do not retry together.
type Backoff struct {
	First, Longest time.Duration
	next           time.Duration
}

// Next returns the wait after one more failed attempt.
func (b *Backoff) Next() time.Duration {
	wait := max(b.next, b.First)
	b.next = min(2*wait, b.Longest)
	return wait/2 + rand.N(wait/2+1)
}

// Reset starts from First again, after an attempt that succeeded.
func (b *Backoff) Reset() { b.next = 0 }

// longestAfter bounds the wait that a server may ask for, so that a mistake of
// the server does not stop a client for a day.
const longestAfter = time.Minute

// After returns how long the server that sent the error asks clients to wait
// (RFC 9110 section 10.2.3), at most a minute; 0 if it does not ask.
func After(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return min(asked.RetryAfter(), longestAfter)
	}
	return 0
}

// Sleep waits, and reports whether it waited to the end: false means that ctx
// ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	return SleepTicking(ctx, d, func() {})
}

// SleepTicking is Sleep, and calls tick at least every Tick, so that a long wait
// can report that it is alive.
func SleepTicking(ctx context.Context, d time.Duration, tick func()) bool {
	wait(ctx, d, nil, func() time.Time { tick(); return wallClock() })
	return ctx.Err() == nil
}

// Wait waits until d is over, ctx ends or a nudge arrives, and reports whether
// it was the nudge.
func Wait(ctx context.Context, d time.Duration, nudge <-chan struct{}) (nudged bool) {
	return wait(ctx, d, nudge, wallClock)
}

// Waits of Do, which double from the first to the longest.
const (
	firstWait   = time.Second
	longestWait = 15 * time.Second
)

// Do makes attempts until one succeeds or fails with a permanent error, which
// it returns, or ctx ends; then it returns nil. It reports every other error.
func Do(ctx context.Context, attempt func() error, permanent func(error) bool, report func(error)) error {
	backoff := Backoff{First: firstWait, Longest: longestWait}
	for {
		err := attempt()
		if err == nil || permanent(err) {
			return err
		}
		if ctx.Err() == nil {
			report(err)
		}
		if !Sleep(ctx, max(backoff.Next(), After(err))) {
			return nil
		}
	}
}

func wallClock() time.Time { return time.Now().Round(0) } // without the monotonic reading

// Tick is the interval at which a wait reads the wall clock.
const Tick = 10 * time.Second

// wait ends when d is over by the monotonic or by the wall clock, whichever is
// first: the monotonic clock stands still while a machine is suspended, and the
// wall clock may be set back.
func wait(ctx context.Context, d time.Duration, nudge <-chan struct{}, wall func() time.Time) (nudged bool) {
	end := wall().Add(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	check := time.NewTicker(Tick)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-nudge:
			return true
		case <-timer.C:
			return false
		case <-check.C:
			if !wall().Before(end) {
				return false
			}
		}
	}
}
