// Oidc-publisher publishes the OpenID Connect discovery documents of a private
// Kubernetes API server where relying parties can read them.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"

	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/cli"
	"oidc-publisher/publish"
)

func main() { os.Exit(realMain()) }

func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// client-go would write to the process's stderr by itself.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	return cli.Run(ctx, newApp(os.Stdin, os.Stdout, os.Stderr), os.Args, isRefusal)
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	services := []exchangeService{cloudsmithService(), gcpService()}
	return cli.New(stdin, stdout, stderr,
		publishCommand(), watchCommand(), serveCommand(), verifyCommand(),
		exchangeCommand(services), pullSecretCommand(services), credentialProviderCommand())
}

// isRefusal reports whether a rule or a service refused, which is exit code 3.
func isRefusal(err error) bool {
	var refused *exchange.RefusedError
	var forAPI *exchange.APITokenError
	return errors.Is(err, publish.ErrRefused) || errors.As(err, &refused) || errors.As(err, &forAPI) || errors.Is(err, exchange.ErrNoSubject)
}
