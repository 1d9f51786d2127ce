package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"oidc-publisher/internal/cli"
)

// TestReadme: every command line of the program in the README has flags that
// the command has, and every flag that the prose names exists.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := strings.ReplaceAll(string(raw), "\\\n", " ")
	app := newApp(nil, nil, nil)
	call := regexp.MustCompile(`oidc-publisher ([a-z-]+)((?: [^|>#` + "`" + `\n]*)?)`)
	flag := regexp.MustCompile(`--[a-z][a-z-]*`)
	calls := call.FindAllStringSubmatch(readme, -1)
	if len(calls) < 5 {
		t.Fatalf("found only %d command lines", len(calls))
	}
	for _, c := range calls {
		command := app.Command(c[1])
		if command == nil {
			continue // prose: "oidc-publisher takes the documents"
		}
		for _, given := range flag.FindAllString(c[2], -1) {
			if !hasFlag(command, given) {
				t.Errorf("%s has no flag %s: %q", c[1], given, c[0])
			}
		}
	}
	for _, given := range regexp.MustCompile("`(--[a-z][a-z-]*)[^`]*`").FindAllStringSubmatch(readme, -1) {
		ours := slices.ContainsFunc(app.Commands, func(c *cli.Command) bool { return hasFlag(c, given[1]) })
		if !ours && !strings.HasPrefix(given[1], "--service-account-") {
			t.Errorf("nothing has the flag %s", given[1])
		}
	}
}

func hasFlag(command *cli.Command, given string) bool {
	if slices.ContainsFunc(command.Subcommands, func(c *cli.Command) bool { return hasFlag(c, given) }) {
		return true
	}
	return slices.ContainsFunc(command.Flags, func(f cli.Flag) bool {
		return slices.Contains(f.Names(), strings.TrimPrefix(given, "--"))
	})
}
