package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"oidc-publisher/discovery"
)

func outputFlag(formats ...string) cli.Flag {
	flag := stringFlag("output", formats[0], "print the result as `FORMAT`: "+strings.Join(formats, ", "))
	flag.Category = categoryOutput
	return flag
}

func outputFormat(c *cli.Context, formats ...string) (string, error) {
	return oneOf(c, "output", formats...)
}

func oneOf(c *cli.Context, flag string, choices ...string) (string, error) {
	if value := c.String(flag); slices.Contains(choices, value) {
		return value, nil
	}
	return "", usagef("--%s is %q, and must be one of %s", flag, c.String(flag), strings.Join(choices, ", "))
}

// What --log-format is where it is not given: watchLogger's differs.
const (
	logText    = `"text"`
	logOfWatch = "text on a terminal, else json"
	logOfPull  = "text; with --refresh json, unless stderr is a terminal"
)

func logFlags(otherwise string) []cli.Flag {
	level := stringFlag("log-level", "info", "tell on stderr what is at least `LEVEL`: debug, info, warn, error")
	format := stringFlag("log-format", "text", "tell it as `FORMAT`: text, json")
	level.Category, format.Category, format.DefaultText = categoryOutput, categoryOutput, otherwise
	return []cli.Flag{level, format}
}

// logger returns what speaks on stderr.
func logger(c *cli.Context) (*slog.Logger, error) {
	name, err := oneOf(c, "log-level", "debug", "info", "warn", "error")
	if err != nil {
		return nil, err
	}
	format, err := oneOf(c, "log-format", "text", "json")
	if err != nil {
		return nil, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return nil, err
	}
	if format == "json" {
		log := slog.New(slog.NewJSONHandler(masked{c.App.ErrWriter}, &slog.HandlerOptions{Level: level}))
		c.App.ErrWriter = &structured{c.App.ErrWriter, log}
		return log, nil
	}
	return slog.New(&plainHandler{w: c.App.ErrWriter, level: level}), nil
}

// masked is where whole records go: no JWT gets through.
type masked struct{ io.Writer }

func (m masked) Write(record []byte) (int, error) {
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
	say(h.w, kind, line.String())
	return nil
}

func (h *plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &plainHandler{w: h.w, level: h.level, attrs: append(slices.Clone(h.attrs), attrs...)}
}

func (h *plainHandler) WithGroup(string) slog.Handler { return h }

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func isTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }
