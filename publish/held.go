package publish

import (
	"errors"
	"slices"

	"oidc-publisher/discovery"
)

// Held is the content of a target. An absent object is nil.
type Held struct {
	State, Keys, Document *Object
	// remembered is the state that this process last found or wrote there, nil
	// if there was none.
	remembered *state
}

// readHeld parses what the target holds and what this process remembers of it.
func (p *planner) readHeld() {
	p.parseDocuments()
	p.plan.unproved = p.held.State == nil
	salvaged := p.readState()
	if p.known != nil && p.known.Issuer != p.plan.Issuer && !p.policy.TakeOver {
		p.refuse("this target publishes the issuer %q: replacing it with %q would cut off its relying parties. "+
			"Give each issuer its own target, or use --take-over", p.known.Issuer, p.plan.Issuer)
	}
	p.seedMemory(salvaged)
	p.checkHeldDocument()
	if p.policy.TakeOver {
		p.inherit()
	}
	p.warnOfDrift()
}

func (p *planner) parseDocuments() {
	if p.held.Keys != nil {
		public, err := discovery.ParseKeySet(p.held.Keys.Body)
		if err != nil {
			p.warn("the public %s is damaged and will be replaced: %v", discovery.JWKSPath, err)
		}
		p.public = public
	}
	if p.held.Document != nil {
		if document, err := discovery.ParseDocument(p.held.Document.Body); err == nil {
			p.publicDocument = &document
		}
	}
}

// readState sets what is known about the target: from its state object or, if
// that is missing or damaged, from this process's memory. If a damaged state is
// given up, it returns the revoked keys found in it.
func (p *planner) readState() (salvaged []keyMemory) {
	if p.held.State == nil {
		if p.known = p.remembered(); p.known != nil {
			p.warn("%s was deleted, and this process wrote it back from memory. "+
				"Without a running watch, retired and revoked keys would have been forgotten", StateName)
		}
		return nil
	}
	known, err := parseState(p.held.State.Body)
	newer := new(newerStateError)
	switch {
	case err == nil:
		p.known, p.parsed = known, true
		p.plan.openProbe = known.Probe
		p.plan.unproved = known.Probe != ""
	case errors.As(err, &newer):
		p.refuse("%w", err)
	case p.remembered() != nil:
		p.known, p.plan.unproved = p.remembered(), true
		p.warn("%v. This process wrote it back from memory", err)
	case p.policy.TakeOver:
		p.plan.unproved = true
		salvaged = salvageRevoked(p.held.State.Body)
		p.warn("%v; starting from the public keys alone. %d revocations could be read in it, any other is forgotten: repeat --revoke for every revoked key", err, len(salvaged))
	default:
		p.refuse("%w. To start from the public keys alone, use --take-over, or delete it. Revocations may be forgotten then: repeat --revoke for every revoked key", err)
	}
	return salvaged
}

// seedMemory fills the memory from the state or, if there is none, from the
// public keys, whose age is then unknown.
func (p *planner) seedMemory(salvaged []keyMemory) {
	p.memory = map[string]keyMemory{}
	if p.known != nil {
		p.memory = p.known.keys()
	} else {
		for _, key := range p.public.Keys() {
			p.memory[key.ID] = remember(key, p.latest)
		}
	}
	for _, k := range salvaged {
		p.memory[k.KeyID] = k
	}
	if p.known != nil && p.held.remembered != nil && p.held.remembered.Issuer == p.known.Issuer {
		for _, k := range p.held.remembered.Keys {
			p.join(k)
		}
	}
}

// join adds a key that this process remembers to a state that lacks its
// revocation, or the key itself while it may be public: a replica that
// remembered less may have filled a bucket that was deleted.
func (p *planner) join(k keyMemory) {
	m, ok := p.memory[k.KeyID]
	switch {
	case k.Revoked != nil && m.Revoked == nil:
		if !ok {
			m = keyMemory{KeyID: k.KeyID, Thumbprint: k.Thumbprint, FirstSeen: k.FirstSeen}
		}
		m.Revoked, m.JWK = k.Revoked, ""
		p.memory[k.KeyID] = m
		p.warn("key %q was revoked, and %s does not record it: it is revoked again. Another writer replaced that object", k.KeyID, StateName)
	case !ok && k.JWK != "":
		p.memory[k.KeyID] = k
		if _, listed := p.fetched.Keys.Lookup(k.KeyID); !listed {
			p.warn("key %q was public, and %s does not record it: its grace period goes on. Another writer replaced that object", k.KeyID, StateName)
		}
	}
}

// remembered returns the state in this process's memory, unless the target now
// holds documents that do not belong to it.
func (p *planner) remembered() *state {
	s := p.held.remembered
	if s == nil || s.Issuer != p.plan.Issuer {
		return nil
	}
	if p.held.Document != nil && (p.publicDocument == nil || p.publicDocument.Issuer() != s.Issuer) {
		return nil
	}
	ours := func(key discovery.Key) bool {
		return slices.ContainsFunc(s.Keys, func(m keyMemory) bool { return m.KeyID == key.ID && m.Thumbprint == key.Thumbprint })
	}
	if p.held.Keys != nil && !slices.ContainsFunc(p.public.Keys(), ours) {
		return nil
	}
	copied := *s
	return &copied
}

// warnOfDrift reports what another writer did to the public keys: the repair
// removes every trace of it.
func (p *planner) warnOfDrift() {
	if p.known == nil {
		return
	}
	for _, key := range p.public.Keys() {
		switch m, ours := p.memory[key.ID]; {
		case !ours:
			p.warn("the public key %q was never the cluster's and is removed: another writer has access to this target, and tokens signed with it were accepted", key.ID)
		case m.Thumbprint != key.Thumbprint && m.Thumbprint != "":
			p.warn("the public key %q was replaced by another under its ID and is restored: another writer has access to this target, and tokens signed with the other were accepted", key.ID)
		}
	}
}
