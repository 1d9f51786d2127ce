package pullsecret

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/pullsecret/lease/leasetest"
	"oidc-publisher/internal/logtest"
)

// clockwork is a keeper that renews on a fake clock and writes nothing.
type clockwork struct {
	t      *testing.T
	keeper *Keeper
	log    logtest.Log
	stop   func()

	mu    sync.Mutex
	times []time.Time
	life  time.Duration // 0 is unknown, less than 0 is over
	err   error
	hang  bool
}

func startClockwork(t *testing.T, life time.Duration) *clockwork {
	t.Helper()
	c := &clockwork{t: t, life: life}
	registry := prometheus.NewRegistry()
	c.keeper = NewKeeper(KeeperConfig{
		Job: Job{Secret: Secret{Name: "regcred"}, Exchange: c.exchange}, Timeout: 30 * time.Second,
		Log: slog.New(slog.NewTextHandler(&c.log, nil)),
	}, registry)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.keeper.renew(ctx) })
	c.stop = func() { cancel(); running.Wait() }
	return c
}

func (c *clockwork) exchange(ctx context.Context) (exchange.Credential, error) {
	c.mu.Lock()
	c.times = append(c.times, time.Now())
	life, err, hang := c.life, c.err, c.hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return exchange.Credential{}, ctx.Err()
	}
	got := exchange.Credential{Username: "token", Password: discovery.NewSecret(password)}
	if life != 0 {
		got.Expiry = time.Now().Add(life)
	}
	return got, err
}

func (c *clockwork) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// gaps are the times between exchanges from the first on.
func (c *clockwork) gaps(from int) (gaps []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := from + 1; i < len(c.times); i++ {
		gaps = append(gaps, c.times[i].Sub(c.times[i-1]))
	}
	return gaps
}

func (c *clockwork) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.times)
}

func pass(d time.Duration) {
	time.Sleep(d) // in a bubble
	synctest.Wait()
}

// TestRenewalFollowsTheLife: at two thirds, or up to a tenth earlier, and
// never at the same share twice.
func TestRenewalFollowsTheLife(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, 90 * time.Minute, 12 * time.Hour, 0} {
		synctest.Test(t, func(t *testing.T) {
			c := startClockwork(t, life)
			defer c.stop()
			full := life
			if full == 0 {
				full = unknownLife
			}
			pass(20 * full)
			gaps := c.gaps(0)
			if len(gaps) < 29 || len(gaps) > 34 {
				t.Errorf("life %v: %d exchanges in 20 lives", life, len(gaps))
			}
			different := map[time.Duration]bool{}
			for _, gap := range gaps {
				different[gap] = true
				if share := gap.Seconds() / full.Seconds(); share < 0.6-0.001 || share > 2.0/3+0.001 {
					t.Errorf("life %v: the next exchange after %v (%.3f)", life, gap, share)
				}
			}
			if len(different) < len(gaps)/2 {
				t.Errorf("life %v: no jitter: %v", life, gaps)
			}
			if strings.Contains(c.log.String(), password) {
				t.Error("the log has the password")
			}
		})
	}
}

// TestFailedExchangeKeepsTheOldCredential: it is retried before that expires, with
// growing waits up to a maximum.
func TestFailedExchangeKeepsTheOldCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startClockwork(t, time.Hour)
		defer c.stop()
		synctest.Wait()
		old := c.keeper.current()
		expiry := old.Expiry
		c.set(func() { c.err = errors.New("connection refused") })
		pass(time.Until(expiry) - time.Minute)
		if c.keeper.current() != old || old.expired(time.Now()) {
			t.Error("the old credential is gone before it expires")
		}
		gaps := c.gaps(1)
		if len(gaps) < 15 || gaps[0] > firstRetry {
			t.Errorf("tried again after %v", gaps)
		}
		for i, gap := range gaps {
			if gap > maxRetry {
				t.Errorf("try %d came after %v", i, gap)
			}
		}
		if n := strings.Count(c.log.String(), "level=ERROR"); n != 1 {
			t.Errorf("one lasting failure is logged %d times:\n%s", n, &c.log)
		}
		c.set(func() { c.err = nil })
		pass(maxRetry)
		if c.keeper.current() == old || c.keeper.current().Expiry.Before(expiry.Add(50*time.Minute)) {
			t.Error("there is no new credential")
		}
		if !strings.Contains(c.log.String(), `msg="exchange recovered"`) {
			t.Errorf("the recovery is not logged:\n%s", &c.log)
		}
		pass(50 * time.Minute)
		if gaps := c.gaps(c.count() - 2); gaps[0] < 30*time.Minute {
			t.Errorf("after the fault it exchanges every %v", gaps[0])
		}
	})
}

