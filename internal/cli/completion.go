package cli

import "io"

func completionCommand() *Command {
	return &Command{
		Name:      "completion",
		Usage:     "print a completion script",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash:  source <(" + Name + " completion bash)\n" +
			"zsh:   source <(" + Name + " completion zsh)\n" +
			"fish:  " + Name + " completion fish | source",
		Action: func(c *Context) error {
			if err := CheckArgs(c, "SHELL"); err != nil {
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

func completionScript(app *App, shell string) (string, error) {
	switch shell {
	case "bash":
		return bashCompletion, nil
	case "zsh":
		return "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + bashCompletion, nil
	case "fish":
		return app.ToFishCompletion()
	default:
		return "", Usagef("no completion for %q: choose bash, zsh or fish", shell)
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
