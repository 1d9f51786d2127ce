package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/cli"
)

var errNo = errors.New("no")

// program runs a small program with commands of every kind. got is what its
// command received.
func program(t *testing.T, args ...string) (code int, got, stdout, stderr string) {
	t.Helper()
	show := func(c *cli.Context) error {
		got = fmt.Sprintf("%s to=%q grace=%v dry=%t args=%q", c.Command.HelpName, cli.Values(c, "to"), c.Duration("grace"), c.Bool("dry-run"), c.Args().Slice())
		return nil
	}
	flags := func() []cli.Flag {
		return []cli.Flag{
			cli.List("to", "publish to `TARGET`"),
			cli.Duration("grace", 24*time.Hour, "`DURATION` of grace"),
			cli.Duration("min", 0, "`DURATION` at least"),
			cli.Bool("dry-run", "write nothing"),
			cli.Timeout(30 * time.Second),
		}
	}
	failing := func(err error) func(*cli.Context) error { return func(*cli.Context) error { return err } }
	var out, errOut bytes.Buffer
	app := cli.New(strings.NewReader(""), &out, &errOut,
		&cli.Command{Name: "publish", Flags: flags(), Action: show},
		&cli.Command{Name: "verify", ArgsUsage: "ISSUER", Flags: flags(), Action: show},
		&cli.Command{Name: "exchange", Action: cli.NoSubcommand, Subcommands: []*cli.Command{
			{Name: "cloudsmith", Flags: flags(), Action: show, Subcommands: []*cli.Command{
				{Name: "check", ArgsUsage: "IMAGE", Flags: flags(), Action: show},
			}},
			{Name: "gcp", Flags: flags(), Action: show},
		}},
		&cli.Command{Name: "fail", Action: failing(errors.New("boom"))},
		&cli.Command{Name: "refuse", Action: failing(fmt.Errorf("a rule: %w", errNo))},
		&cli.Command{Name: "partly", Action: failing(&cli.ExitError{Code: cli.ExitPartly})},
	)
	code = cli.Run(t.Context(), app, append([]string{cli.Name}, args...), func(err error) bool { return errors.Is(err, errNo) })
	return code, got, out.String(), errOut.String()
}

// TestArguments: what a command receives, wherever its flags stand.
func TestArguments(t *testing.T) {
	const none = "to=[] grace=24h0m0s dry=false"
	for _, c := range []struct {
		args string
		want string
	}{
		{"publish", "oidc-publisher publish " + none + " args=[]"},
		{"publish --to a,b --to c", `oidc-publisher publish to=["a,b" "c"] grace=24h0m0s dry=false args=[]`},
		{"verify https://a --grace 1h --dry-run", `oidc-publisher verify to=[] grace=1h0m0s dry=true args=["https://a"]`},
		{"verify --dry-run https://a --grace=1h", `oidc-publisher verify to=[] grace=1h0m0s dry=true args=["https://a"]`},
		{"publish --to -x --to --y", `oidc-publisher publish to=["-x" "--y"] grace=24h0m0s dry=false args=[]`},
		{"verify -- --grace", "oidc-publisher verify " + none + ` args=["--grace"]`},
		{"verify -", "oidc-publisher verify " + none + ` args=["-"]`},
		{"exchange cloudsmith --grace 0", "oidc-publisher exchange cloudsmith to=[] grace=0s dry=false args=[]"},
		{"exchange cloudsmith check --dry-run image", `oidc-publisher exchange cloudsmith check to=[] grace=24h0m0s dry=true args=["image"]`},
		{"exchange cloudsmith --dry-run check image --grace 1h", `oidc-publisher exchange cloudsmith check to=[] grace=1h0m0s dry=true args=["image"]`},
		{"exchange cloudsmith check check", "oidc-publisher exchange cloudsmith check " + none + ` args=["check"]`},
	} {
		code, got, stdout, stderr := program(t, strings.Fields(c.args)...)
		if code != cli.ExitDone || got != c.want || stdout+stderr != "" {
			t.Errorf("%s: exit code %d, %s, want %s; stdout %q, stderr %q", c.args, code, got, c.want, stdout, stderr)
		}
	}
}

