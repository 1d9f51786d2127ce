package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"oidc-publisher/internal/cli"
)

// foreign are the beginnings of other programs' flags that the prose names.
var foreign = []string{"--service-account-"}

// TestReadme: every command line of the program in README.md and in the
// READMEs of the examples names a command that exists, with flags that it has,
// and every flag that the prose names exists.
func TestReadme(t *testing.T) {
	pages, err := filepath.Glob("../../examples/*/README.md")
	if err != nil || len(pages) < 5 {
		t.Fatalf("found the pages %q: %v", pages, err)
	}
	app, calls := newApp(nil, nil, nil), 0
	for _, page := range append(pages, "../../README.md") {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		faults, n := readmeFaults(app, string(raw))
		for _, fault := range faults {
			t.Errorf("%s: %s", page, fault)
		}
		calls += n
	}
	if calls < 15 {
		t.Errorf("found only %d command lines", calls)
	}
}

var (
	// kubectl's own arguments name the namespace, which is called like the program.
	kubectlPattern = regexp.MustCompile(`kubectl [^|\n]*`)

	callPattern = regexp.MustCompile("\\boidc-publisher ([a-z][^|>#`\\n]*)")
	flagPattern = regexp.MustCompile("`(--[a-z][a-z-]*)[^`]*`")
)

// readmeFaults returns what is wrong in a page, and how many command lines it
// has.
func readmeFaults(app *cli.App, page string) (faults []string, calls int) {
	page = strings.ReplaceAll(page, "\\\n", " ")
	page = kubectlPattern.ReplaceAllString(page, "")
	for _, c := range callPattern.FindAllStringSubmatch(page, -1) {
		calls++
		faults = append(faults, callFaults(app, strings.Fields(c[1]))...)
	}
	for _, given := range flagPattern.FindAllStringSubmatch(page, -1) {
		ours := slices.ContainsFunc(app.Commands, func(c *cli.Command) bool { return hasFlag(c, given[1]) })
		if !ours && !slices.ContainsFunc(foreign, func(f string) bool { return strings.HasPrefix(given[1], f) }) {
			faults = append(faults, "no command has the flag "+given[1])
		}
	}
	return faults, calls
}

// callFaults follows a command line to its subcommand and looks up its flags.
func callFaults(app *cli.App, words []string) (faults []string) {
	line := "oidc-publisher " + strings.Join(words, " ")
	command := app.Command(words[0])
	if command == nil {
		return []string{"there is no command " + words[0] + ": " + line}
	}
	words = words[1:]
	for len(words) > 0 && len(command.Subcommands) > 0 && regexp.MustCompile(`^[a-z]`).MatchString(words[0]) {
		i := slices.IndexFunc(command.Subcommands, func(c *cli.Command) bool { return c.HasName(words[0]) })
		if i < 0 {
			return []string{command.Name + " has no subcommand " + words[0] + ": " + line}
		}
		command, words = command.Subcommands[i], words[1:]
	}
	for _, word := range words {
		name, _, _ := strings.Cut(word, "=")
		if regexp.MustCompile(`^--[a-z]`).MatchString(name) && !hasFlag(command, name) {
			faults = append(faults, command.Name+" has no flag "+name+": "+line)
		}
	}
	return faults
}

// hasFlag reports whether the command or, where a placeholder stands for one,
// any of its subcommands has the flag.
func hasFlag(command *cli.Command, given string) bool {
	if slices.ContainsFunc(command.Subcommands, func(c *cli.Command) bool { return hasFlag(c, given) }) {
		return true
	}
	return slices.ContainsFunc(command.Flags, func(f cli.Flag) bool {
		return slices.Contains(f.Names(), strings.TrimPrefix(given, "--"))
	})
}

// TestReadmeFaults shows that TestReadme can fail.
func TestReadmeFaults(t *testing.T) {
	app := newApp(nil, nil, nil)
	for _, c := range []struct {
		page string
		want string // "" for none
	}{
		{"oidc-publisher publish --to \\\n  gs://b --dry-run | cat --x", ""},
		{"oidc-publisher exchange SERVICE --org o", ""},
		{"kubectl --namespace oidc-publisher logs job/first", ""},
		{"see `--grace 24h` and `--service-account-issuer`", ""},
		{"oidc-publisher publsh --to gs://b", "there is no command publsh: oidc-publisher publsh --to gs://b"},
		{"oidc-publisher takes the documents", "there is no command takes: oidc-publisher takes the documents"},
		{"oidc-publisher exchange cloudsmth", "exchange has no subcommand cloudsmth: oidc-publisher exchange cloudsmth"},
		{"oidc-publisher exchange cloudsmith --provider=p", "cloudsmith has no flag --provider: oidc-publisher exchange cloudsmith --provider=p"},
		{"see `--graze`", "no command has the flag --graze"},
	} {
		faults, _ := readmeFaults(app, c.page)
		if c.want == "" && len(faults) > 0 || c.want != "" && !slices.Equal(faults, []string{c.want}) {
			t.Errorf("%q: %q, want %q", c.page, faults, c.want)
		}
	}
}
