package cli

import (
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"
)

// checkArgs requires the positional arguments that the command's ArgsUsage names
// and refuses any others, which urfave would ignore.
func checkArgs(c *Context) error {
	args, names := c.Args().Slice(), strings.Fields(c.Command.ArgsUsage)
	switch empty := slices.Index(args, ""); {
	case len(c.Command.Subcommands) > 0: // which ArgsUsage names
		if len(args) > 0 && c.Command.Command(args[0]) == nil {
			return unknownCommand(c, c.Command.Subcommands)
		}
	case len(args) > len(names):
		return Usagef("unexpected argument %q", args[len(names)])
	case len(args) < len(names):
		return Usagef("%s is missing: %s %s", names[len(args)], c.Command.HelpName, c.Command.ArgsUsage)
	case empty >= 0:
		return Usagef("%s is empty", names[empty])
	}
	return nil
}

// flagsFirst moves a command's flags before its arguments, because urfave
// treats every flag after the first argument as an argument. Help needs no
// arguments.
func flagsFirst(app *App, args []string) []string {
	if len(args) > 2 && args[1] == "help" {
		args = slices.Concat(args[:1], args[2:], []string{"--help"})
	}
	if len(args) < 3 || args[len(args)-1] == "--generate-bash-completion" {
		return args
	}
	command := app.Command(args[1])
	if command == nil {
		return args
	}
	names, flags, arguments, help := args[:2:2], []string{}, []string{}, false
	for rest := args[2:]; len(rest) > 0; rest = rest[1:] {
		arg := rest[0]
		subcommand := command.Command(arg)
		switch {
		case arg == "--":
			arguments = append(arguments, rest[1:]...)
			rest = rest[:1]
		case subcommand != nil && len(arguments) == 0:
			command, names = subcommand, append(names, arg)
		case isHelp(command, arg):
			help = true
		case len(arg) < 2 || arg[0] != '-':
			arguments = append(arguments, arg)
		default:
			flags = append(flags, arg)
			if !takesValue(command, arg) || len(rest) < 2 {
				continue
			}
			if strings.HasPrefix(rest[1], "--") && flagOf(command, rest[1]) != nil {
				return append(names, arg) // the value is missing: --to --dry-run
			}
			flags = append(flags, rest[1])
			rest = rest[1:]
		}
	}
	unknownSubcommand := len(command.Subcommands) > 0 && len(arguments) > 0
	if help && !unknownSubcommand {
		return append(names, "--help")
	}
	sorted := slices.Concat(names, flags)
	if len(arguments) > 0 {
		sorted = append(append(sorted, "--"), arguments...)
	}
	return sorted
}

func isHelp(command *Command, arg string) bool {
	return slices.Contains([]string{"--help", "-help", "-h"}, arg) || arg == "help" && len(command.Subcommands) > 0
}

// takesValue reports whether the next argument is the value of this flag.
func takesValue(command *Command, arg string) bool {
	flag := flagOf(command, arg)
	_, isBool := flag.(*urfave.BoolFlag)
	return flag != nil && !isBool && !strings.Contains(arg, "=")
}

// flagOf returns the flag of an argument such as --to or --to=x, or nil.
func flagOf(command *Command, arg string) Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	for _, flag := range command.Flags {
		if slices.Contains(flag.Names(), name) {
			return flag
		}
	}
	return nil
}
