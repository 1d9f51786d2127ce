package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"oidc-publisher/internal/service/retry"
)

const (
	// firstRetry is the wait after a failed pass; it doubles up to shortRetry.
	// After failingLong without success the wait is the interval, but at most
	// longRetry: an outage that long is not just a restart, and an interval of
	// an hour is too long to wait.
	firstRetry  = 250 * time.Millisecond
	shortRetry  = time.Second
	failingLong = time.Minute
	longRetry   = time.Minute
	// shortestRest is the shortest time between two passes, however often the
	// loop is nudged.
	shortestRest = 200 * time.Millisecond
	// stopTimeout is how long a write in progress may take after the context
	// ended.
	stopTimeout = 10 * time.Second
	// For nudgedFor after a nudge it polls every nudgedPoll: a server that
	// closed its connections may come back with other keys.
	nudgedFor  = 20 * time.Second
	nudgedPoll = time.Second
	// shortestPoll bounds how often the announcements of an external signer make
	// it poll.
	shortestPoll = time.Second
)

// Pass is one Publish of a Run.
type Pass struct {
	Began, Ended time.Time
	Report       Report
	// Err is the error of Publish; those of the targets are in the Report.
	Err error
}

// Failed reports whether the pass left something undone.
func (p Pass) Failed() bool {
	if p.Err != nil || p.Report.Proof.Failed() {
		return true
	}
	for _, t := range p.Report.Targets {
		if t.Err != nil {
			return true
		}
	}
	return false
}

// Run publishes at each interval, jittered by a tenth, until ctx ends, and at
// once and more often for a while after a nudge; it calls done after every
// pass. A failed pass is retried, soon at first and then at the interval: until
// then the public documents do not change. Run returns nil when ctx ends. It
// returns an error that wraps ErrOwner if the first complete pass of all its
// runs finds a target that belongs to another cluster; later ones don't end it,
// since the other cluster may give the target back. TakeOver applies until one
// pass is complete, so that two publishers do not keep taking over from each
// other.
func (p *Publisher) Run(ctx context.Context, interval time.Duration, nudge <-chan struct{}, done func(Pass)) error {
	var failing time.Time // when the failures began
	backoff := firstRetry
	var nudged time.Time
	for ctx.Err() == nil {
		pass := p.pass(ctx)
		if ctx.Err() == nil || !pass.Failed() { // else the end of ctx may be the reason
			done(pass)
		}
		if err := ownerConflict(pass); err != nil && !p.settled {
			return err
		}
		p.settled = p.settled || pass.Err == nil
		wait := jitter(pollAfter(pass, interval))
		switch {
		case !pass.Failed():
			p.Policy.TakeOver = false
			failing, backoff = time.Time{}, firstRetry
		case failing.IsZero():
			failing = pass.Ended
			fallthrough
		case pass.Ended.Sub(failing) < failingLong:
			wait, backoff = jitter(backoff), min(2*backoff, shortRetry)
		default:
			wait = min(wait, jitter(longRetry))
		}
		if !nudged.IsZero() && time.Since(nudged) < nudgedFor {
			wait = min(wait, jitter(nudgedPoll))
		}
		if idle(ctx, max(wait, retry.After(pass.Err)), nudge) {
			nudged = time.Now()
		}
	}
	return nil
}

// pass gives a write in progress when ctx ends some time to finish.
func (p *Publisher) pass(ctx context.Context) Pass {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopTimeout, cancel) })
	defer stop()
	pass := Pass{Began: time.Now()}
	pass.Report, pass.Err = p.Publish(lingering)
	pass.Ended = time.Now()
	return pass
}

func ownerConflict(pass Pass) error {
	for _, t := range pass.Report.Targets {
		if errors.Is(t.Err, ErrOwner) {
			return t.Err
		}
	}
	return nil
}

// pollAfter is the interval, or less where an external signer (KEP-740)
// announces that it refreshes its keys sooner.
func pollAfter(pass Pass, interval time.Duration) time.Duration {
	if announced := pass.Report.Snapshot.MaxAge; announced > 0 && announced < interval {
		return max(announced, shortestPoll)
	}
	return interval
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}

// idle waits for the next pass, and reports whether a nudge ended the wait. A
// nudge counts only after a short rest: a server that closes every connection
// must not make this a busy loop.
func idle(ctx context.Context, d time.Duration, nudge <-chan struct{}) (nudged bool) {
	rest := min(d, shortestRest)
	return retry.Sleep(ctx, rest) && retry.Wait(ctx, d-rest, nudge)
}
