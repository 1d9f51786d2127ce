// Package cli is urfave/cli made strict: usage errors go to stderr with a hint
// and an exit code of their own, flags may follow arguments, arguments that no
// command expects are refused, and the process ends in main only.
//
// It also holds what all commands share on the terminal: flags with their
// environment variables, output formats, logging and completion.
package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"
)

// Name is the name of the program.
const Name = "oidc-publisher"

// The types of urfave that commands are written with.
type (
	// App is the whole program.
	App = urfave.App
	// Command is one command of it.
	Command = urfave.Command
	// Context has the flags and arguments of one run of a command.
	Context = urfave.Context
	// Flag is one flag of a command.
	Flag = urfave.Flag
	// Args are the arguments of one run of a command.
	Args = urfave.Args
)

const appDescription = `A Kubernetes API server signs service account tokens and says how to check
them, in two documents that relying parties must be able to read anonymously.
This program takes the documents out of a private cluster to where they can be
read, and proves that they work.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused by a rule or a service, or verify
says no; 4 some targets failed and others are done.

Every flag can be given as an environment variable: --dry-run is
OIDC_PUBLISHER_DRY_RUN; lists are separated by commas there.`

// New returns the program made of the given commands, and of completion and
// version, which need nothing else.
func New(stdin io.Reader, stdout, stderr io.Writer, commands ...*Command) *App {
	app := &App{
		Name:                      Name,
		Usage:                     "make a private Kubernetes cluster's issuer readable by clouds and registries",
		Description:               appDescription,
		Version:                   Version(),
		HideHelpCommand:           true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true,
		Reader:                    stdin,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		// urfave would end the process inside Run; only main does that.
		ExitErrHandler: func(*Context, error) {},
		OnUsageError:   onUsageError,
		Action:         noCommand,
		Commands:       append(commands, completionCommand(), versionCommand()),
	}
	makeStrict(app.Commands)
	return app
}

// Run runs the program and returns its exit code. refused reports whether an
// error is a refusal by a rule or a service, which has an exit code of its own.
func Run(ctx context.Context, app *App, args []string, refused func(error) bool) int {
	return reportError(app.ErrWriter, app.RunContext(ctx, flagsFirst(app, args)), refused)
}

// makeStrict replaces urfave's own handling of usage errors and help in the
// commands and in those below them.
func makeStrict(commands []*Command) {
	for _, command := range commands {
		command.OnUsageError = onUsageError
		command.HideHelpCommand = true
		makeStrict(command.Subcommands)
	}
}

// FullName is the name of the running command with those above it.
func FullName(c *Context) string {
	if strings.HasPrefix(c.Command.HelpName, Name+" ") {
		return c.Command.HelpName
	}
	return Name + " " + c.Command.Name
}

// noCommand runs when no command of that name exists.
func noCommand(c *Context) error {
	if !c.Args().Present() {
		return urfave.ShowAppHelp(c)
	}
	given := c.Args().First()
	if given == "help" {
		if c.NArg() > 1 {
			return urfave.ShowCommandHelp(c, c.Args().Get(1))
		}
		return urfave.ShowAppHelp(c)
	}
	return &UsageError{
		Message: fmt.Sprintf("there is no command %q", given),
		Hint:    suggest(urfave.SuggestCommand(c.App.Commands, given), "see "+Name+" --help"),
	}
}

// NoSubcommand is the action of a command that only has subcommands.
func NoSubcommand(c *Context) error {
	var names []string
	for _, sub := range c.Command.Subcommands {
		names = append(names, sub.Name)
	}
	hint := "see " + Name + " " + c.Command.Name + " --help"
	if !c.Args().Present() {
		return &UsageError{Message: fmt.Sprintf("%s for which service? %s", c.Command.Name, joinOr(names)), Hint: hint}
	}
	return &UsageError{
		Message: fmt.Sprintf("there is no command %q", c.Command.Name+" "+c.Args().First()),
		Hint:    suggest(urfave.SuggestCommand(c.Command.Subcommands, c.Args().First()), hint),
	}
}

func joinOr(names []string) string {
	text := ""
	for i, name := range names {
		switch {
		case i > 0 && i == len(names)-1:
			text += " or "
		case i > 0:
			text += ", "
		}
		text += name
	}
	return text
}

func onUsageError(c *Context, err error, _ bool) error {
	usage := &UsageError{Message: err.Error(), Hint: "see " + Name + " --help"}
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != Name {
		usage.Hint = fmt.Sprintf("see %s --help", FullName(c))
	}
	const undefined = "flag provided but not defined: -"
	if given, ok := strings.CutPrefix(err.Error(), undefined); ok && c.Command != nil {
		given = strings.TrimLeft(given, "-")
		usage.Message = fmt.Sprintf("there is no flag --%s", given)
		if nearest := urfave.SuggestFlag(c.Command.Flags, given, true); nearest != "" {
			usage.Hint = suggest(fmt.Sprintf("Did you mean %q?", nearest), usage.Hint)
		}
	}
	return usage
}

// suggest puts urfave's "Did you mean …?" before what to do otherwise.
func suggest(nearest, otherwise string) string {
	if nearest == "" {
		return otherwise
	}
	return nearest + " Otherwise " + otherwise
}

// CheckArgs demands the named positional arguments and refuses any more, which
// urfave would ignore.
func CheckArgs(c *Context, names ...string) error {
	args := c.Args().Slice()
	if len(args) > len(names) {
		return Usagef("unexpected argument %q", args[len(names)])
	}
	if len(args) < len(names) {
		return Usagef("%s is missing: %s %s", names[len(args)], FullName(c), strings.Join(names, " "))
	}
	if empty := slices.Index(args, ""); empty >= 0 {
		return Usagef("%s is empty", names[empty])
	}
	return nil
}

// flagsFirst moves a command's flags before its arguments, since urfave takes
// every flag after the first argument for an argument.
func flagsFirst(app *App, args []string) []string {
	if len(args) < 3 || args[len(args)-1] == "--generate-bash-completion" {
		return args
	}
	command := app.Command(args[1])
	if command == nil {
		return args
	}
	at := 2
	for ; at < len(args); at++ {
		below := command.Command(args[at])
		if below == nil {
			break
		}
		command = below
	}
	flags, positional := []string{}, []string{}
	for rest := args[at:]; len(rest) > 0; rest = rest[1:] {
		arg := rest[0]
		switch {
		case arg == "--":
			positional = append(positional, rest[1:]...)
			rest = rest[:1]
		case len(arg) < 2 || arg[0] != '-':
			positional = append(positional, arg)
		default:
			flags = append(flags, arg)
			if takesValue(command, arg) && len(rest) > 1 {
				flags = append(flags, rest[1])
				rest = rest[1:]
			}
		}
	}
	sorted := slices.Concat(args[:at], flags)
	if len(positional) > 0 {
		sorted = append(append(sorted, "--"), positional...)
	}
	return sorted
}

func takesValue(command *Command, arg string) bool {
	given := strings.TrimLeft(arg, "-")
	for _, flag := range command.Flags {
		for _, flagName := range flag.Names() {
			if flagName == given {
				_, isBool := flag.(*urfave.BoolFlag)
				return !isBool
			}
		}
	}
	return false
}
