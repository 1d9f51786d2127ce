package cli

import "io"

func completionCommand() *Command {
	scripts := map[string]string{
		"bash": bashCompletion,
		"zsh":  "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + bashCompletion,
		"fish": fishCompletion,
	}
	return &Command{
		Name:      "completion",
		Usage:     "print a completion script",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash:  source <(" + Name + " completion bash)\n" +
			"zsh:   source <(" + Name + " completion zsh)\n" +
			"fish:  " + Name + " completion fish | source",
		Action: func(c *Context) error {
			script, ok := scripts[c.Args().First()]
			if !ok {
				return Usagef("no completion for %q: choose bash, zsh or fish", c.Args().First())
			}
			_, err := io.WriteString(c.App.Writer, script)
			return err
		},
	}
}

// The program itself lists what may follow: flags where the word being typed
// starts with a dash, commands elsewhere. Zsh runs the script of bash. Fish shows
// usages too, which urfave/cli adds after a colon if the variable 0 names zsh.
const bashCompletion = `_oidc_publisher() {
  local word="${COMP_WORDS[COMP_CWORD]}" before=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  if [[ "$word" == -* ]]; then before+=("-"); fi
  COMPREPLY=($(compgen -W "$("${before[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$word"))
}
complete -o default -F _oidc_publisher oidc-publisher
`

const fishCompletion = `function __oidc_publisher_complete
  set -l before (commandline --tokenize --cut-at-cursor --current-process)
  if string match --quiet -- '-*' (commandline --current-token); set --append before -; end
  env 0=zsh $before --generate-bash-completion 2>/dev/null | string replace : \t
end
complete --command oidc-publisher --arguments '(__oidc_publisher_complete)'
`
