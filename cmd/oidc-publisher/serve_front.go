package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"oidc-publisher/internal/cli"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/acme"
	"oidc-publisher/internal/serve"
)

// front is one way in from the world.
type front struct {
	listener net.Listener
	tls      *tls.Config // nil for plain HTTP
	// keep does what the front needs besides, such as renewing its
	// certificate, until its context ends, which is after the last request.
	keep []part
	// unready returns why the world does not get in here, or ""; nil for a
	// listener of this machine, which always listens.
	unready func() string
}

// openFronts turns flags into ways in. The public URL is what one of them
// learned of its own, "" where none did; it becomes the issuer unless --issuer
// is given.
func openFronts(ctx context.Context, c *cli.Context, p *progress, m *serve.Metrics) (fronts []front, publicURL string, err error) {
	local := front{}
	var keep part
	scheme := "https"
	switch {
	case c.String("tls-cert") != "":
		local.tls, keep, err = certificateFiles(c, p, m)
	case c.Bool("acme"):
		local.tls, keep, err = acmeCertificate(ctx, c, p, m)
	default:
		scheme = "http"
	}
	if err != nil {
		return nil, "", err
	}
	if keep != nil {
		local.keep = []part{keep}
	}
	if c.String("tunnel") != "" {
		far, told, err := openTunnel(ctx, c, p)
		if err != nil {
			return nil, "", err
		}
		far.tls, publicURL = local.tls, told
		if !c.IsSet("listen") {
			far.keep = append(far.keep, local.keep...)
			return []front{far}, publicURL, nil
		}
		fronts = append(fronts, far)
	}
	if local.listener, err = listen(ctx, c, "listen"); err != nil {
		closeFronts(fronts)
		return nil, "", err
	}
	p.listening(scheme + "://" + local.listener.Addr().String())
	return append(fronts, local), publicURL, nil
}

func certificateFiles(c *cli.Context, p *progress, m *serve.Metrics) (*tls.Config, part, error) {
	certificate, err := serve.OpenCertificate(c.String("tls-cert"), c.String("tls-key"), p.log, m)
	if err != nil {
		return nil, nil, err
	}
	return certificate.TLSConfig(), certificate.Follow, nil
}

// acmeCertificate also listens for HTTP-01 where it was told to.
func acmeCertificate(ctx context.Context, c *cli.Context, p *progress, m *serve.Metrics) (*tls.Config, part, error) {
	issuer, err := discovery.ParseIssuer(c.String("issuer"))
	if err != nil {
		return nil, nil, cli.Usagef("--issuer: %v", err)
	}
	storage, err := acmeStorage(c)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := acme.New(acme.Config{
		Host: hostOf(issuer), Email: c.String("acme-email"), Directory: c.String("acme-directory"),
		Storage: storage, Expiry: m.Expiry, Log: p.log,
	})
	if err != nil {
		return nil, nil, cli.Usagef("%v", err)
	}
	if c.String("acme-http-listen") == "" {
		return certificate.TLSConfig(), certificate.Keep, nil
	}
	listener, err := listen(ctx, c, "acme-http-listen")
	if err != nil {
		return nil, nil, err
	}
	// Its numbers are of no interest: strangers are only sent elsewhere there.
	server := &serve.Server{Handler: certificate.HTTPHandler(), Log: p.log, Metrics: serve.NewMetrics(prometheus.NewRegistry())}
	return certificate.TLSConfig(), func(ctx context.Context) error {
		return together(ctx, certificate.Keep, func(ctx context.Context) error { return server.Serve(ctx, listener, nil) })
	}, nil
}

func acmeStorage(c *cli.Context) (string, error) {
	if dir := c.String("acme-dir"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", cli.Usagef("--acme-dir is missing, and there is no default: %v", err)
	}
	return filepath.Join(cache, cli.Name, "acme"), nil
}

// hostOf is an issuer's host without its port: it was parsed before.
func hostOf(issuer discovery.Issuer) string {
	u, err := url.Parse(string(issuer))
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func closeFronts(fronts []front) {
	for _, f := range fronts {
		_ = f.listener.Close() // closed already where it was served
	}
}

func (f front) parts(server *serve.Server) []part {
	return []part{func(ctx context.Context) error {
		ctx, fail := context.WithCancelCause(ctx)
		defer fail(nil)
		kept, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		var keeping sync.WaitGroup
		for _, keep := range f.keep {
			keeping.Go(func() {
				if err := keep(kept); err != nil {
					fail(err)
				}
			})
		}
		err := server.Serve(ctx, f.listener, f.tls)
		stop()
		keeping.Wait()
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = errors.Join(cause, err)
		}
		return err
	}}
}
