package cli

import (
	"fmt"
	"regexp"
	"slices"
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

// noCommand is the action of the program without a known command.
func noCommand(c *Context) error {
	if !c.Args().Present() {
		return urfave.ShowAppHelp(c)
	}
	given := c.Args().First()
	if given == "help" {
		return urfave.ShowAppHelp(c)
	}
	return unknownCommand(c.App.Commands, given, given, "see "+Name+" --help")
}

// NoSubcommand is the action of a command that only has subcommands, one for
// each service.
func NoSubcommand(c *Context) error {
	if c.Args().Present() {
		return unknownSubcommand(c)
	}
	var names []string
	for _, sub := range c.Command.Subcommands {
		names = append(names, sub.Name)
	}
	return &UsageError{Message: subcommandName(c) + " needs a service: " + strings.Join(names, ", "), Hint: "see " + FullName(c) + " --help"}
}

func unknownSubcommand(c *Context) error {
	given := c.Args().First()
	return unknownCommand(c.Command.Subcommands, given, subcommandName(c)+" "+given, "see "+FullName(c)+" --help")
}

func subcommandName(c *Context) string { return strings.TrimPrefix(FullName(c), Name+" ") }

func unknownCommand(known []*Command, given, fullName, otherwise string) error {
	return &UsageError{
		Message: fmt.Sprintf("there is no command %q", fullName),
		Hint:    suggest(urfave.SuggestCommand(known, given), otherwise),
	}
}

// suggest puts urfave's "Did you mean …?" before the other hint.
func suggest(nearest, otherwise string) string {
	if nearest == "" {
		return otherwise
	}
	return nearest + " Otherwise " + otherwise
}

// onUsageError rewrites urfave's errors about flags.
func onUsageError(c *Context, err error, _ bool) error {
	usage := &UsageError{Message: err.Error(), Hint: "see " + Name + " --help"}
	if c.Command == nil {
		return usage
	}
	if c.Command.Name != "" && c.Command.Name != Name {
		usage.Hint = "see " + FullName(c) + " --help"
	}
	if given, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		given = strings.TrimLeft(given, "-")
		usage.Message = "there is no flag --" + given
		if nearest := urfave.SuggestFlag(c.Command.Flags, given, true); nearest != "" {
			usage.Hint = suggest(fmt.Sprintf("Did you mean %q?", nearest), usage.Hint)
		}
	} else if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		usage.Message = "--" + strings.TrimLeft(name, "-") + " needs a value"
	} else if setting, value, flag := invalidValue(c.Command, err.Error()); flag != nil {
		usage.Message = setting + value + ": " + expected(flag, value)
	}
	return usage
}

// How the flag package and urfave report the values of flags and of
// environment variables.
var (
	invalidFlag = regexp.MustCompile(`(?s)^invalid (?:boolean )?value ("(?:[^"\\]|\\.)*") for (?:flag )?-+([a-z-]+): `)
	invalidEnv  = regexp.MustCompile(`(?s)^could not parse ("(?:[^"\\]|\\.)*") as \w+ value from environment variable "(\w+)" for flag ([a-z-]+): `)
)

// invalidValue returns the invalid value, what stands before it where the user
// wrote it, and its flag.
func invalidValue(command *Command, message string) (setting, value string, flag Flag) {
	name := ""
	if found := invalidFlag.FindStringSubmatch(message); found != nil {
		name, setting, value = found[2], "--"+found[2]+" ", unquoted(found[1])
	} else if found := invalidEnv.FindStringSubmatch(message); found != nil {
		name, setting, value = found[3], found[2]+"=", unquoted(found[1])
	}
	for _, f := range command.Flags {
		if slices.Contains(f.Names(), name) {
			return setting, value, f
		}
	}
	return "", "", nil
}

func unquoted(quoted string) string {
	if text, err := strconv.Unquote(quoted); err == nil {
		return text
	}
	return quoted
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
