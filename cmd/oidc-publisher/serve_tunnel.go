package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strings"
	"time"

	"oidc-publisher/internal/cli"

	"oidc-publisher/internal/tunnel"
)

const categoryTunnel = "Tunnel"

func tunnelFlags() []cli.Flag {
	flags := []cli.Flag{
		cli.String("tunnel", "", "serve at the far side of an SSH server, `ssh://USER@HOST[:PORT]`, and not at --listen unless that is given too"),
		cli.String("tunnel-bind", "80", "ask the server to listen at `[ADDRESS:]PORT`, as ssh -R does; 0 lets it choose"),
		cli.String("tunnel-key", "", "log in with this private key `FILE`, or with the agent's key whose public half it is (default: the agent's, and those in ~/.ssh without a passphrase)"),
		cli.String("tunnel-host-key", "", "accept only this host key, by its `FINGERPRINT` (SHA256:…; ssh-keygen -l prints it)"),
		cli.String("tunnel-known-hosts", "", "look for the server's host key in `FILE` (default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts)"),
	}
	for _, flag := range flags {
		cli.Categorise(flag, categoryTunnel)
	}
	return flags
}

// checkTunnel refuses what could not work, before anything is connected.
func checkTunnel(c *cli.Context) error {
	if c.String("tunnel") == "" {
		for _, flag := range []string{"tunnel-bind", "tunnel-key", "tunnel-host-key", "tunnel-known-hosts"} {
			if c.IsSet(flag) {
				return cli.Usagef("--%s needs --tunnel", flag)
			}
		}
		return nil
	}
	_, err := tunnelConfig(c, nil)
	return err
}

func tunnelConfig(c *cli.Context, log *slog.Logger) (tunnel.Config, error) {
	server, err := tunnel.ParseServer(c.String("tunnel"))
	if err != nil {
		return tunnel.Config{}, cli.Usagef("--tunnel: %v", err)
	}
	bind, err := tunnel.ParseBind(c.String("tunnel-bind"))
	if err != nil {
		return tunnel.Config{}, cli.Usagef("--tunnel-bind %q: %v", c.String("tunnel-bind"), err)
	}
	hostKey := c.String("tunnel-host-key")
	if hostKey != "" && !strings.HasPrefix(hostKey, "SHA256:") {
		return tunnel.Config{}, cli.Usagef("--tunnel-host-key %q must be a fingerprint of the form SHA256:…, as ssh-keygen -l prints it", hostKey)
	}
	if server.User == "" {
		me, err := user.Current()
		if err != nil {
			return tunnel.Config{}, cli.Usagef("--tunnel names no user, and yours is not known: write ssh://USER@…")
		}
		server.User = me.Username
	}
	home, _ := os.UserHomeDir() // without one there are no files in it
	config := tunnel.Config{
		Server: server, Bind: bind, HostKey: hostKey,
		KeyFile: c.String("tunnel-key"), DefaultKeys: tunnel.DefaultKeys(home), AgentSocket: os.Getenv("SSH_AUTH_SOCK"),
		KnownHosts: tunnel.DefaultKnownHosts(home),
		Confirm:    confirmHostKey(c.App.Reader, c.App.ErrWriter),
		Log:        log,
	}
	if file := c.String("tunnel-known-hosts"); file != "" {
		config.KnownHosts = []string{file}
	}
	return config, nil
}

// promptName is in what time tunnel services tell the public URL, mostly.
const promptName = 2 * time.Second

// openTunnel connects. The public URL is what the server told, unless the issuer
// is given: then nobody waits for it.
func openTunnel(ctx context.Context, c *cli.Context, p *progress) (f front, url string, err error) {
	config, err := tunnelConfig(c, p.log)
	if err != nil {
		return front{}, "", err
	}
	t := tunnel.New(config)
	if err := t.Open(ctx); err != nil {
		return front{}, "", fmt.Errorf("--tunnel: %w", err)
	}
	keep := func(ctx context.Context) error {
		t.Run(ctx)
		return nil
	}
	f = front{listener: t, keep: []part{keep}}
	issuer := c.String("issuer")
	if issuer != "" || c.String("dir") != "" {
		go warnOfOtherName(ctx, t, issuer, p.log)
		f.unready = func() string { return unreachable(t, false) }
		return f, "", nil
	}
	naming, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	defer time.AfterFunc(promptName, func() {
		p.Waiting(fmt.Errorf("%s told no public URL yet: if it is no tunnel service but a server of your own, stop this and say with --issuer at which URL it is reached", config.Server))
	}).Stop()
	if url, err = t.Name(naming); err != nil {
		return front{}, "", fmt.Errorf("--tunnel: %w", err)
	}
	f.unready = func() string { return unreachable(t, true) }
	return f, url, nil
}

// unreachable returns why nobody finds the issuer through the tunnel, or "".
// Where the issuer was given, what the server calls the tunnel is no matter.
func unreachable(t *tunnel.Tunnel, named bool) string {
	switch {
	case !t.Up():
		return "the tunnel is down: nobody reaches the public issuer"
	case named && t.Renamed():
		return "the tunnel's public name is not the issuer's any more: nobody reaches the public issuer"
	}
	return ""
}

// warnOfOtherName tells when the issuer is not what the server says it is
// reached at. With one's own server there is nothing to compare.
func warnOfOtherName(ctx context.Context, t *tunnel.Tunnel, issuer string, log *slog.Logger) {
	name, err := t.Name(ctx)
	if err == nil && issuer != "" && issuer != name && !strings.HasPrefix(issuer, name+"/") {
		log.Warn("the tunnel's public name is not that of the issuer, so relying parties may not get here", "name", name, "issuer", issuer)
	}
}

// confirmHostKey asks on the terminal, or is nil where nobody would answer: a
// program in the background that reads from its terminal is stopped.
func confirmHostKey(in io.Reader, out io.Writer) func(context.Context, *tunnel.UnknownHostError) (bool, error) {
	stdin, isFile := in.(*os.File)
	stderr, shown := out.(*os.File)
	if !isFile || !shown || !cli.IsForeground(stdin) || !cli.IsTerminal(stderr) {
		return nil
	}
	return func(ctx context.Context, unknown *tunnel.UnknownHostError) (bool, error) {
		_, _ = fmt.Fprintf(out, "%s: %s is not in known_hosts. It shows the host key\n  %s (%s)\nIs that its key? Whoever runs it can tell. It will be remembered. [yes/no] ",
			cli.Name, unknown.Address, unknown.Fingerprint, unknown.Type)
		return readYes(ctx, stdin)
	}
}

func readYes(ctx context.Context, in io.Reader) (bool, error) {
	answer := make(chan string, 1)
	go func() { // outlives an interrupt, with the process
		line, _ := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return false, errors.New("interrupted")
	case text := <-answer:
		return text == "yes" || text == "y", nil
	}
}
