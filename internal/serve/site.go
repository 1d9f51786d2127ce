package serve

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// Site holds objects in memory and serves the two documents among them. It is
// safe for concurrent use.
type Site struct {
	log     *slog.Logger
	debug   bool
	metrics *Metrics
	// current is what a reader sees: a pair, replaced whole.
	current atomic.Pointer[generation]

	mu      sync.Mutex
	objects map[string]publish.Object
	writes  uint64
}

// NewSite makes an empty site. It logs accesses if the logger wants debug lines.
func NewSite(log *slog.Logger, metrics *Metrics) *Site {
	s := &Site{
		log:     log,
		debug:   log.Enabled(context.Background(), slog.LevelDebug),
		metrics: metrics,
		objects: map[string]publish.Object{},
	}
	s.current.Store(new(generation))
	return s
}

// generation is one consistent pair, or nothing.
type generation struct {
	issuer         discovery.Issuer
	set            discovery.KeySet
	document, keys *page
}

// Issuer is that of the document being served, or "" while nothing is.
func (s *Site) Issuer() discovery.Issuer { return s.current.Load().issuer }

// Keys are the IDs of the keys being served, none while nothing is.
func (s *Site) Keys() []string { return s.current.Load().set.IDs() }

// Open returns a new handle on the store.
func (s *Site) Open() publish.Backend { return &handle{site: s} }

// Place puts the pair of documents into the store whatever is there, so that no
// reader sees one of them without the other. It reports whether that changed
// anything.
func (s *Site) Place(document, keys publish.Object) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[document.Name].Same(document) && s.objects[keys.Name].Same(keys) {
		return false, nil
	}
	next, err := newGeneration(document, keys, s.current.Load())
	if err != nil {
		return false, err
	}
	s.store(keys)
	s.store(document)
	s.current.Store(next)
	return true, nil
}

// store must be called with the lock held.
func (s *Site) store(object publish.Object) {
	s.writes++
	object.Body = bytes.Clone(object.Body)
	object.Version = strconv.FormatUint(s.writes, 10)
	s.objects[object.Name] = object
}

// refresh makes what the store holds visible if it is a pair that can be served;
// otherwise the last good pair stays. It must be called with the lock held.
func (s *Site) refresh() {
	document, haveDocument := s.objects[discovery.ConfigurationPath]
	keys, haveKeys := s.objects[discovery.JWKSPath]
	if !haveDocument || !haveKeys {
		return
	}
	if next, err := newGeneration(document, keys, s.current.Load()); err == nil {
		s.current.Store(next)
	}
}

func newGeneration(document, keys publish.Object, before *generation) (*generation, error) {
	parsed, err := discovery.ParseDocument(document.Body)
	if err != nil {
		return nil, err
	}
	set, err := discovery.ParseKeySet(keys.Body)
	if err != nil {
		return nil, err
	}
	issuer := parsed.Issuer()
	at, err := url.Parse(issuer.ConfigurationURL())
	if err != nil {
		return nil, err
	}
	keysAt, err := url.Parse(issuer.JWKSURI())
	if err != nil {
		return nil, err
	}
	return &generation{
		issuer: issuer, set: set,
		document: newPage(document, at, before.document),
		keys:     newPage(keys, keysAt, before.keys),
	}, nil
}

// handle is the store as a publisher sees it.
type handle struct {
	gate publish.Gate
	site *Site
}

var _ publish.Backend = (*handle)(nil)

func (h *handle) Get(ctx context.Context, name string) (publish.Object, error) {
	if err := h.gate.Get(ctx, name); err != nil {
		return publish.Object{}, err
	}
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	object, ok := h.site.objects[name]
	switch {
	case !ok:
		return publish.Object{}, fmt.Errorf("memory: %s: %w", name, fs.ErrNotExist)
	case len(object.Body) > publish.MaxObjectSize:
		return publish.Object{}, fmt.Errorf("memory: %s: %w", name, publish.ErrTooLarge)
	}
	object.Body = bytes.Clone(object.Body)
	return object, nil
}

func (h *handle) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := h.gate.Put(ctx, object); err != nil {
		return err
	}
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	current, ok := h.site.objects[object.Name]
	if version, present := precondition.Version(); ok != present || current.Version != version {
		return fmt.Errorf("memory: %s: %w", object.Name, publish.ErrPrecondition)
	}
	object.BytesOnly = false
	h.site.store(object)
	if object.Name == discovery.ConfigurationPath || object.Name == discovery.JWKSPath {
		h.site.refresh()
	}
	return nil
}

// Close closes this handle; the store lives as long as the Site.
func (h *handle) Close() error {
	h.gate.Close()
	return nil
}
