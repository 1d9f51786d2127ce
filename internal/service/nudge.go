package service

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Nudge makes a loop start its next pass at once.
type Nudge chan struct{}

// NewNudge returns a Nudge that is ready for use.
func NewNudge() Nudge { return make(Nudge, 1) }

// Send asks for a pass at once. Several calls before the next pass count as
// one.
func (n Nudge) Send() {
	select {
	case n <- struct{}{}:
	default: // one is pending already
	}
}

// OnHangup sends a nudge on each SIGHUP, until ctx ends or stop is called.
func (n Nudge) OnHangup(ctx context.Context) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				n.Send()
			}
		}
	}()
	return func() { signal.Stop(hangups); cancel() }
}
