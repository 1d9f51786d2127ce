package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// firstRetry follows a failed pass, and doubles until shortRetry. After
	// patience without success the loop falls back to its interval, or to
	// longRetry where that is shorter: what is down that long is not just
	// restarting, and an interval of an hour is no time to wait after it.
	firstRetry = 250 * time.Millisecond
	shortRetry = time.Second
	patience   = time.Minute
	longRetry  = time.Minute
	// shortestRest lies between two passes, however often the loop is nudged.
	shortestRest = 200 * time.Millisecond
	// farewell is what a write in hand may still take at the end.
	farewell = 10 * time.Second
	// After a nudge it looks each second for a while: a server that ended its
	// connections comes back with other keys, or lets others go first.
	alertFor  = 20 * time.Second
	alertLook = time.Second
	// shortestLook bounds how often an external signer's announcements are
	// followed.
	shortestLook = time.Second
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

// Run publishes at each interval, jittered by a tenth, and at once and more
// often for a while when nudged, until ctx ends; done is told of every pass. What fails is tried
// again, soon at first and then at the interval, for ever: the last good stays
// public meanwhile. Run returns nil when ctx ends, and an error that wraps
// ErrOwner if the first complete pass finds the target to be somebody else's:
// the first of all its Runs, as what was ours once may be handed back.
// TakeOver holds until a pass has done all it should: two publishers that both
// take over must not do so for ever.
func (p *Publisher) Run(ctx context.Context, interval time.Duration, nudge <-chan struct{}, done func(Pass)) error {
	var failing time.Time // since when
	retry := firstRetry
	var nudged time.Time
	for ctx.Err() == nil {
		pass := p.pass(ctx)
		if ctx.Err() == nil || !pass.Failed() { // else its end may be why
			done(pass)
		}
		if err := ownerConflict(pass); err != nil && !p.settled {
			return err
		}
		p.settled = p.settled || pass.Err == nil
		wait := jitter(lookAfter(pass, interval))
		switch {
		case !pass.Failed():
			p.Policy.TakeOver = false
			failing, retry = time.Time{}, firstRetry
		case failing.IsZero():
			failing = pass.Ended
			fallthrough
		case pass.Ended.Sub(failing) < patience:
			wait, retry = jitter(retry), min(2*retry, shortRetry)
		default:
			wait = min(wait, jitter(longRetry))
		}
		if !nudged.IsZero() && time.Since(nudged) < alertFor {
			wait = min(wait, jitter(alertLook))
		}
		if idle(ctx, max(wait, RetryAfter(pass.Err)), nudge) {
			nudged = time.Now()
		}
	}
	return nil
}

// pass gives what is under way when ctx ends a while to be finished.
func (p *Publisher) pass(ctx context.Context) Pass {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(farewell, cancel) })
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

// lookAfter is the interval, or less where an external signer (KEP-740)
// announces that it refreshes its keys sooner.
func lookAfter(pass Pass, interval time.Duration) time.Duration {
	if announced := pass.Report.Snapshot.MaxAge; announced > 0 && announced < interval {
		return max(announced, shortestLook)
	}
	return interval
}

// RetryAfter is how long an API server asks with its error to be left alone
// (RFC 9110 section 10.2.3), at most a minute; 0 where it does not.
func RetryAfter(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return min(asked.RetryAfter(), time.Minute)
	}
	return 0
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}

// idle waits for time to pass, a nudge, or the end of ctx, and reports whether
// it was a nudge.
// Nudges count only after a moment of rest: a server that ends each connection
// must not make this a busy loop.
func idle(ctx context.Context, d time.Duration, nudge <-chan struct{}) (nudged bool) {
	rest := min(d, shortestRest)
	if !sleep(ctx, rest) {
		return false
	}
	timer := time.NewTimer(d - rest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-nudge:
		return true
	}
	return false
}
