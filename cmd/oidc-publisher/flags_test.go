package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	urfave "github.com/urfave/cli/v2"

	"oidc-publisher/internal/cli"
)

// TestNoFlagTakesACredential: everybody on a machine may read /proc/PID/cmdline.
func TestNoFlagTakesACredential(t *testing.T) {
	filesOrPublic := []string{
		"token-file", "public-key", "revoke", "wait-for-kid", "tls-key", "tunnel-key", "tunnel-host-key",
		"credential-config", "print-credential-config", "allow-api-token", "secret-name",
	}
	for _, command := range withSubcommands(newApp(nil, io.Discard, io.Discard).Commands) {
		for _, flag := range command.Flags {
			for _, word := range []string{"secret", "password", "token", "credential", "key"} {
				if flag := flag.Names()[0]; strings.Contains(flag, word) && !slices.Contains(filesOrPublic, flag) {
					t.Errorf("%s --%s seems to take a credential", command.Name, flag)
				}
			}
		}
	}
}

func withSubcommands(commands []*cli.Command) (all []*cli.Command) {
	for _, command := range commands {
		all = append(append(all, command), withSubcommands(command.Subcommands)...)
	}
	return all
}

// TestHelpIsShort: a flag's text has at most a dozen words. What needs more is
// explained in the command's description.
func TestHelpIsShort(t *testing.T) {
	defaultText := regexp.MustCompile(` \(default: .*\)$`)
	texts := 0
	for _, command := range withSubcommands(newApp(nil, io.Discard, io.Discard).Commands) {
		usages := map[string]string{command.Name: command.Usage}
		for _, flag := range command.Flags {
			documented, ok := flag.(urfave.DocGenerationFlag)
			if !ok {
				t.Fatalf("%s --%s has no help", command.Name, flag.Names()[0])
			}
			usages[command.Name+" --"+flag.Names()[0]] = documented.GetUsage()
		}
		for name, usage := range usages {
			texts++
			if words := strings.Fields(defaultText.ReplaceAllString(usage, "")); len(words) == 0 || len(words) > 12 {
				t.Errorf("%s has %d words of help: %s", name, len(words), usage)
			}
		}
	}
	if texts < 100 {
		t.Errorf("found %d texts", texts)
	}
}

// TestEveryFlagHasItsVariable: it is read, and it is the only one.
func TestEveryFlagHasItsVariable(t *testing.T) {
	for _, command := range newApp(nil, io.Discard, io.Discard).Commands {
		for _, flag := range command.Flags {
			name := flag.Names()[0]
			want := "OIDC_PUBLISHER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			documented, ok := flag.(urfave.DocGenerationFlag)
			if !ok || !slices.Equal(documented.GetEnvVars(), []string{want}) {
				t.Errorf("%s --%s has not exactly the variable %s", command.Name, name, want)
				continue
			}
			t.Run(command.Name+" "+name, func(t *testing.T) {
				value := "some-value"
				if one, ok := map[string]string{"output": "json", "log-format": "json", "log-level": "warn"}[name]; ok {
					value = one
				}
				switch flag.(type) {
				case *urfave.BoolFlag:
					value = "true"
				case *urfave.DurationFlag:
					value = "17m0s"
				case *urfave.StringSliceFlag:
					value = "one,two"
				}
				t.Setenv(want, value)
				app, ran := newApp(nil, io.Discard, io.Discard), false
				app.Command(command.Name).Action = func(c *cli.Context) error {
					ran = true
					got := fmt.Sprint(c.Value(name))
					if _, ok := flag.(*urfave.StringSliceFlag); ok {
						if values := cli.Values(c, name); !slices.Equal(values, []string{"one", "two"}) {
							t.Errorf("--%s is %q", name, values)
						}
						got = value
					}
					if !c.IsSet(name) || got != value {
						t.Errorf("--%s is %q, want %q", name, got, value)
					}
					return nil
				}
				if err := app.Run(append([]string{app.Name, command.Name}, strings.Fields(command.ArgsUsage)...)); err != nil || !ran {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}
