package main

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/urfave/cli/v2"

	"oidc-publisher/backends/web"
)

// front is one way in from the world.
type front struct {
	listener net.Listener
	tls      *tls.Config // nil for plain HTTP
	// keep does what the front needs besides, such as renewing its
	// certificate, until its context ends; nil for nothing.
	keep part
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
		local.tls, local.keep, scheme = certificate.TLSConfig(), certificate.Follow, "https"
	}
	if local.listener, err = listen(ctx, c, "listen"); err != nil {
		return nil, "", err
	}
	p.listening(scheme + "://" + local.listener.Addr().String())
	return []front{local}, "", nil
}

func closeFronts(fronts []front) {
	for _, f := range fronts {
		_ = f.listener.Close() // closed already where it was served
	}
}

func (f front) parts(server *web.Server) []part {
	parts := []part{func(ctx context.Context) error { return server.Serve(ctx, f.listener, f.tls) }}
	if f.keep != nil {
		parts = append(parts, f.keep)
	}
	return parts
}
