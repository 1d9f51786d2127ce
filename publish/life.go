package publish

import (
	"maps"
	"slices"
	"time"

	"oidc-publisher/discovery"
)

// judgeMaterial is the part of rule 1 that needs memory: a key ID never
// changes its key.
func (p *planner) judgeMaterial() {
	for _, key := range p.fetched.Keys.Keys() {
		seen, ok := p.memory[key.ID]
		switch {
		case !ok || seen.Thumbprint == key.Thumbprint || seen.Thumbprint == "":
		case p.revoked(key.ID, seen): // neither of the two will be public
		case p.policy.TakeOver:
			p.memory[key.ID] = remember(key, p.now)
		default:
			p.refuse("key %q: was seen with other key material on %s. Somebody replaced the key under its name: find out who. "+
				"To take it down whatever its material, use --revoke; to accept the new one, --take-over", key.ID, seen.FirstSeen.Format(time.DateOnly))
		}
	}
}

// liveKeys is rule 4: it moves every key along its life and returns those that
// shall be public.
func (p *planner) liveKeys() []discovery.Key {
	p.plan.GraceEnds = map[string]time.Time{}
	live := p.currentKeys()
	for _, id := range slices.Sorted(maps.Keys(p.memory)) {
		if _, listed := p.fetched.Keys.Lookup(id); listed {
			continue
		}
		if key, ok := p.retiredKey(id); ok {
			live = append(live, key)
		}
	}
	p.forgetRevoked()
	return live
}

func (p *planner) currentKeys() []discovery.Key {
	var live []discovery.Key
	for _, key := range p.fetched.Keys.Keys() {
		m, seen := p.memory[key.ID]
		if p.revoked(key.ID, m) {
			p.warn("key %q is revoked and the cluster still lists it: tokens signed with it are refused by relying parties. "+
				"Give the API server another key", key.ID)
			if m.Thumbprint == "" {
				first := remember(key, p.now)
				first.Revoked, first.JWK = m.Revoked, ""
				p.memory[key.ID] = first
			}
			continue
		}
		if !seen || m.JWK == "" {
			m = remember(key, p.now)
		}
		m.Retired, m.Dropped, m.JWK = nil, nil, string(key.Bytes())
		p.memory[key.ID] = m
		live = append(live, key)
	}
	return live
}

// retiredKey returns a key that the cluster no longer lists while its grace lasts.
func (p *planner) retiredKey(id string) (discovery.Key, bool) {
	m := p.memory[id]
	if m.JWK == "" || p.revoked(id, m) {
		return discovery.Key{}, false
	}
	if m.Retired == nil {
		m.Retired = &p.now
	}
	ends := m.Retired.Add(p.policy.Grace)
	if !p.surely.Before(ends) {
		m.Dropped, m.JWK = &p.now, ""
		p.memory[id] = m
		return discovery.Key{}, false
	}
	key, err := discovery.ParseKey([]byte(m.JWK))
	if err != nil {
		return discovery.Key{}, false // parseState accepted it
	}
	p.memory[id] = m
	p.plan.GraceEnds[id] = ends
	p.plan.Changes.Retired = append(p.plan.Changes.Retired, id)
	return key, true
}

func (p *planner) revoked(id string, m keyMemory) bool {
	return m.Revoked != nil || slices.Contains(p.policy.Revoke, id)
}

func (p *planner) forgetRevoked() {
	for _, id := range p.policy.Revoke {
		m, remembered := p.memory[id]
		if !remembered {
			m = keyMemory{KeyID: id, FirstSeen: p.now}
		}
		if m.Thumbprint == "" { // never seen, here or in the cluster
			p.plan.Unknown = append(p.plan.Unknown, id)
		}
		if m.Revoked == nil {
			m.Revoked = &p.now
		}
		m.JWK = ""
		p.memory[id] = m
	}
}

func (p *planner) judgeSet(live []discovery.Key) {
	if len(live) == 0 {
		p.refuse("no key would be left: an empty key set cuts off every relying party")
	}
	if len(live) > discovery.MaxKeys {
		p.refuse("%d keys would be public, and relying parties take at most %d: shorten --grace or --revoke retired keys", len(live), discovery.MaxKeys)
	}
}

// judgeCanary is rule 10: what the API server signs with must be public.
func (p *planner) judgeCanary(live []discovery.Key) {
	canary := p.fetched.Canary
	if canary == nil {
		return
	}
	public := slices.ContainsFunc(live, func(k discovery.Key) bool { return k.ID == canary.KeyID })
	if !public && !p.revoked(canary.KeyID, p.memory[canary.KeyID]) {
		p.refuse("the API server signs tokens with key %q, which it does not list among its public keys: every new token would be refused. "+
			"Add the public half of its --service-account-signing-key-file to --service-account-key-file and restart it", canary.KeyID)
	}
	if _, listed := p.fetched.Keys.Lookup(canary.KeyID); public && !listed {
		p.warn("the API server signs tokens with key %q, which it no longer lists: it refuses them itself, and once the key's grace ends so does everybody. "+
			"Finish the rotation on every API server", canary.KeyID)
	}
	if discovery.Issuer(canary.Issuer) != p.plan.Issuer && !p.policy.AheadOfIssuerChange {
		p.refuse("a new token says its issuer is %q, and the discovery document says %q: give --service-account-issuer=%s first on every API server",
			canary.Issuer, p.plan.Issuer, p.plan.Issuer)
	}
}
