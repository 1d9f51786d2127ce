package publish

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockThatJumps: what happens is stamped with the later of what the
// system's clock shows and what passed since the start, and what is over is over
// by both.
func TestClockThatJumps(t *testing.T) {
	const passes, day = time.Hour, 24 * time.Hour
	for name, tc := range map[string]struct{ jump, earliest, latest time.Duration }{
		"right":     {0, passes, passes},
		"ahead":     {day, passes, passes + day},
		"behind":    {-day, passes - day, passes},
		"far ahead": {9999 * day, passes, passes + 9999*day},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c clock
				began := time.Now().Round(0)
				if got := c.read(began, 2*day); !got.earliest.Equal(began) || !got.latest.Equal(began) {
					t.Errorf("at first it reads %v", got)
				}
				time.Sleep(passes)
				got := c.read(time.Now().Add(tc.jump), 2*day)
				if got.earliest.Sub(began) != tc.earliest || got.latest.Sub(began) != tc.latest {
					t.Errorf("it is between %v and %v after the start, want %v and %v", got.earliest.Sub(began), got.latest.Sub(began), tc.earliest, tc.latest)
				}
			})
		})
	}
}

// TestClockThatWasMended: what a clock showed is forgotten one grace after it
// was seen for the last time, so that its jump is not held against it for life.
func TestClockThatWasMended(t *testing.T) {
	const grace, look = 24 * time.Hour, 10 * time.Second
	for name, jump := range map[string]time.Duration{
		"started behind, or slept":    8 * time.Hour,
		"started ahead":               -8 * time.Hour,
		"was right the whole time":    0,
		"started far behind, in 1970": 56 * 365 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c clock
				c.read(time.Now(), grace)
				goesOn := func(d, earliest, latest time.Duration) {
					t.Helper()
					for range d / look {
						time.Sleep(look)
						got, steady := c.read(time.Now().Add(jump), grace), time.Now().Round(0)
						if got.earliest.Sub(steady) != earliest || got.latest.Sub(steady) != latest {
							t.Fatalf("it is between %v and %v off, want %v and %v", got.earliest.Sub(steady), got.latest.Sub(steady), earliest, latest)
						}
					}
				}
				goesOn(grace, min(0, jump), max(0, jump))
				for range grace / spans / look { // it is forgotten in between
					time.Sleep(look)
					c.read(time.Now().Add(jump), grace)
				}
				goesOn(grace, jump, jump)
				if len(c.known) > spans+2 {
					t.Errorf("%d spans are known", len(c.known))
				}
			})
		})
	}
}

// TestClockShortensNoGrace: whatever a clock shows and whenever it is read,
// what was stamped is not over before its grace really passed; and it is over
// soon after the clock has been steady for a grace.
func TestClockShortensNoGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(30) {
			random := rand.New(rand.NewPCG(seed, 3))
			upTo := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }
			const grace = time.Hour
			var c clock
			var jump time.Duration
			retired := map[time.Time]time.Time{} // by when it really was
			for range 300 {
				time.Sleep(upTo(grace / 10))
				if random.IntN(20) == 0 {
					jump = upTo(4*grace) - 2*grace
				}
				now := c.read(time.Now().Add(jump), grace)
				for really, stamp := range retired {
					over := !now.earliest.Before(stamp.Add(grace))
					if passed := time.Since(really); over && passed < grace {
						t.Fatalf("seed %d: over after %v", seed, passed)
					}
					if over {
						delete(retired, really)
					}
				}
				retired[time.Now()] = now.latest
			}
			for range 2 * spans {
				time.Sleep(grace / spans)
				c.read(time.Now().Add(jump), grace)
			}
			now := c.read(time.Now().Add(jump), grace)
			if !now.earliest.Equal(now.latest) || !now.latest.Equal(time.Now().Add(jump).Round(0)) {
				t.Fatalf("seed %d: the clock is steady, and it reads %v", seed, now)
			}
		}
	})
}

// TestClockWithoutGrace believes what it is shown.
func TestClockWithoutGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		for _, jump := range []time.Duration{0, time.Hour, -time.Hour} {
			time.Sleep(time.Second)
			shows := time.Now().Add(jump).Round(0)
			if got := c.read(shows, 0); !got.earliest.Equal(shows) || !got.latest.Equal(shows) {
				t.Errorf("it reads %v, want %v", got, shows)
			}
		}
	})
}