// TestUsageErrors: exit code 2, a message and a hint on stderr, nothing on
// stdout, and the command does not run.
func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"pubish", []string{`error: there is no command "pubish"`, `hint: Did you mean "publish"? Otherwise see oidc-publisher --help`}},
		{"help pubish", []string{`error: there is no command "pubish"`}},
		{"help exchange clodsmith", []string{`error: there is no command "exchange clodsmith"`}},
		{"exchange clodsmith --help", []string{`error: there is no command "exchange clodsmith"`, `Did you mean "cloudsmith"?`}},
		{"publish --dry-rn", []string{"error: there is no flag --dry-rn", `hint: Did you mean "--dry-run"? Otherwise see oidc-publisher publish --help`}},
		{"--dry-run publish", []string{"error: there is no flag --dry-run"}},
		{"publish extra", []string{`error: unexpected argument "extra"`}},
		{"verify", []string{"error: ISSUER is missing: oidc-publisher verify ISSUER"}},
		{"verify a b --dry-run", []string{`error: unexpected argument "b"`}},
		{"exchange", []string{"error: exchange needs a service: cloudsmith, gcp", "hint: see oidc-publisher exchange --help"}},
		{"exchange clodsmith", []string{`error: there is no command "exchange clodsmith"`, `Did you mean "cloudsmith"?`}},
		{"exchange cloudsmith chek image", []string{`error: there is no command "exchange cloudsmith chek"`, `Did you mean "check"?`}},
		{"exchange gcp extra", []string{`error: unexpected argument "extra"`}},
		{"publish --grace", []string{"error: --grace needs a value", "hint: see oidc-publisher publish --help"}},
		{"publish --to --dry-run", []string{"error: --to needs a value"}},
		{"publish --to --grace=1h", []string{"error: --to needs a value"}},
		{"publish --grace 24", []string{"error: --grace 24: use a unit, such as 24h", "hint: see oidc-publisher publish --help"}},
		{"publish --timeout 5", []string{"error: --timeout 5: use a unit, such as 5s"}},
		{"publish --min 45", []string{"error: --min 45: use a unit, such as 45s"}},
		{"publish --grace 1d", []string{"error: --grace 1d: not a duration, such as 24h"}},
		{"publish --grace soon", []string{"error: --grace soon: not a duration, such as 24h"}},
		{"publish --dry-run=maybe", []string{"error: --dry-run maybe: must be true or false"}},
		{"exchange gcp --grace 24", []string{"error: --grace 24: use a unit, such as 24h", "hint: see oidc-publisher exchange gcp --help"}},
	} {
		code, got, stdout, stderr := program(t, strings.Fields(c.args)...)
		if code != cli.ExitUsage || got != "" || stdout != "" {
			t.Errorf("%s: exit code %d, command got %q, stdout %q", c.args, code, got, stdout)
		}
		for _, want := range c.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: stderr %q lacks %q", c.args, stderr, want)
			}
		}
	}
}

func TestEmptyArgument(t *testing.T) {
	if code, got, _, stderr := program(t, "verify", ""); code != cli.ExitUsage || got != "" || !strings.Contains(stderr, "ISSUER is empty") {
		t.Errorf("exit code %d, %s, stderr %q", code, got, stderr)
	}
}

// TestEnvironment: the same values and the same errors as from flags.
func TestEnvironment(t *testing.T) {
	t.Run("values", func(t *testing.T) {
		t.Setenv("OIDC_PUBLISHER_TO", "a,b")
		t.Setenv("OIDC_PUBLISHER_GRACE", "1h")
		t.Setenv("OIDC_PUBLISHER_DRY_RUN", "true")
		const want = `oidc-publisher publish to=["a" "b"] grace=1h0m0s dry=true args=[]`
		if _, got, _, stderr := program(t, "publish"); got != want {
			t.Errorf("%s, want %s; stderr %q", got, want, stderr)
		}
		if _, got, _, _ := program(t, "publish", "--to", "c,d", "--grace", "2h"); !strings.Contains(got, `to=["c,d"] grace=2h0m0s`) {
			t.Errorf("flags must win: %s", got)
		}
	})
	for variable, c := range map[string]struct{ value, want string }{
		"OIDC_PUBLISHER_GRACE":   {"24", "error: OIDC_PUBLISHER_GRACE=24: use a unit, such as 24h"},
		"OIDC_PUBLISHER_TIMEOUT": {"soon", "error: OIDC_PUBLISHER_TIMEOUT=soon: not a duration, such as 30s"},
		"OIDC_PUBLISHER_DRY_RUN": {"maybe", "error: OIDC_PUBLISHER_DRY_RUN=maybe: must be true or false"},
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, c.value)
			code, got, stdout, stderr := program(t, "publish")
			if code != cli.ExitUsage || got+stdout != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, %s, stdout %q, stderr %q, want %q", code, got, stdout, stderr, c.want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	for command, want := range map[string]struct {
		code   int
		stderr string
	}{
		"fail":   {cli.ExitFailed, "oidc-publisher: error: boom\n"},
		"refuse": {cli.ExitRefused, "oidc-publisher: refused: a rule: no\n"},
		"partly": {cli.ExitPartly, ""},
	} {
		if code, _, _, stderr := program(t, command); code != want.code || stderr != want.stderr {
			t.Errorf("%s: exit code %d, stderr %q", command, code, stderr)
		}
	}
}

