package service

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
)

// Failures logs a failure when it starts, when it has a message that it did not
// have before, and when it ends: an outage of an hour with one reason is two
// lines. Of each failure it remembers the latest messages only. A message names
// the act, as in "publish failed" and "publish recovered". It is safe for
// concurrent use.
type Failures struct {
	log *slog.Logger
	mu  sync.Mutex
	// logged are the messages of failures that last, the latest last, by act and
	// attributes.
	logged map[string][]string
	// last and current are the warnings of the last pass and of this one.
	last, current map[string]bool
}

// maxMessages is how many messages of one failure are remembered.
const maxMessages = 16

// NewFailures returns Failures that logs to log.
func NewFailures(log *slog.Logger) *Failures {
	return &Failures{log: log, logged: map[string][]string{}, current: map[string]bool{}}
}

// Report logs the outcome of an act, such as "publish", unless it was already
// logged. The attributes, such as "target", name, identify the subject.
func (f *Failures) Report(act string, err error, attributes ...any) {
	switch {
	case err == nil:
		if f.Forget(act, attributes...) {
			f.log.Info(act+" recovered", attributes...)
		}
	case f.IsNew(act, err, attributes...):
		f.log.Error(act+" failed", append(attributes[:len(attributes):len(attributes)], "error", err)...)
	default:
		f.log.Debug(act+" still fails", append(attributes[:len(attributes):len(attributes)], "error", err)...)
	}
}

// IsNew reports whether this message is none of the latest that were logged since
// the act last succeeded, and counts it as logged.
func (f *Failures) IsNew(act string, err error, attributes ...any) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := key(act, attributes)
	message := withoutIDs(err.Error())
	before := f.logged[key]
	others := slices.DeleteFunc(slices.Clone(before), func(m string) bool { return m == message })
	isNew := len(others) == len(before)
	f.logged[key] = append(others[max(0, len(others)+1-maxMessages):], message)
	return isNew
}

// Forget forgets the failures of an act and reports whether there were any.
func (f *Failures) Forget(act string, attributes ...any) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := key(act, attributes)
	failed := len(f.logged[key]) > 0
	delete(f.logged, key)
	return failed
}

// Warn logs a warning of a pass unless the pass before had it too.
func (f *Failures) Warn(text string, attributes ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	message := key(withoutIDs(text), attributes)
	known := f.last[message] || f.current[message]
	f.current[message] = true
	if !known {
		f.log.Warn(text, attributes...)
	}
}

// EndPass forgets the warnings that this pass did not repeat. A pass that could
// not fetch anything does not count.
func (f *Failures) EndPass() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last, f.current = f.current, map[string]bool{}
}

func key(act string, attributes []any) string {
	return fmt.Sprintf("%q", append([]any{act}, attributes...))
}

// ids matches the parts that differ between messages with the same meaning:
// request IDs of servers, local ports, and durations.
var ids = regexp.MustCompile(`(?i)(request|host|trace)[ _-]?id[:=]? ?[^,; ]*|:[0-9]+->|stream ID [0-9]+|[0-9.]+(ns|µs|ms|s)\b|for [0-9]+ s\b`)

func withoutIDs(text string) string { return ids.ReplaceAllString(text, "") }
