package publish_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

const every = 10 * time.Second

// runFor runs a publisher with a fake clock and returns the start, relative to
// the first pass, and the result of each pass.
func runFor(t *testing.T, p *publish.Publisher, howLong time.Duration, nudge <-chan struct{}) (passes []publish.Pass, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), howLong)
	defer cancel()
	err = p.Run(ctx, every, nudge, func(pass publish.Pass) { passes = append(passes, pass) })
	return passes, err
}

func TestRunKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passes, err := runFor(t, publisher(fixed(keyring{}.snapshot("a")), new(backendtest.Memory)), 10*time.Minute, nil)
		if err != nil {
			t.Fatal(err)
		}
		gaps := map[time.Duration]bool{}
		for i := 1; i < len(passes); i++ {
			gap := passes[i].Began.Sub(passes[i-1].Ended)
			gaps[gap] = true
			if gap < every*9/10 || gap > every*11/10 {
				t.Errorf("%v between passes %d and %d", gap, i-1, i)
			}
			if passes[i].Report.Changed() {
				t.Errorf("pass %d wrote again", i)
			}
		}
		if len(passes) < 54 || len(gaps) < len(passes)/2 {
			t.Errorf("%d passes with %d different gaps: no jitter", len(passes), len(gaps))
		}
	})
}

// TestRunFollowsANudge: it polls at once, and more often for a while.
func TestRunFollowsANudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nudge := make(chan struct{}, 1)
		began := time.Now()
		time.AfterFunc(3*time.Second, func() { nudge <- struct{}{} })
		passes, _ := runFor(t, publisher(fixed(keyring{}.snapshot("a")), new(backendtest.Memory)), 2*time.Minute, nudge)
		if len(passes) < 2 || passes[1].Began.Sub(began) != 3*time.Second {
			t.Fatalf("%d passes", len(passes))
		}
		alert := 0
		for _, pass := range passes[2:] {
			if pass.Began.Sub(began) < 24*time.Second {
				alert++
			}
		}
		if calm := len(passes) - 2 - alert; alert < 17 || alert > 24 || calm < 8 || calm > 11 {
			t.Errorf("%d passes while it is alert, and %d after", alert, calm)
		}
	})
}

func TestRunRestsBetweenNudges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nudge := make(chan struct{})
		close(nudge)
		passes, _ := runFor(t, publisher(fixed(keyring{}.snapshot("a")), new(backendtest.Memory)), 10*time.Second, nudge)
		if len(passes) < 40 || len(passes) > 60 {
			t.Errorf("%d passes in 10 s", len(passes))
		}
	})
}

// TestRunOutlivesAnOutage: soon after the API server comes back its keys are
// public, and an outage of an hour causes few requests.
func TestRunOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		before, after := r.snapshot("a"), r.snapshot("b")
		began := time.Now()
		short, long := 9*time.Second, time.Hour // from between two passes to after the next one
		var down time.Duration
		from := source(func() (discovery.Snapshot, error) {
			switch since := time.Since(began); {
			case since < every/2:
				return before, nil
			case since < every/2+down:
				return discovery.Snapshot{}, errors.New("connection refused")
			default:
				return after, nil
			}
		})
		for down = range map[time.Duration]bool{short: true, long: true} {
			began = time.Now()
			var back time.Time
			passes, _ := runFor(t, publisher(from, store), down+2*time.Minute, nil)
			failures := 0
			for _, pass := range passes {
				if pass.Failed() {
					failures++
				} else if back.IsZero() && failures > 0 {
					back = pass.Ended
				}
			}
			if back.IsZero() {
				t.Fatalf("down for %v: %d failed looks, and none went well after", down, failures)
			}
			late := back.Sub(began.Add(every/2 + down))
			if most := map[bool]time.Duration{true: 1100 * time.Millisecond, false: every * 11 / 10}[down == short]; late > most {
				t.Errorf("down for %v: public %v after it came back", down, late)
			}
			if failures > int(down/every)+80 {
				t.Errorf("down for %v: %d failed looks", down, failures)
			}
		}
	})
}

// TestRunOutlivesAnOutageAtALongInterval: it publishes soon after the
// end of an outage, although its interval is an hour.
func TestRunOutlivesAnOutageAtALongInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, snapshot := time.Now(), keyring{}.snapshot("a")
		p := publisher(source(func() (discovery.Snapshot, error) {
			if time.Since(began) < 10*time.Minute {
				return discovery.Snapshot{}, errors.New("connection refused")
			}
			return snapshot, nil
		}), new(backendtest.Memory))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		var good []time.Duration
		err := p.Run(ctx, time.Hour, nil, func(pass publish.Pass) {
			if !pass.Failed() {
				good = append(good, pass.Ended.Sub(began))
			}
		})
		if err != nil || len(good) < 3 || len(good) > 4 || good[0] > 12*time.Minute || good[1] < time.Hour {
			t.Errorf("looks that went well after %v: %v", good, err)
		}
	})
}

// TestRunRetriesSoonAfterEachOutage: the second one is retried as soon as the
// first.
func TestRunRetriesSoonAfterEachOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, snapshot := 0, keyring{}.snapshot("a")
		passes, _ := runFor(t, publisher(source(func() (discovery.Snapshot, error) {
			if looks++; looks%5 != 0 {
				return discovery.Snapshot{}, errors.New("connection refused")
			}
			return snapshot, nil
		}), new(backendtest.Memory)), time.Minute, nil)
		for i := 5; i+1 < len(passes); i += 5 {
			if gap := passes[i+1].Began.Sub(passes[i].Ended); !passes[i].Failed() || gap > 300*time.Millisecond {
				t.Errorf("pass %d failed: %t; it was tried again after %v", i, passes[i].Failed(), gap)
			}
		}
		if len(passes) < 15 {
			t.Errorf("%d passes", len(passes))
		}
	})
}

