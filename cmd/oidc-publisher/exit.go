package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/publish"
)

// Exit codes: a contract with scripts.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
	exitPartly  = 4
)

// usageError is a command line that can't be carried out.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// exitError is an outcome that was already told and needs only its code.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// report tells an error on stderr and returns the exit code. It is the only
// place that does either.
func report(stderr io.Writer, err error) int {
	var usage *usageError
	var told *exitError
	var refused *exchange.RefusedError
	var forAPI *exchange.APITokenError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &told):
		return told.code
	case errors.As(err, &usage):
		say(stderr, "error", usage.message)
		if usage.hint != "" {
			say(stderr, "hint", usage.hint)
		}
		return exitUsage
	case errors.Is(err, publish.ErrRefused), errors.As(err, &refused), errors.As(err, &forAPI), errors.Is(err, exchange.ErrNoSubject):
		say(stderr, "refused", err.Error())
		return exitRefused
	case errors.Is(err, context.Canceled):
		say(stderr, "error", "interrupted")
		return exitFailed
	default:
		say(stderr, "error", err.Error())
		return exitFailed
	}
}

// say prints a message of one or more lines, each with the program's name, as
// other tools' output may stand around it. Tokens that were given where a path
// or a name belongs are masked.
func say(w io.Writer, kind, message string) {
	if s, ok := w.(*structured); ok {
		s.log.Error(message, "kind", kind) // masks by itself
		return
	}
	for line := range strings.Lines(message) {
		_, _ = fmt.Fprintf(w, "%s: %s: %s\n", name, kind, printable(discovery.MaskTokens(strings.TrimRight(line, "\n"))))
	}
}
