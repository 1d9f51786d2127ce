package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"oidc-publisher/backends"
	"oidc-publisher/discovery"
	"oidc-publisher/internal/acme"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/serve"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/tunnel"
	"oidc-publisher/publish"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:        "serve",
		Usage:       "serve a cluster's discovery documents to relying parties",
		Description: serveDescription,
		Flags: slices.Concat(
			cli.InCategory("Server",
				cli.String("dir", "", "serve what publish --to wrote to `DIR`"),
				cli.String("state-dir", "", "keep documents and retired keys in `DIR` across restarts"),
				cli.String("listen", "127.0.0.1:8080", "serve the documents at `ADDRESS`; with --tunnel a free local port"),
				cli.String("tls-cert", "", "certificate chain for HTTPS, a PEM `FILE`, reloaded when it changes"),
				cli.String("tls-key", "", "private key of the certificate, a PEM `FILE`"),
				cli.Bool("acme", "get a certificate for the issuer's host (Let's Encrypt); accepts its terms"),
				cli.String("acme-email", "", "contact `ADDRESS` for the ACME authority"),
				cli.String("acme-dir", "", "keep ACME's private keys in `DIR` (default: oidc-publisher/acme in the user's cache)"),
				cli.String("acme-directory", acme.LetsEncrypt, "directory `URL` of the ACME authority"),
				cli.String("acme-http-listen", "", "answer HTTP-01 at `ADDRESS`, such as :80 (default: only TLS-ALPN-01, at --listen)"),
				cli.String("admin-listen", "", "serve health and metrics at `ADDRESS` (default: off)"),
				cli.String("ready-file", "", "write the public URL into `FILE` once documents are served there"),
			),
			cli.InCategory("Server", intervalFlags()...),
			cli.InCategory("Tunnel",
				cli.String("tunnel", "", "forward from an SSH server, `ssh://USER@HOST[:PORT]`, with ssh -R"),
				cli.String("tunnel-bind", "80", "ask the server to listen at `[ADDRESS:]PORT`; 0 lets it choose"),
				cli.List("tunnel-ssh-option", "ssh option, `KEY=VALUE`, such as IdentityFile=id_ed25519; repeatable"),
			),
			publicationFlags(), []cli.Flag{takeOverFlag(), cli.Output("text", "json")}, cli.LogFlags(cli.LogText)),
		Action: serveAction,
	}
}

const serveDescription = `Fetches the documents from a cluster as publish does, follows its keys as watch
does, and answers for the issuer itself: plain HTTP for a tunnel or a proxy in
front, HTTPS with --tls-cert or --acme. It may be started before the cluster:
until there are documents it answers 503 and logs what it waits for.

The documents are at their paths below the issuer's own: for https://host/a at
/a/.well-known/openid-configuration. Nothing else is public.

The documents are kept in memory. Keys that the cluster no longer lists stay
public for --grace, but a restart forgets them; --state-dir keeps them.

With --dir it serves what publish --to left in a directory and polls it each
second.

With --tunnel, ssh -R makes it public through an SSH server, with your ssh
configuration: one of your own, whose public URL --issuer names, or a public
tunnel service, which announces the URL that becomes the issuer. The operator of
that server can impersonate your issuer, unless TLS ends here (--tls-cert): test
clusters only.

Standard output is the public URL as soon as it is known or, with --output json,
one JSON object per event.

Examples:
  oidc-publisher serve
  oidc-publisher serve --issuer https://issuer.example.com --tls-cert tls.crt --tls-key tls.key --listen :443
  oidc-publisher serve --dir ./public --listen :8080
  oidc-publisher serve --tunnel ssh://nokey@localhost.run
  oidc-publisher serve --tunnel ssh://me@my-server --tunnel-bind 8080 --issuer https://my-server.example.com`

func serveAction(c *cli.Context) error {
	publication, err := readPublication(c, c.String("tunnel") != "")
	if err != nil {
		return err
	}
	config, err := serveConfig(c, publication)
	if err != nil {
		return err
	}
	// Without this, a write to a pipe that has no reader ends the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	nudge := service.NewNudge()
	ctx, stop := untilHangup(c, nudge)
	defer stop()
	config.Nudge = nudge
	config.Source = func(issuer discovery.Issuer) (publish.Source, error) {
		if publication.source.isFiles() {
			return publication.source.open(issuer)
		}
		cluster := publication.source.cluster
		cluster.Disconnected = nudge.Send
		return &serve.Reopening{Config: cluster}, nil
	}
	return serve.Run(ctx, config)
}

// untilHangup makes SIGHUP end a process that has a terminal, since it is sent
// when the window is closed, and makes it nudge any other process. A process
// that ignores SIGHUP, as under nohup, is not ended.
func untilHangup(c *cli.Context, nudge service.Nudge) (context.Context, func()) {
	if (cli.IsTerminal(c.App.Reader) || cli.IsTerminal(c.App.ErrWriter)) && !signal.Ignored(syscall.SIGHUP) {
		return signal.NotifyContext(c.Context, syscall.SIGHUP)
	}
	return c.Context, nudge.OnHangup(c.Context)
}