// TestRetryAfterIsHonoured up to a maximum, except for one attempt before the old
// credential expires.
func TestRetryAfterIsHonoured(t *testing.T) {
	for _, asked := range []time.Duration{7 * time.Minute, 3304 * time.Second, 30 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c := startClockwork(t, time.Hour)
			defer c.stop()
			synctest.Wait()
			expiry := c.keeper.current().Expiry
			c.set(func() { c.err = &exchange.UnavailableError{Service: "Cloudsmith", RetryAfter: asked} })
			pass(time.Until(expiry) + 3*time.Hour)
			last := 0
			c.mu.Lock()
			for i, at := range c.times {
				if left := expiry.Sub(at); left > 0 && left <= lastTry {
					last++
				} else if gap := at.Sub(c.times[max(i, 1)-1]); i > 1 && gap < min(asked, maxRequested) {
					t.Errorf("%v: tried again after %v", asked, gap)
				}
			}
			c.mu.Unlock()
			if last != 1 {
				t.Errorf("%v: %d tries just before the old credential expires", asked, last)
			}
			c.set(func() { c.err = nil })
			if pass(maxRequested); c.keeper.current().Expiry.Equal(expiry) {
				t.Errorf("%v: an hour after the fault there is no new credential", asked)
			}
		})
	}
}

// TestRepairsSlowDown: a secret that others change is repaired at once, and if
// they go on, ever more slowly, until they stop or there is another credential.
func TestRepairsSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w write
		c := credential{at: time.Now()}
		for range promptRepairs {
			if w = w.next(c, version{}); w.delay(c) != 0 {
				t.Errorf("a delay of %v after %d writes", w.delay(c), w.count)
			}
		}
		before := time.Duration(0)
		for range 20 {
			w = w.next(c, version{})
			if now := w.delay(c); now < before || now < firstAgain || now > maxAgain {
				t.Errorf("a delay of %v after %d writes, and %v before", now, w.count, before)
			} else {
				before = now
			}
			time.Sleep(w.delay(c))
		}
		if before != maxAgain {
			t.Errorf("the longest delay is %v", before)
		}
		if w.delay(credential{at: time.Now()}) != 0 {
			t.Error("a new credential waits")
		}
		time.Sleep(3 * maxAgain)
		if w.delay(c) != 0 || w.next(c, version{}).delay(c) != 0 {
			t.Error("a delay after a quiet time")
		}
	})
}

// TestBadExchanges: none of them gives a new credential or ends the loop.
func TestBadExchanges(t *testing.T) {
	for name, spoil := range map[string]func(*clockwork){
		"hangs":   func(c *clockwork) { c.hang = true },
		"expired": func(c *clockwork) { c.life = -time.Minute },
		"refused": func(c *clockwork) { c.err = &exchange.RefusedError{Service: "Cloudsmith", Status: 401, Reason: "no"} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startClockwork(t, time.Hour)
				defer c.stop()
				synctest.Wait()
				old := c.keeper.current()
				c.set(func() { spoil(c) })
				pass(2 * time.Hour)
				if c.keeper.current() != old {
					t.Error("the old credential was replaced")
				}
				if n := c.count(); n < 20 {
					t.Errorf("it tried %d times in two hours", n)
				}
				if text := c.keeper.health.Dead(); text != "" {
					t.Error(text)
				}
				c.set(func() { c.hang, c.life, c.err = false, time.Hour, nil })
				pass(2 * time.Minute)
				if c.keeper.current() == old {
					t.Error("there is no new credential")
				}
			})
		})
	}
}

// TestConflictBackoff: a Backoff with a Cap ends there, whatever its Steps.
func TestConflictBackoff(t *testing.T) {
	tries, waited := 0, time.Duration(0)
	for left := conflictBackoff; left.Steps > 0; tries++ {
		waited += left.Step()
	}
	if tries != conflictBackoff.Steps || waited > 10*time.Second {
		t.Errorf("%d tries in %v, want %d", tries, waited, conflictBackoff.Steps)
	}
}

// TestHangingElection, because of a credential plugin that ignores deadlines: a
// replica that stands by would never lead, and a restart helps.
func TestHangingElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		config := new(leasetest.Server).Connect().Config()
		plugin := &leasetest.Plugin{Next: config.Transport, Returns: make(chan struct{})}
		config.Transport = plugin
		elector := connected(t, config).Elector("default", "lease", "a")
		k := NewKeeper(KeeperConfig{Timeout: 30 * time.Second, Elector: elector, Log: slog.New(slog.DiscardHandler)}, prometheus.NewRegistry())
		var running sync.WaitGroup
		defer running.Wait()
		defer close(plugin.Returns)
		defer cancel()
		running.Go(func() { _ = k.Run(ctx) })
		pass(4 * time.Minute)
		if text := k.health.Dead(); text != "" {
			t.Error(text)
		}
		pass(2 * time.Minute)
		if text := k.health.Dead(); !strings.Contains(text, "election") {
			t.Errorf("it says %q", text)
		}
	})
}

// TestHealth: a loop that stands still is dead, but not while an exchange may
// still be under way.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(KeeperConfig{Timeout: 30 * time.Second, Log: slog.New(slog.DiscardHandler)}, prometheus.NewRegistry())
		k.health.Start()
		pass(2 * time.Minute)
		if text := k.health.Dead(); text != "" {
			t.Error(text)
		}
		pass(time.Hour)
		if k.health.Dead() == "" {
			t.Error("it has stood still for an hour and is alive")
		}
	})
}
