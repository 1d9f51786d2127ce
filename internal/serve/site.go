package serve

import (
	"log/slog"
	"net/url"
	"sync/atomic"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// Site serves the two documents of an issuer. It is safe for concurrent use.
type Site struct {
	log     *slog.Logger
	metrics *Metrics
	// current has both documents that clients see. They are replaced together.
	current atomic.Pointer[pages]
}

// pages are one consistent pair, or nothing.
type pages struct {
	published      publish.Published
	document, keys *page
}

// NewSite returns a site without documents. It logs accesses if the logger
// wants debug records.
func NewSite(log *slog.Logger, metrics *Metrics) *Site {
	s := &Site{log: log, metrics: metrics}
	s.current.Store(new(pages))
	return s
}

// Published returns the documents that are served.
func (s *Site) Published() publish.Published { return s.current.Load().published }

// Issuer returns the issuer of the document, or "" without documents.
func (s *Site) Issuer() discovery.Issuer { return s.Published().Document.Issuer() }

// Serve replaces the documents that are served. It must not be called
// concurrently.
func (s *Site) Serve(now publish.Published) error {
	issuer := now.Document.Issuer()
	path, err := url.Parse(issuer.ConfigurationURL())
	if err != nil {
		return err
	}
	keysPath, err := url.Parse(issuer.JWKSURI())
	if err != nil {
		return err
	}
	old := s.current.Load()
	object := func(name string, body []byte) publish.Object {
		return publish.Described(publish.Object{Name: name, Body: body, BytesOnly: true})
	}
	s.current.Store(&pages{
		published: now,
		document:  newPage(object(discovery.ConfigurationPath, now.Document.Bytes()), path, old.document),
		keys:      newPage(object(discovery.JWKSPath, now.Keys.Bytes()), keysPath, old.keys),
	})
	return nil
}