// TestHelp: on stdout, with exit code 0, and without defaults that say nothing.
func TestHelp(t *testing.T) {
	for _, args := range []string{"", "--help", "help", "publish --help", "help publish", "exchange cloudsmith --help", "--version",
		"verify https://a --help", "verify --help https://a", "publish --to a -h", "help exchange", "help exchange cloudsmith check", "exchange help", "help --help"} {
		code, _, stdout, stderr := program(t, strings.Fields(args)...)
		if code != cli.ExitDone || stdout == "" || stderr != "" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
		if strings.Contains(stdout, "(default: false)") || strings.Contains(stdout, "24h0m0s") {
			t.Errorf("%q: %s", args, stdout)
		}
	}
	if _, _, stdout, _ := program(t, "help", "exchange", "cloudsmith"); !strings.Contains(stdout, "oidc-publisher exchange cloudsmith [") {
		t.Error(stdout)
	}
	_, _, stdout, _ := program(t, "publish", "--help")
	if !strings.Contains(stdout, "(default: 24h)") {
		t.Error(stdout)
	}
}

// TestCompletion: the program lists commands, subcommands and flags.
func TestCompletion(t *testing.T) {
	defer func(args []string) { os.Args = args }(os.Args)
	for args, want := range map[string][]string{
		"":                      {"publish", "verify", "exchange", "completion"},
		"exchange":              {"cloudsmith", "gcp"},
		"publish -":             {"--to", "--grace", "--dry-run"},
		"exchange cloudsmith -": {"--to"},
	} {
		all := append(strings.Fields(args), "--generate-bash-completion")
		os.Args = append([]string{cli.Name}, all...) // urfave reads the last word there
		code, _, stdout, stderr := program(t, all...)
		listed := strings.Fields(stdout)
		for _, word := range want {
			if !slices.ContainsFunc(listed, func(l string) bool { name, _, _ := strings.Cut(l, ":"); return name == word }) {
				t.Errorf("%q: exit code %d, %q is not in %q; stderr %q", args, code, word, listed, stderr)
			}
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, _, stdout, _ := program(t, "completion", shell); code != cli.ExitDone || !strings.Contains(stdout, "complete ") {
			t.Errorf("%s: exit code %d: %s", shell, code, stdout)
		}
	}
	if code, _, _, stderr := program(t, "completion", "tcsh"); code != cli.ExitUsage || !strings.Contains(stderr, `no completion for "tcsh"`) {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

// jwt has the shape of a token.
const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.c2VhbA"

// TestSay: tokens are masked, and control characters and line breaks can't
// imitate other output.
func TestSay(t *testing.T) {
	var out bytes.Buffer
	cli.Say(&out, "error", "a "+jwt+"\nb\x1b[2J")
	if want := "oidc-publisher: error: a [masked]\noidc-publisher: error: b\\x1b[2J\n"; out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
}

func TestLogger(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "oidc-publisher: warning: slow [masked] n=1\noidc-publisher: error: failed\n"},
		{[]string{"--log-level", "error"}, "oidc-publisher: error: failed\n"},
		{[]string{"--log-format", "json"}, `"level":"WARN","msg":"slow [masked]","n":1}`},
		{[]string{"--log-format", "json"}, `"level":"ERROR","msg":"failed","kind":"error"}`},
		{[]string{"--log-level", "loud"}, `--log-level is "loud", and must be one of debug, info, warn, error`},
	} {
		var errOut bytes.Buffer
		app := cli.New(nil, &bytes.Buffer{}, &errOut, &cli.Command{Name: "log", Flags: cli.LogFlags(cli.LogText), Action: func(c *cli.Context) error {
			log := cli.Logger(c)
			log.Debug("hidden")
			log.LogAttrs(t.Context(), slog.LevelWarn, "slow "+jwt, slog.Int("n", 1))
			return errors.New("failed")
		}})
		cli.Run(t.Context(), app, append([]string{cli.Name, "log"}, c.args...), func(error) bool { return false })
		if !strings.Contains(errOut.String(), c.want) || strings.Contains(errOut.String(), "hidden") {
			t.Errorf("%q: %q lacks %q", c.args, &errOut, c.want)
		}
	}
}