type busy struct{ after time.Duration }

func (b busy) Error() string             { return "busy" }
func (b busy) RetryAfter() time.Duration { return b.after }

func TestRunHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passes, _ := runFor(t, publisher(source(func() (discovery.Snapshot, error) {
			return discovery.Snapshot{}, fmt.Errorf("server: %w", busy{20 * time.Second})
		})), 50*time.Second, nil)
		if len(passes) != 3 {
			t.Errorf("%d looks in 50 s at a server that wants 20 s of rest", len(passes))
		}
	})
}

// TestRunBoundsRetryAfter: a server can't make it wait for a day.
func TestRunBoundsRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passes, _ := runFor(t, publisher(source(func() (discovery.Snapshot, error) {
			return discovery.Snapshot{}, busy{24 * time.Hour}
		})), 5*time.Minute+time.Second, nil)
		if len(passes) != 6 {
			t.Errorf("%d looks in 5 minutes at a server that wants a day of rest", len(passes))
		}
	})
}

func TestRunFollowsAnExternalSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for announced, most := range map[time.Duration]int{2 * time.Second: 12, time.Millisecond: 24} { // at most each second
			snapshot := keyring{}.snapshot("a")
			snapshot.MaxAge = announced
			passes, _ := runFor(t, publisher(fixed(snapshot), new(backendtest.Memory)), 21*time.Second, nil)
			if len(passes) < most-4 || len(passes) > most {
				t.Errorf("%d looks in 21 s at keys that live for %v", len(passes), announced)
			}
		}
	})
}

func TestRunEndsIfTheTargetBelongsToAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		p := publisher(fixed(r.snapshot("a")), store)
		mustPublish(t, p)
		p.Source = fixed(cluster(r.snapshot("b"), "uid:two"))
		if _, err := runFor(t, p, time.Hour, nil); !errors.Is(err, publish.ErrOwner) {
			t.Errorf("error %v", err)
		}
	})
}

// TestRunEndsAtTheFirstCompletePass, although passes failed before.
func TestRunEndsAtTheFirstCompletePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		p := publisher(fixed(r.snapshot("a")), store)
		mustPublish(t, p)
		began, other := time.Now(), cluster(r.snapshot("b"), "uid:two")
		p.Source = source(func() (discovery.Snapshot, error) {
			if time.Since(began) < time.Minute {
				return discovery.Snapshot{}, errors.New("connection refused")
			}
			return other, nil
		})
		if passes, err := runFor(t, p, time.Hour, nil); !errors.Is(err, publish.ErrOwner) || len(passes) < 10 {
			t.Errorf("after %d passes error %v", len(passes), err)
		}
	})
}

// TestRunGoesOnWhenTheTargetIsTakenOver: the other cluster may give the target
// back, so the loop only logs the error.
func TestRunGoesOnWhenTheTargetIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		p := publisher(fixed(r.snapshot("a")), store)
		thief := publisher(fixed(cluster(r.snapshot("b"), "uid:two")), store)
		thief.Policy.TakeOver = true
		time.AfterFunc(15*time.Second, func() { mustPublish(t, thief) })
		passes, err := runFor(t, p, time.Minute, nil)
		if err != nil {
			t.Fatal(err)
		}
		if last := passes[len(passes)-1]; !errors.Is(last.Report.Targets[0].Err, publish.ErrOwner) {
			t.Errorf("the last pass: %v", last.Report.Targets[0].Err)
		}
	})
}

// TestRunFinishesTheWriteInProgress: the end comes while keys are written.
func TestRunFinishesTheWriteInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		ctx, cancel := context.WithCancel(t.Context())
		var ended atomic.Bool
		store.BeforePut = func(o publish.Object) error {
			if o.Name == discovery.JWKSPath {
				cancel()
				time.Sleep(time.Second)
				ended.Store(true)
			}
			return nil
		}
		told := 0
		if err := publisher(fixed(r.snapshot("a")), store).Run(ctx, every, nil, func(publish.Pass) { told++ }); err != nil || told != 1 {
			t.Fatalf("told of %d passes: %v", told, err)
		}
		if _, err := store.Open().Get(t.Context(), discovery.ConfigurationPath); err != nil || !ended.Load() {
			t.Errorf("the pass was cut short: %v", err)
		}
	})
}

// TestRunGivesUpAWriteThatHangs, a while after the context ended.
func TestRunGivesUpAWriteThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publisher(fixed(keyring{}.snapshot("a")), new(backendtest.Memory))
		ctx, cancel := context.WithCancel(t.Context())
		p.Targets[0].Backend, p.Timeout = unanswered{p.Targets[0].Backend, cancel}, time.Hour
		began := time.Now()
		if err := p.Run(ctx, every, nil, func(pass publish.Pass) { t.Errorf("told of a pass that its end cut short: %+v", pass) }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("it ended after %v", took)
		}
	})
}

// unanswered ends the test's context with the first write, and never answers it.
type unanswered struct {
	publish.Backend
	end func()
}

func (s unanswered) Put(ctx context.Context, _ publish.Object, _ publish.Precondition) error {
	s.end()
	<-ctx.Done()
	return ctx.Err()
}
