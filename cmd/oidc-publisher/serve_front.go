package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"github.com/urfave/cli/v2"

	"oidc-publisher/backends/web"
)

// front is one way in from the world.
type front struct {
	listener net.Listener
	tls      *tls.Config // nil for plain HTTP
	// keep does what the front needs besides, such as renewing its
	// certificate, until its context ends, which is after the last request.
	keep []part
}

// openFronts turns flags into ways in. The public URL is what one of them
// learned of its own, "" where none did; it becomes the issuer unless --issuer
// is given.
func openFronts(ctx context.Context, c *cli.Context, p *progress, m *web.Metrics) (fronts []front, url string, err error) {
	local := front{}
	scheme := "http"
	if file := c.String("tls-cert"); file != "" {
		certificate, err := web.OpenCertificate(file, c.String("tls-key"), p.log, m)
		if err != nil {
			return nil, "", err
		}
		local.tls, local.keep, scheme = certificate.TLSConfig(), []part{certificate.Follow}, "https"
	}
	if c.String("tunnel") != "" {
		far, told, err := openTunnel(ctx, c, p.log)
		if err != nil {
			return nil, "", err
		}
		far.tls, url = local.tls, told
		if !c.IsSet("listen") {
			far.keep = append(far.keep, local.keep...)
			return []front{far}, url, nil
		}
		fronts = append(fronts, far)
	}
	if local.listener, err = listen(ctx, c, "listen"); err != nil {
		closeFronts(fronts)
		return nil, "", err
	}
	p.listening(scheme + "://" + local.listener.Addr().String())
	return append(fronts, local), url, nil
}

func closeFronts(fronts []front) {
	for _, f := range fronts {
		_ = f.listener.Close() // closed already where it was served
	}
}

func (f front) parts(server *web.Server) []part {
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
