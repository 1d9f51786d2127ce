package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"
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

// noCommand is the action of the program if there is no known command.
func noCommand(c *Context) error {
	if !c.Args().Present() || c.Args().First() == "help" {
		return urfave.ShowAppHelp(c)
	}
	return unknownCommand(c, c.App.Commands)
}

// NoSubcommand is the action of a command that only has subcommands, one for
// each service.
func NoSubcommand(c *Context) error {
	var names []string
	for _, sub := range c.Command.Subcommands {
		names = append(names, sub.Name)
	}
	return &UsageError{Message: c.Command.Name + " needs a service: " + strings.Join(names, ", "), Hint: "see " + c.Command.HelpName + " --help"}
}

// unknownCommand refuses the first argument, which names none of the commands.
func unknownCommand(c *Context, known []*Command) error {
	given := c.Args().First()
	return &UsageError{
		Message: fmt.Sprintf("there is no command %q", strings.TrimPrefix(c.Command.HelpName+" "+given, Name+" ")),
		Hint:    hint(c, urfave.SuggestCommand(known, given)),
	}
}

// hint puts urfave's "Did you mean …?" before where the help is.
func hint(c *Context, suggestion string) string {
	help := "see " + c.Command.HelpName + " --help"
	if suggestion == "" {
		return help
	}
	return suggestion + " Otherwise " + help
}

// invalidValue is how the flag package and urfave report the value of a flag or
// of an environment variable.
var invalidValue = regexp.MustCompile(`(?s)^(?:invalid (?:boolean )?value|could not parse) ("(?:[^"\\]|\\.)*") ` +
	`(?:as \w+ value from environment variable "(\w+)" )?for (?:flag )?-*([a-z-]+): `)

// onUsageError rewrites urfave's errors about flags.
func onUsageError(c *Context, err error, _ bool) error {
	usage := &UsageError{Message: err.Error(), Hint: hint(c, "")}
	if given, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		given = strings.TrimLeft(given, "-")
		usage.Message = "there is no flag --" + given
		if nearest := urfave.SuggestFlag(c.Command.Flags, given, true); nearest != "" {
			usage.Hint = hint(c, fmt.Sprintf("Did you mean %q?", nearest))
		}
	} else if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		usage.Message = "--" + strings.TrimLeft(name, "-") + " needs a value"
	} else if found := invalidValue.FindStringSubmatch(err.Error()); found != nil {
		value, setting := found[1], "--"+found[3]+" "
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		if found[2] != "" {
			setting = found[2] + "="
		}
		usage.Message = setting + value + ": " + expected(flagOf(c.Command, found[3]), value)
	}
	return usage
}

// expected says what a value of the flag must look like.
func expected(flag Flag, value string) string {
	switch flag := flag.(type) {
	case *urfave.BoolFlag:
		return "must be true or false"
	case *urfave.DurationFlag:
		example := shortDuration(flag.Value)
		if flag.Value == 0 {
			example = "30s"
		}
		if _, err := strconv.ParseUint(value, 10, 32); err == nil {
			return "use a unit, such as " + value + example[len(example)-1:]
		}
		return "not a duration, such as " + example
	default:
		return "not a valid value"
	}
}

// shortDuration writes a duration without trailing zero units: 24h, not 24h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
