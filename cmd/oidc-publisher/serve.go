package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"oidc-publisher/internal/cli"

	"oidc-publisher/internal/acme"
	"oidc-publisher/internal/serve"
)

const categoryServer = "Server"

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:        "serve",
		Usage:       "serve a cluster's discovery documents to relying parties, here",
		Description: serveDescription,
		Flags:       serveFlags(),
		Action:      serveAction,
	}
}

const serveDescription = `Takes the documents from a cluster as publish does, goes on following its keys
as watch does, and answers for the issuer itself: plain HTTP for a tunnel or a
proxy in front, HTTPS with --tls-cert or --acme. It may be started before the
cluster: until there are documents it answers 503, and says what it waits for.

The documents are at their paths below the issuer's own: for https://host/a at
/a/.well-known/openid-configuration. Nothing else is served to the world.

What is served lives in memory. Keys that the cluster no longer lists stay
public for --grace, but a restart forgets them: with --state-dir it does not.

With --dir, what publish --to left in a directory is served instead, and
followed: the directory is read each second.

With --tunnel it is reached through an SSH server: one of your own, whose public
URL --issuer says, or a public tunnel service, which prints the URL that becomes
the issuer. Whoever runs that server can answer in your cluster's name, unless
TLS ends here (--tls-cert): use it for clusters that guard nothing.

Standard output is the public URL, alone, as soon as it is known, or with
--output json one JSON object per event.

Examples:
  oidc-publisher serve
  oidc-publisher serve --issuer https://issuer.example.com --tls-cert tls.crt --tls-key tls.key --listen :443
  oidc-publisher serve --dir ./public --listen :8080
  oidc-publisher serve --tunnel ssh://nokey@localhost.run
  oidc-publisher serve --tunnel ssh://me@my-server --tunnel-bind 8080 --issuer https://my-server.example.com`

func serveFlags() []cli.Flag {
	flags := []cli.Flag{
		cli.String("dir", "", "serve what publish --to left in `DIR` instead of a cluster's documents"),
		cli.String("state-dir", "", "keep the documents and the memory of every key in `DIR`, so that a restart forgets no retired key and serves the last documents at once"),
		cli.String("listen", "127.0.0.1:8080", "serve the documents at `ADDRESS`"),
		cli.String("tls-cert", "", "serve HTTPS with the certificate chain in this PEM `FILE`, read again when it changes"),
		cli.String("tls-key", "", "the certificate's private key, a PEM `FILE`"),
		cli.Bool("acme", "serve HTTPS with a certificate of an ACME authority (Let's Encrypt) for the host of --issuer, accepting its terms; the authority must reach --listen at port 443 of that host, or --acme-http-listen at port 80"),
		cli.String("acme-email", "", "let the ACME authority write to `ADDRESS`"),
		cli.String("acme-dir", "", "keep the account's and the certificate's private keys in `DIR` (default: oidc-publisher/acme in the user's cache)"),
		cli.String("acme-directory", acme.LetsEncrypt, "ask the ACME authority whose directory is at `URL`; a private CA of it goes into SSL_CERT_FILE"),
		cli.String("acme-http-listen", "", "answer the HTTP-01 challenge at `ADDRESS`, such as :80, and send everybody else there to https (default: the TLS-ALPN-01 challenge alone, at --listen)"),
		cli.String("admin-listen", "", "serve /livez, /readyz and /metrics at `ADDRESS` (default: nowhere)"),
		cli.String("ready-file", "", "write the public URL into `FILE` once documents are served"),
		cli.Duration("interval", 10*time.Second, "look at the cluster every `DURATION`, jittered; at least 1s"),
		cli.Duration("verify-interval", time.Minute, "read the public issuer every `DURATION`, as a relying party does; 0 never"),
	}
	for _, flag := range flags {
		cli.Categorise(flag, categoryServer)
	}
	flags = append(flags, tunnelFlags()...)
	left := []string{"to", "dry-run", "no-verify"}
	for _, flag := range publishFlags() {
		if !slices.Contains(left, flag.Names()[0]) {
			flags = append(flags, flag)
		}
	}
	return flags
}

