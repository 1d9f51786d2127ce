// Package cli makes urfave/cli strict: usage errors go to stderr with a hint
// and exit code 2, flags may follow arguments, arguments that no command
// expects are refused, and only main ends the process.
//
// It also holds what all commands share: flags with their environment
// variables, output formats, logging, exit codes and completion.
package cli

import (
	"io"

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
)

const appDescription = `A Kubernetes API server signs service account tokens. Two documents, the OpenID
Connect discovery document and the key set, let relying parties check them, if
they can read both anonymously. This program publishes the documents of a
private cluster and verifies that they work.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused by a rule or a service,
or verify says no; 4 some targets failed, the others are done.

Every flag has an environment variable: --dry-run is OIDC_PUBLISHER_DRY_RUN.
Commas separate the values of a list there.`

// New returns the program with the given commands, completion and version.
func New(stdin io.Reader, stdout, stderr io.Writer, commands ...*Command) *App {
	app := &App{
		Name:                      Name,
		HelpName:                  Name,
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

// makeStrict replaces urfave's handling of arguments and usage errors in the
// commands and their subcommands.
func makeStrict(commands []*Command) {
	for _, command := range commands {
		command.OnUsageError = onUsageError
		command.Before = checkArgs
		command.HideHelpCommand = true
		makeStrict(command.Subcommands)
	}
}
