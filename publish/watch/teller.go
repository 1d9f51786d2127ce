package watch

import (
	"log/slog"
	"sync"
)

// teller says what is new and keeps quiet about what it said already: a
// fault that lasts an hour is one line when it comes and one when it goes.
type teller struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]string
	// before and now are the warnings of the last pass and of this one.
	before, now map[string]bool
}

// outcome tells a fault of something when it appears, changes or ends.
func (t *teller) outcome(of string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	t.mu.Lock()
	before := t.last[of]
	t.last[of] = text
	t.mu.Unlock()
	switch {
	case text == before:
		t.log.Debug("unchanged", "of", of, "error", text)
	case text == "":
		t.log.Info("works again", "of", of)
	default:
		t.log.Error("fault", "of", of, "error", text)
	}
}

// warning tells a warning of a pass unless the pass before had it too.
func (t *teller) warning(of, text string) {
	if t.now == nil {
		t.now = map[string]bool{}
	}
	said := t.before[text] || t.now[text]
	t.now[text] = true
	if !said {
		t.log.Warn(text, "of", of)
	}
}

// endOfPass forgets warnings that this pass did not repeat.
func (t *teller) endOfPass() { t.before, t.now = t.now, nil }

// warningOnce tells a warning when it appears or changes.
func (t *teller) warningOnce(of, text string) {
	t.mu.Lock()
	before := t.last[of]
	t.last[of] = text
	t.mu.Unlock()
	if text != "" && text != before {
		t.log.Warn(text)
	}
}