func serveAction(c *cli.Context) error {
	progress, err := newProgress(c)
	if err != nil {
		return err
	}
	if err := checkServe(c); err != nil {
		return err
	}
	defer outliveReaders()()
	if os.Getenv("GOGC") == "" {
		// The live heap is 2 MiB, so that the default collects after 500 requests.
		debug.SetGCPercent(400)
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	registry := newRegistry()
	metrics := serve.NewMetrics(registry)
	site := serve.NewSite(progress.log, metrics)
	// The world is let in before the cluster is looked for: until there is
	// something to serve it gets 503.
	fronts, url, err := openFronts(ctx, c, progress, metrics)
	if err != nil {
		return err
	}
	defer closeFronts(fronts)
	if url != "" {
		progress.publicURL(url)
	}
	feed, err := newFeed(c, url, site, progress, registry)
	if err != nil {
		return err
	}
	defer feed.close()
	stop, err := serveStatus(ctx, c, "admin-listen", adminHandler(site, fronts, feed.live, metricsOf(registry)))
	if err != nil {
		return err
	}
	defer stop()
	parts := []part{feed.run}
	for _, f := range fronts {
		parts = append(parts, f.parts(&serve.Server{Handler: site, Log: progress.log, Metrics: metrics})...)
	}
	return together(ctx, parts...)
}

// outliveReaders makes a write to a pipe that nobody reads any more an error, as
// it is in any other file: by itself the process would end, when a script has
// read its line and the keys change for the first time.
func outliveReaders() (stop func()) {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	return func() { signal.Stop(broken) }
}

func checkServe(c *cli.Context) error {
	if err := errors.Join(cli.CheckArgs(c), checkSource(c), cli.CheckTimeout(c), checkTunnel(c)); err != nil {
		return err
	}
	switch {
	case c.Duration("interval") < time.Second || c.Duration("verify-interval") < 0:
		return cli.Usagef("--interval must be at least 1s, and --verify-interval not negative")
	case (c.String("tls-cert") == "") != (c.String("tls-key") == ""):
		return cli.Usagef("--tls-cert and --tls-key go together: one is the certificate chain, the other its private key")
	case c.Bool("acme") && c.String("tls-cert") != "":
		return cli.Usagef("--acme and --tls-cert are two certificates: give one")
	case c.Bool("acme") && c.String("issuer") == "":
		return cli.Usagef("--acme needs --issuer: its host is what the certificate is for")
	}
	if !c.Bool("acme") {
		for _, flag := range []string{"acme-email", "acme-dir", "acme-directory", "acme-http-listen"} {
			if c.IsSet(flag) {
				return cli.Usagef("--%s needs --acme", flag)
			}
		}
	}
	return checkDir(c)
}

// checkDir refuses with --dir what belongs to a source.
func checkDir(c *cli.Context) error {
	if c.String("dir") == "" {
		return nil
	}
	for _, flag := range []string{"kubeconfig", "context", "all-api-servers", "from", "public-key", "state-dir", "owner", "grace", "revoke", "take-over", "ahead-of-issuer-change", "interval", "verify-interval"} {
		if c.IsSet(flag) {
			return cli.Usagef("--dir serves what was published there, so --%s has no meaning with it: give it to the publish that writes there", flag)
		}
	}
	return nil
}

// part is something that runs until its context ends and then returns nil.
type part func(context.Context) error

// together runs all parts until one fails or ctx ends.
func together(ctx context.Context, parts ...part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, len(parts))
	for i, run := range parts {
		all.Go(func() {
			defer cancel()
			errs[i] = run(ctx)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// adminHandler is the private side. It lives while the loop turns, and is ready
// while there is something to serve and the world gets in.
func adminHandler(site *serve.Site, fronts []front, live, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", live)
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		var reasons []string
		if site.Issuer() == "" {
			reasons = append(reasons, "there is nothing to serve yet")
		}
		for _, f := range fronts {
			if f.unready == nil {
				continue
			}
			if reason := f.unready(); reason != "" {
				reasons = append(reasons, reason)
			}
		}
		if len(reasons) > 0 {
			http.Error(w, strings.Join(reasons, "\n"), http.StatusServiceUnavailable)
		}
	})
	return mux
}

// prepareReadyFile removes what an earlier run left, which scripts would take
// for ours, and fails where the file could not be written later: they would
// wait for ever.
func prepareReadyFile(path string) error {
	probe, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_ = probe.Close() // nothing was written
	if err := os.Remove(probe.Name()); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
