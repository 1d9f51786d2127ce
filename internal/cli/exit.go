package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"oidc-publisher/discovery"
)

// Exit codes: a contract with scripts.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitRefused = 3
	ExitPartly  = 4
)

// UsageError is a command line that can't be carried out.
type UsageError struct {
	// Message says what is wrong, Hint what to do; Hint may be empty.
	Message, Hint string
}

func (e *UsageError) Error() string { return e.Message }

// Usagef returns a UsageError without a hint.
func Usagef(format string, args ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, args...)}
}

// ExitError is an outcome that was already printed and needs only its code.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// reportError prints an error on stderr and returns the exit code. It is the
// only place that does either.
func reportError(stderr io.Writer, err error, refused func(error) bool) int {
	var usage *UsageError
	var printed *ExitError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &printed):
		return printed.Code
	case errors.As(err, &usage):
		Say(stderr, "error", usage.Message)
		if usage.Hint != "" {
			Say(stderr, "hint", usage.Hint)
		}
		return ExitUsage
	case refused(err):
		Say(stderr, "refused", err.Error())
		return ExitRefused
	case errors.Is(err, context.Canceled):
		Say(stderr, "error", "interrupted")
		return ExitFailed
	default:
		Say(stderr, "error", err.Error())
		return ExitFailed
	}
}

// Say prints a message of one or more lines, each with the program's name, since
// the output of other tools may surround it. It masks tokens that were given
// where a path or a name belongs.
func Say(w io.Writer, kind, message string) {
	if s, ok := w.(*structured); ok {
		s.log.Error(message, "kind", kind) // masks by itself
		return
	}
	for line := range strings.Lines(message) {
		_, _ = fmt.Fprintf(w, "%s: %s: %s\n", Name, kind, Printable(discovery.MaskTokens(strings.TrimRight(line, "\n"))))
	}
}

// Printable escapes what a terminal or an XML parser would act upon.
func Printable(s string) string {
	var out strings.Builder
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			quoted := strconv.QuoteRune(r)
			out.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}
