package publish

import (
	"sync"
	"time"
)

// moment is what is known of the present while clocks may jump: it is not
// before earliest and not after latest.
type moment struct{ earliest, latest time.Time }

func (m moment) rounded() moment {
	return moment{m.earliest.UTC().Round(0), m.latest.UTC().Round(0)}
}

// clock tells the present by the system's clock and by the time that passed
// since it was first asked, which no jump changes. The zero value is ready.
type clock struct {
	mu         sync.Mutex
	asked, was time.Time
}

// read is given what the system's clock shows.
func (c *clock) read(shows time.Time) moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() {
		c.asked, c.was = time.Now(), shows.Round(0)
	}
	steady := c.was.Add(time.Since(c.asked))
	if shows = shows.Round(0); shows.Before(steady) {
		return moment{shows, steady}
	}
	return moment{steady, shows}
}
