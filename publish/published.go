package publish

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"oidc-publisher/discovery"
)

// Published is what one target holds after the last pass that found it up to
// date or wrote it. A failed pass does not change it. Whatever in the process needs
// to know what is public takes it from here.
type Published struct {
	// Target is the target's name.
	Target   string
	Document discovery.Document
	Keys     discovery.KeySet
	// GraceEnds has the time at which each retired key will be dropped.
	GraceEnds map[string]time.Time
	// Since is when the documents were last written, or first found.
	Since time.Time

	// state restores a target that lost its state object.
	state state
}

// SameDocuments reports whether relying parties see no difference.
func (p Published) SameDocuments(other Published) bool {
	return bytes.Equal(p.Keys.Bytes(), other.Keys.Bytes()) && bytes.Equal(p.Document.Bytes(), other.Document.Bytes())
}

// Holds reports whether a key is public.
func (p Published) Holds(id string) bool {
	_, ok := p.Keys.Lookup(id)
	return ok
}

// targetMemory is what a Publisher remembers of its targets between passes, by
// name. The zero value is empty.
type targetMemory struct {
	mu        sync.Mutex
	published map[string]Published
	// probes are open probes of the store that need not be waited for.
	probes map[string]string
}

func (m *targetMemory) of(target string) (Published, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.published[target]
	return p, ok
}

func (m *targetMemory) keep(p Published) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.published == nil {
		m.published = map[string]Published{}
	}
	m.published[p.Target] = p
}

func (m *targetMemory) knowsProbe(target, probe string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probes[target] == probe
}

func (m *targetMemory) keepProbe(target, probe string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.probes == nil {
		m.probes = map[string]string{}
	}
	m.probes[target] = probe
}

// Published returns what is public on each target that a pass has reached, in
// the order of Targets.
func (p *Publisher) Published() []Published {
	var all []Published
	for _, target := range p.Targets {
		if published, ok := p.memory.of(target.Name); ok {
			all = append(all, published)
		}
	}
	return slices.Clip(all)
}
