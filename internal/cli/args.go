package cli

import (
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"
)

// CheckArgs requires the named positional arguments and refuses any others,
// which urfave would ignore.
func CheckArgs(c *Context, names ...string) error {
	args := c.Args().Slice()
	if len(args) > len(names) && len(names) == 0 && len(c.Command.Subcommands) > 0 {
		return unknownSubcommand(c)
	}
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

// flagsFirst moves a command's flags before its arguments, because urfave takes
// every flag after the first argument for an argument.
func flagsFirst(app *App, args []string) []string {
	if len(args) < 3 || args[len(args)-1] == "--generate-bash-completion" {
		return args
	}
	command := app.Command(args[1])
	if command == nil {
		return args
	}
	names, flags, arguments := args[:2:2], []string{}, []string{}
	for rest := args[2:]; len(rest) > 0; rest = rest[1:] {
		arg := rest[0]
		subcommand := command.Command(arg)
		switch {
		case arg == "--":
			arguments = append(arguments, rest[1:]...)
			rest = rest[:1]
		case subcommand != nil && len(arguments) == 0:
			command, names = subcommand, append(names, arg)
		case len(arg) < 2 || arg[0] != '-':
			arguments = append(arguments, arg)
		default:
			flags = append(flags, arg)
			if takesValue(command, arg) && len(rest) > 1 {
				flags = append(flags, rest[1])
				rest = rest[1:]
			}
		}
	}
	sorted := slices.Concat(names, flags)
	if len(arguments) > 0 {
		sorted = append(append(sorted, "--"), arguments...)
	}
	return sorted
}

// takesValue reports whether the next argument is the value of this flag.
func takesValue(command *Command, arg string) bool {
	given := strings.TrimLeft(arg, "-")
	for _, flag := range command.Flags {
		if slices.Contains(flag.Names(), given) {
			_, isBool := flag.(*urfave.BoolFlag)
			return !isBool
		}
	}
	return false
}
