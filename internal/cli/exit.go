package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"oidc-publisher/internal/httpx"
)

// Exit codes. Scripts depend on them.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitRefused = 3
	ExitPartly  = 4
)

// ExitError is an outcome that was already printed; only its exit code is left.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// Run runs the program, prints its error on stderr and returns its exit code.
// refused reports whether an error is a refusal by a rule or a service. It is the
// only place that maps errors to exit codes.
func Run(ctx context.Context, app *App, args []string, refused func(error) bool) int {
	err := app.RunContext(ctx, flagsFirst(app, args))
	stderr := app.ErrWriter // which Logger replaces
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

// Say prints a message on stderr. Each line starts with the program's name,
// because the output of other tools may surround it, and tokens are masked. With
// --log-format json the message is a log record.
func Say(w io.Writer, kind, message string) {
	if s, ok := w.(*structured); ok {
		s.log.Error(message, "kind", kind) // the logger masks tokens
		return
	}
	for line := range strings.Lines(message) {
		_, _ = fmt.Fprintf(w, "%s: %s: %s\n", Name, kind, Printable(httpx.MaskTokens(strings.TrimRight(line, "\n"))))
	}
}
