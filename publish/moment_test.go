package publish

import (
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
				if got := c.read(began); !got.earliest.Equal(began) || !got.latest.Equal(began) {
					t.Errorf("at first it reads %v", got)
				}
				time.Sleep(passes)
				got := c.read(time.Now().Add(tc.jump))
				if got.earliest.Sub(began) != tc.earliest || got.latest.Sub(began) != tc.latest {
					t.Errorf("it is between %v and %v after the start, want %v and %v", got.earliest.Sub(began), got.latest.Sub(began), tc.earliest, tc.latest)
				}
			})
		})
	}
}
