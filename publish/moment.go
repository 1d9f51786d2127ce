package publish

import (
	"slices"
	"sync"
	"time"
)

// moment is what is known of the present while clocks may jump: it is not
// before earliest and not after latest.
type moment struct{ earliest, latest time.Time }

func (m moment) rounded() moment {
	return moment{m.earliest.UTC().Round(0), m.latest.UTC().Round(0)}
}

// clock tells the present by the system's clock and by the time that really
// passed, which no jump changes. It knows how far the two were apart at each
// reading of the last grace; the present is between the extremes.
//
// A jump counts for one grace and is then believed, so a start before NTP, or
// a machine that slept, is made up for. It is safe because the grace is what
// it protects: a key that was stamped in a reading which is no longer known
// has had its whole grace in time that really passed, and one that was stamped
// since can't end before it has. The price is that a jump may let a key stay
// for up to one grace more. The zero value is ready.
type clock struct {
	mu         sync.Mutex
	asked, was time.Time
	known      []span // the oldest first
}

// span is how far the system's clock was ahead of the steady one in the
// readings from began, in time since the first, until the next span.
type span struct{ began, least, most time.Duration }

// spans is in how many parts the last grace is remembered: each ends too late
// by at most its length, which is the safe side.
const spans = 64

// read is given what the system's clock shows, and the grace.
func (c *clock) read(shows time.Time, grace time.Duration) moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() {
		c.asked, c.was = time.Now(), shows.Round(0)
	}
	passed := time.Since(c.asked)
	steady := c.was.Add(passed)
	ahead := shows.Round(0).Sub(steady)
	c.remember(passed, ahead, grace)
	least, most := ahead, ahead
	for _, s := range c.known {
		least, most = min(least, s.least), max(most, s.most)
	}
	return moment{steady.Add(least), steady.Add(most)}
}

// remember takes in a reading and forgets the spans that ended a grace ago.
// One that no other followed has not ended: nobody looked.
func (c *clock) remember(passed, ahead, grace time.Duration) {
	if n := len(c.known); n == 0 || passed-c.known[n-1].began >= grace/spans {
		c.known = append(c.known, span{passed, ahead, ahead})
	}
	last := &c.known[len(c.known)-1]
	last.least, last.most = min(last.least, ahead), max(last.most, ahead)
	over := 0
	for over+1 < len(c.known) && passed-c.known[over+1].began >= grace {
		over++
	}
	c.known = slices.Delete(c.known, 0, over)
}
