package cli

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Output returns the flag --output for the given formats, the first of which
// is the default.
func Output(formats ...string) Flag {
	flag := String("output", formats[0], "`FORMAT` of the result: "+strings.Join(formats, ", "))
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

// PrintJSON prints a result as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// Printable escapes characters that control a terminal or break XML.
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

// IsTerminal reports whether a file is a terminal.
func IsTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }

// Colour reports whether w is a terminal whose user wants colour (no-color.org).
func Colour(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && IsTerminal(file)
}
