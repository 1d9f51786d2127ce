package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const name = "oidc-publisher"

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                      name,
		Usage:                     "make a private Kubernetes cluster's issuer readable by clouds and registries",
		Description:               appDescription,
		Version:                   version(),
		HideHelpCommand:           true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true,
		Reader:                    stdin,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		// urfave would end the process inside Run; only main does that.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Action:         noCommand,
		Commands: []*cli.Command{
			publishCommand(), watchCommand(), serveCommand(), verifyCommand(),
			exchangeCommand(), pullSecretCommand(), credentialProviderCommand(), completionCommand(), versionCommand(),
		},
	}
	tame(app.Commands)
	return app
}

// tame gives commands, and those below them, what urfave would do otherwise.
func tame(commands []*cli.Command) {
	for _, command := range commands {
		command.OnUsageError = onUsageError
		command.HideHelpCommand = true
		tame(command.Subcommands)
	}
}

// fullName is what a command is called by, with those that it is below.
func fullName(c *cli.Context) string {
	if strings.HasPrefix(c.Command.HelpName, name+" ") {
		return c.Command.HelpName
	}
	return name + " " + c.Command.Name
}

const appDescription = `A Kubernetes API server signs service account tokens and says how to check
them, in two documents that relying parties must be able to read anonymously.
This program takes the documents out of a private cluster to where they can be
read, and proves that they work.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused by a rule or a service, or verify
says no; 4 some targets failed and others are done.

Every flag can be given as an environment variable: --dry-run is
OIDC_PUBLISHER_DRY_RUN; lists are separated by commas there.`

// noCommand runs when no command of that name exists.
func noCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	given := c.Args().First()
	if given == "help" {
		if c.NArg() > 1 {
			return cli.ShowCommandHelp(c, c.Args().Get(1))
		}
		return cli.ShowAppHelp(c)
	}
	return &usageError{
		message: fmt.Sprintf("there is no command %q", given),
		hint:    suggest(cli.SuggestCommand(c.App.Commands, given), "see "+name+" --help"),
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	usage := &usageError{message: err.Error(), hint: "see " + name + " --help"}
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != name {
		usage.hint = fmt.Sprintf("see %s --help", fullName(c))
	}
	const undefined = "flag provided but not defined: -"
	if given, ok := strings.CutPrefix(err.Error(), undefined); ok && c.Command != nil {
		given = strings.TrimLeft(given, "-")
		usage.message = fmt.Sprintf("there is no flag --%s", given)
		if nearest := cli.SuggestFlag(c.Command.Flags, given, true); nearest != "" {
			usage.hint = suggest(fmt.Sprintf("Did you mean %q?", nearest), usage.hint)
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

// checkArgs refuses positional arguments beyond the named ones, which urfave
// would silently ignore, and demands those.
func checkArgs(c *cli.Context, names ...string) error {
	args := c.Args().Slice()
	if len(args) > len(names) {
		return usagef("unexpected argument %q", args[len(names)])
	}
	if len(args) < len(names) {
		return usagef("%s is missing: %s %s", names[len(args)], fullName(c), strings.Join(names, " "))
	}
	if empty := slices.Index(args, ""); empty >= 0 {
		return usagef("%s is empty", names[empty])
	}
	return nil
}

// flagsFirst moves a command's flags before its arguments: urfave takes every
// flag after the first argument for an argument.
func flagsFirst(app *cli.App, args []string) ([]string, error) {
	if len(args) < 3 || args[len(args)-1] == "--generate-bash-completion" {
		return args, nil
	}
	command := app.Command(args[1])
	if command == nil {
		return args, nil
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
	return sorted, nil
}

func takesValue(command *cli.Command, arg string) bool {
	given := strings.TrimLeft(arg, "-")
	for _, flag := range command.Flags {
		for _, flagName := range flag.Names() {
			if flagName == given {
				_, isBool := flag.(*cli.BoolFlag)
				return !isBool
			}
		}
	}
	return false
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version of this program",
		Flags: []cli.Flag{outputFlag("text", "json")},
		Action: func(c *cli.Context) error {
			if err := checkArgs(c); err != nil {
				return err
			}
			format, err := outputFormat(c, "text", "json")
			if err != nil {
				return err
			}
			goVersion, revision := buildInfo()
			if format == "json" {
				return printJSON(c.App.Writer, map[string]string{"version": version(), "revision": revision, "go": goVersion})
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s %s (revision %s, %s)\n", name, version(), revision, goVersion)
			return err
		},
	}
}

func buildInfo() (goVersion, revision string) {
	revision = "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", revision
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return info.GoVersion, revision
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for bash, zsh or fish",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash:  source <(" + name + " completion bash)\n" +
			"zsh:   source <(" + name + " completion zsh)\n" +
			"fish:  " + name + " completion fish | source",
		Action: func(c *cli.Context) error {
			if err := checkArgs(c, "SHELL"); err != nil {
				return err
			}
			script, err := completionScript(c.App, c.Args().First())
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.App.Writer, script)
			return err
		},
	}
}

func completionScript(app *cli.App, shell string) (string, error) {
	switch shell {
	case "bash":
		return bashCompletion, nil
	case "zsh":
		return "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + bashCompletion, nil
	case "fish":
		return app.ToFishCompletion()
	default:
		return "", usagef("no completion for %q: choose bash, zsh or fish", shell)
	}
}

// The program itself lists what may follow: flags where the word being typed
// starts with a dash, commands elsewhere.
const bashCompletion = `_oidc_publisher() {
  local word="${COMP_WORDS[COMP_CWORD]}" before=("${COMP_WORDS[@]:0:COMP_CWORD}")
  if [[ "$word" == -* ]]; then before+=("-"); fi
  COMPREPLY=($(compgen -W "$("${before[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$word"))
}
complete -o default -F _oidc_publisher oidc-publisher
`

// terminal reports whether w is one and colour is wanted (no-color.org).
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && isTerminal(file)
}
