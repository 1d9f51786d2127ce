package watch

import (
	"log/slog"
	"regexp"
	"sync"
)

// teller says what is new and keeps quiet about what it said already: a
// fault that lasts an hour is one line when it comes and one when it goes.
type teller struct {
	log *slog.Logger
	mu  sync.Mutex
	// faults are what was said of a fault that still lasts, by whom it befell.
	faults map[string]map[string]bool
	// before and now are the warnings of the last pass and of this one.
	before, now map[string]bool
}

func newTeller(log *slog.Logger) *teller {
	return &teller{log: log, faults: map[string]map[string]bool{}, now: map[string]bool{}}
}

// outcome tells a fault of something when it appears, shows another face, or
// ends.
func (t *teller) outcome(of string, err error) {
	switch {
	case err == nil:
		if t.mended(of) {
			t.log.Info("works again", "of", of)
		}
	case t.news(of, err):
		t.log.Error("fault", "of", of, "error", err)
	default:
		t.log.Debug("still", "of", of, "error", err)
	}
}

// news reports whether a fault has a face that was not told yet, and takes it
// for told.
func (t *teller) news(of string, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := t.faults[of]
	if said == nil {
		said = map[string]bool{}
		t.faults[of] = said
	}
	face := Face(err)
	told := said[face]
	said[face] = true
	return !told
}

// mended forgets the faults of something and reports whether there were any.
func (t *teller) mended(of string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := t.faults[of]
	delete(t.faults, of)
	return len(said) > 0
}

// warning tells a warning of a pass unless the pass before had it too.
func (t *teller) warning(of, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	face := face(text)
	said := t.before[face] || t.now[face]
	t.now[face] = true
	if !said {
		t.log.Warn(text, "of", of)
	}
}

// endOfPass forgets the warnings that this pass did not repeat. A pass that
// saw nothing is none.
func (t *teller) endOfPass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before, t.now = t.now, map[string]bool{}
}

// varying is what differs each time in texts that say the same: the numbers
// that servers give to requests, and the local port of a connection.
var varying = regexp.MustCompile(`(?i)(request|host|trace)[ _-]?id[:=]? ?[^,; ]*|:[0-9]+->|stream ID [0-9]+|[0-9.]+(ns|µs|ms|s)\b|for [0-9]+ s\b`)

// Face is a fault's text without what varies while the fault is the same.
func Face(err error) string { return face(err.Error()) }

func face(text string) string { return varying.ReplaceAllString(text, "") }
