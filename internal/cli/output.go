package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"oidc-publisher/discovery"
)

// Output returns the flag --output for the given formats, the first of which
// is the default.
func Output(formats ...string) Flag {
	flag := String("output", formats[0], "print the result as `FORMAT`: "+strings.Join(formats, ", "))
	flag.Category = CategoryOutput
	return flag
}

// OutputFormat returns the value of the flag that Output made.
func OutputFormat(c *Context, formats ...string) (string, error) {
	return OneOf(c, "output", formats...)
}

// OneOf returns a flag's value if it is one of the choices.
func OneOf(c *Context, flag string, choices ...string) (string, error) {
	if value := c.String(flag); slices.Contains(choices, value) {
		return value, nil
	}
	return "", Usagef("--%s is %q, and must be one of %s", flag, c.String(flag), strings.Join(choices, ", "))
}

// Defaults of --log-format as the help shows them: that of ServiceLogger differs.
const (
	LogText      = `"text"`
	LogOfService = "text on a terminal, else json"
)

// LogFlags returns --log-level and --log-format.
func LogFlags(otherwise string) []Flag {
	level := String("log-level", "info", "tell on stderr what is at least `LEVEL`: debug, info, warn, error")
	format := String("log-format", "text", "tell it as `FORMAT`: text, json")
	level.Category, format.Category, format.DefaultText = CategoryOutput, CategoryOutput, otherwise
	return []Flag{level, format}
}

// Logger returns the logger that --log-level and --log-format ask for; it writes
// to stderr.
func Logger(c *Context) (*slog.Logger, error) {
	format, err := OneOf(c, "log-format", "text", "json")
	if err != nil {
		return nil, err
	}
	return newLogger(c, format)
}

func newLogger(c *Context, format string) (*slog.Logger, error) {
	name, err := OneOf(c, "log-level", "debug", "info", "warn", "error")
	if err != nil {
		return nil, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return nil, err
	}
	if format == "json" {
		log := slog.New(slog.NewJSONHandler(Masked{c.App.ErrWriter}, &slog.HandlerOptions{Level: level}))
		c.App.ErrWriter = &structured{c.App.ErrWriter, log}
		return log, nil
	}
	return slog.New(&plainHandler{w: c.App.ErrWriter, level: level}), nil
}

// Masked writes whole records with every JWT in them masked.
type Masked struct{ io.Writer }

// Write takes one whole record.
func (m Masked) Write(record []byte) (int, error) {
	if _, err := io.WriteString(m.Writer, discovery.MaskTokens(string(record))); err != nil {
		return 0, err
	}
	return len(record), nil
}

// structured is a stderr on which whole messages are log records: the last
// error of a program whose log is JSON has to be JSON too.
type structured struct {
	io.Writer
	log *slog.Logger
}

// plainHandler writes log records the way the program speaks elsewhere.
type plainHandler struct {
	w     io.Writer
	level slog.Level
	attrs []slog.Attr
}

func (h *plainHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *plainHandler) Handle(_ context.Context, r slog.Record) error {
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
	kind := map[slog.Level]string{slog.LevelWarn: "warning"}[r.Level]
	if kind == "" {
		kind = strings.ToLower(r.Level.String())
	}
	Say(h.w, kind, line.String())
	return nil
}

func (h *plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &plainHandler{w: h.w, level: h.level, attrs: append(slices.Clone(h.attrs), attrs...)}
}

func (h *plainHandler) WithGroup(string) slog.Handler { return h }

// PrintJSON prints a result as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// IsTerminal reports whether a file is a terminal.
func IsTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }

// Colour reports whether w is a terminal whose user wants colour (no-color.org).
func Colour(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && IsTerminal(file)
}

// ServiceLogger is Logger for a program that runs unattended: its default is
// JSON unless stderr is a terminal.
func ServiceLogger(c *Context) (*slog.Logger, error) {
	if file, ok := c.App.ErrWriter.(*os.File); !c.IsSet("log-format") && (!ok || !IsTerminal(file)) {
		return newLogger(c, "json")
	}
	return Logger(c)
}