// serveConfig reads the flags that only serve has.
func serveConfig(c *cli.Context, publication publication) (config serve.Config, err error) {
	if err := checkServe(c); err != nil {
		return config, err
	}
	log := cli.Logger(c)
	policy := publication.policy
	config = serve.Config{
		Issuer: policy.Issuer, Policy: policy, Timeout: publication.timeout,
		Interval: c.Duration("interval"), VerifyInterval: c.Duration("verify-interval"),
		Listen: c.String("listen"), AdminListen: c.String("admin-listen"),
		CertFile: c.String("tls-cert"), KeyFile: c.String("tls-key"), ACMEListen: c.String("acme-http-listen"),
		Log: log,
	}
	if config.ACME, err = acmeConfig(c, policy.Issuer); err != nil {
		return config, err
	}
	if config.Tunnel, err = tunnelConfig(c, policy.Issuer); err != nil {
		return config, err
	}
	if config.Tunnel != nil && !c.IsSet("listen") {
		config.Listen = "127.0.0.1:0"
	}
	if config.Dir, err = openDir(c, "dir"); err != nil {
		return config, err
	}
	if config.StateDir, err = openDir(c, "state-dir"); err != nil {
		return config, err
	}
	config.Events, err = serve.NewEvents(c.App.Writer, c.String("output") == "json", c.String("ready-file"), log)
	return config, err
}

func checkServe(c *cli.Context) error {
	switch {
	case (c.String("tls-cert") == "") != (c.String("tls-key") == ""):
		return cli.Usagef("--tls-cert and --tls-key go together: one is the certificate chain, the other its private key")
	case c.Bool("acme") && c.String("tls-cert") != "":
		return cli.Usagef("--acme and --tls-cert exclude each other: give one")
	case c.Bool("acme") && c.String("issuer") == "":
		return cli.Usagef("--acme needs --issuer: its host is what the certificate is for")
	}
	var without, useless error
	if !c.Bool("acme") {
		without = refuseFlags(c, "--%s needs --acme", "acme-email", "acme-dir", "acme-directory", "acme-http-listen")
	}
	if c.String("dir") != "" {
		useless = refuseFlags(c, "--dir serves what is already published there, so --%s has no effect: give it to the publish that writes there",
			"kubeconfig", "context", "all-api-servers", "canary", "from", "public-key", "state-dir", "owner", "grace", "revoke",
			"take-over", "ahead-of-issuer-change", "interval", "verify-interval")
	}
	return errors.Join(without, useless)
}

// refuseFlags refuses flags that have no effect. why is a format for the flag.
func refuseFlags(c *cli.Context, why string, flags ...string) error {
	for _, flag := range flags {
		if c.IsSet(flag) {
			return cli.Usagef(why, flag)
		}
	}
	return nil
}

func openDir(c *cli.Context, flag string) (*publish.Target, error) {
	path := c.String(flag)
	if path == "" {
		return nil, nil
	}
	var target publish.Target
	absolute, err := filepath.Abs(path)
	if err == nil {
		target, err = backends.Open(c.Context, absolute)
	}
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	target.Name = path
	return &target, nil
}

func acmeConfig(c *cli.Context, issuer discovery.Issuer) (*acme.Config, error) {
	if !c.Bool("acme") {
		return nil, nil
	}
	u, err := url.Parse(string(issuer))
	if err != nil {
		return nil, cli.Usagef("--issuer: %v", err)
	}
	config := &acme.Config{Host: u.Hostname(), Email: c.String("acme-email"), Directory: c.String("acme-directory"), Storage: c.String("acme-dir")}
	if err := config.CheckHost(); err != nil {
		return nil, cli.Usagef("%v", err)
	}
	if config.Storage == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, cli.Usagef("--acme-dir is missing, and there is no default: %v", err)
		}
		config.Storage = filepath.Join(cache, cli.Name, "acme")
	}
	return config, nil
}

func tunnelConfig(c *cli.Context, issuer discovery.Issuer) (*tunnel.Config, error) {
	if c.String("tunnel") == "" {
		return nil, refuseFlags(c, "--%s needs --tunnel", "tunnel-bind", "tunnel-ssh-option")
	}
	options := cli.Values(c, "tunnel-ssh-option")
	server, err := tunnel.ParseServer(c.String("tunnel"))
	if err != nil {
		return nil, cli.Usagef("--tunnel: %v", err)
	}
	bind, err := tunnel.ParseBind(c.String("tunnel-bind"))
	if err != nil {
		return nil, cli.Usagef("--tunnel-bind %q: %v", c.String("tunnel-bind"), err)
	}
	for _, option := range options {
		if err := tunnel.CheckOption(option); err != nil {
			return nil, cli.Usagef("--tunnel-ssh-option %q: %v", option, err)
		}
	}
	return &tunnel.Config{Server: server, Bind: bind, Options: options, Session: issuer == ""}, nil
}
