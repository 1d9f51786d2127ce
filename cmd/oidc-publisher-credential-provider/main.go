// Oidc-publisher-credential-provider is a kubelet image credential provider: it
// exchanges the token of a pod's service account for a credential of the
// image's registry. It does what oidc-publisher credential-provider does, and
// starts in a fraction of the time, because kubelet waits for it at each pull.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode"

	"oidc-publisher/federation/credentialprovider"
	"oidc-publisher/internal/httpx"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	provider, rest := credentialprovider.ProviderOf(args[0]), args[1:]
	if provider == "" && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		provider, rest = rest[0], rest[1:]
	}
	settings := credentialprovider.NewSettings()
	flags := flag.NewFlagSet(credentialprovider.ProgramName, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	version := flags.Bool("version", false, "print the version of this program")
	for _, f := range settings.Flags(provider) {
		flags.Func(f.Name, f.Usage+" [$"+strings.Join(f.Env, ", $")+"]", f.Set)
	}
	plugin, err := configure(settings, provider, flags, rest)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(stdout, flags)
		return exitDone
	case *version:
		number := "unknown"
		if info, ok := debug.ReadBuildInfo(); ok {
			number = cmp.Or(info.Main.Version, number)
		}
		_, err = fmt.Fprintln(stdout, credentialprovider.ProgramName, number)
		return report(stderr, err, exitFailed)
	case err != nil:
		return report(stderr, err, exitUsage)
	default:
		return report(stderr, plugin.Answer(ctx, stdin, stdout), exitFailed)
	}
}

// configure reads the command line and then, for settings that it lacks, the
// environment.
func configure(settings *credentialprovider.Settings, provider string, flags *flag.FlagSet, args []string) (*credentialprovider.Plugin, error) {
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := settings.ReadEnv(provider, func(name string) bool { return given[name] }, os.Getenv); err != nil {
		return nil, err
	}
	if provider == "" {
		return nil, fmt.Errorf("which provider? Give %s as the first argument, or name the program %s-%s",
			strings.Join(credentialprovider.Providers(), " or "), credentialprovider.ProgramName, credentialprovider.ProviderCloudsmith)
	}
	return settings.Plugin(provider)
}

// report prints an error on one line, because kubelet appends it to a line of
// its log, and returns the exit code.
func report(stderr io.Writer, err error, code int) int {
	if err == nil {
		return exitDone
	}
	words := strings.FieldsFunc(httpx.MaskTokens(err.Error()), func(r rune) bool { return !unicode.IsPrint(r) })
	_, _ = fmt.Fprintf(stderr, "%s: error: %s", credentialprovider.ProgramName, strings.Join(words, " "))
	return code
}

func help(stdout io.Writer, flags *flag.FlagSet) {
	_, _ = fmt.Fprintf(stdout, `A kubelet image credential provider. kubelet runs it with a request on standard
input (credentialprovider.kubelet.k8s.io/v1) and reads the response from
standard output.

  %[1]s %[2]s [FLAG...]

Linked to a name like %[1]s-%[3]s it needs no argument.
oidc-publisher credential-provider --help describes more: it also prints kubelet's
configuration.

`, credentialprovider.ProgramName, strings.Join(credentialprovider.Providers(), "|"), credentialprovider.ProviderCloudsmith)
	flags.SetOutput(stdout)
	flags.PrintDefaults()
}
