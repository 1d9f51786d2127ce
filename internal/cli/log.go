package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"oidc-publisher/internal/httpx"
)

// Defaults of --log-format for the help: Logger's, and ServiceLogger's.
const (
	LogText      = `"text"`
	LogOfService = "text on a terminal, else json"
)

// LogFlags returns --log-level and --log-format, whose help shows defaultFormat.
func LogFlags(defaultFormat string) []Flag {
	format := Choice("log-format", "text", "`FORMAT` of the log", "text", "json")
	format.DefaultText = defaultFormat
	return []Flag{Choice("log-level", "info", "minimum log `LEVEL`", "debug", "info", "warn", "error"), format}
}

// Logger returns the logger that --log-level and --log-format ask for. It writes
// to stderr.
func Logger(c *Context) *slog.Logger { return newLogger(c, c.String("log-format")) }

// ServiceLogger is Logger for a program that runs unattended: without
// --log-format it writes JSON unless stderr is a terminal.
func ServiceLogger(c *Context) *slog.Logger {
	if !c.IsSet("log-format") && !IsTerminal(c.App.ErrWriter) {
		return newLogger(c, "json")
	}
	return Logger(c)
}

func newLogger(c *Context, format string) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.String("log-level"))) // a Choice
	if format == "json" {
		log := slog.New(slog.NewJSONHandler(Masked{c.App.ErrWriter}, &slog.HandlerOptions{Level: level}))
		c.App.ErrWriter = &structured{c.App.ErrWriter, log}
		return log
	}
	return slog.New(&textHandler{w: c.App.ErrWriter, level: level})
}

// Masked masks every JWT in what is written through it.
type Masked struct{ io.Writer }

// Write takes a whole record: half a token would not be recognised.
func (m Masked) Write(record []byte) (int, error) {
	if _, err := io.WriteString(m.Writer, httpx.MaskTokens(string(record))); err != nil {
		return 0, err
	}
	return len(record), nil
}

// structured is stderr with --log-format json: Say writes log records there, so
// that the program's last error is JSON too.
type structured struct {
	io.Writer
	log *slog.Logger
}

// textHandler writes log records in the form of Say.
type textHandler struct {
	w     io.Writer
	level slog.Level
	attrs []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&line, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	kind := strings.ToLower(r.Level.String())
	if r.Level == slog.LevelWarn {
		kind = "warning"
	}
	Say(h.w, kind, line.String())
	return nil
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{w: h.w, level: h.level, attrs: append(slices.Clone(h.attrs), attrs...)}
}

func (h *textHandler) WithGroup(string) slog.Handler { return h }
