package pullsecret

import (
	"log/slog"
	"sync"
)

// teller says what is new and keeps quiet about what it said already: a fault
// that lasts an hour is one line when it comes and one when it goes.
type teller struct {
	log    *slog.Logger
	mu     sync.Mutex
	faults map[string]string
}

func newTeller(log *slog.Logger) *teller { return &teller{log: log, faults: map[string]string{}} }

// outcome tells a fault of something when it appears, changes or ends.
func (t *teller) outcome(of string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	said, faulty := t.faults[of]
	switch {
	case err == nil && faulty:
		delete(t.faults, of)
		t.log.Info("works again", "of", of)
	case err == nil:
	case faulty && said == err.Error():
		t.log.Debug("still", "of", of, "error", err)
	default:
		t.faults[of] = err.Error()
		t.log.Error("fault", "of", of, "error", err)
	}
}

// forget is for what is no more.
func (t *teller) forget(of string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.faults, of)
}
