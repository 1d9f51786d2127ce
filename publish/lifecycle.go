package publish

import (
	"maps"
	"slices"
	"time"

	"oidc-publisher/discovery"
)

// checkMaterial refuses a key ID whose key has changed since it was first seen.
func (p *planner) checkMaterial() {
	for _, key := range p.fetched.Keys.Keys() {
		seen, ok := p.memory[key.ID]
		switch {
		case !ok || seen.Thumbprint == key.Thumbprint || seen.Thumbprint == "":
		case p.revoked(key.ID, seen): // neither of the two will be public
		case p.policy.TakeOver:
			p.memory[key.ID] = remember(key, p.latest)
		default:
			p.refuse("key %q: was seen with other key material on %s. Another writer or the signer replaced the key under its ID: find out which. "+
				"To drop it whatever its material, use --revoke; to accept the new one, --take-over", key.ID, seen.FirstSeen.Format(time.DateOnly))
		}
	}
}

// liveKeys moves every key through its life cycle (current, retired, dropped)
// and returns the keys to publish.
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
				first := remember(key, p.latest)
				first.Revoked, first.JWK, first.others = m.Revoked, "", m.others
				p.memory[key.ID] = first
			}
			continue
		}
		if !seen || m.JWK == "" {
			others := m.others
			m = remember(key, p.latest)
			m.others = others
		}
		m.Dropped, m.JWK, m.key = nil, string(key.Bytes()), key
		p.relist(&m)
		p.memory[key.ID] = m
		live = append(live, key)
	}
	return live
}

// renewRetiredAfter is the age at which the retirement time of a key that is listed
// again is renewed. The grace period of the key is longer by this much.
const renewRetiredAfter = 5 * time.Minute

// MinReplicatedGrace is the shortest grace period of replicas that may fetch from
// different API servers. A key that one of them retires must stay public until
// another one, which still lists it, has had time for a pass.
const MinReplicatedGrace = renewRetiredAfter

// forgetMissedAfter is the time without a writer that missed a key after which its
// retirement is forgotten. Such a writer renews Missed after half of it.
const forgetMissedAfter = time.Hour

// relist keeps the retirement time of a key that is listed again, and moves it
// forward at most once per renewRetiredAfter. Two API servers behind a load balancer
// may disagree for a long time: if the retirement time were deleted whenever
// the key is listed, each pass would write, and none would know when the key
// was last listed. It is deleted once every writer has listed the key for long.
func (p *planner) relist(m *keyMemory) {
	if m.Retired == nil {
		return
	}
	p.lowerRetired(m)
	if m.Missed == nil {
		m.Missed, m.Retired = m.Retired, &p.latest
	}
	switch {
	case p.latest.Sub(*m.Missed) >= forgetMissedAfter:
		m.Missed, m.Retired = nil, nil
	case p.latest.Sub(*m.Retired) >= renewRetiredAfter:
		m.Retired = &p.latest
	}
}

// lowerRetired corrects a retirement time that came from a clock that was ahead:
// it would keep the key public for too long. Without the time of an API server,
// it may be this machine's clock that is behind now, so a time is corrected only
// if it is further ahead than a grace period. A clock that is behind by more than
// that still ends a grace period too early.
func (p *planner) lowerRetired(m *keyMemory) {
	limit := p.latest
	if p.fetched.Time.IsZero() {
		limit = limit.Add(p.policy.Grace)
	}
	if m.Retired.After(limit) {
		m.Retired = &p.latest
	}
}

// retiredKey returns a key that the cluster no longer lists, until its grace
// period ends. The grace period starts by the latest of all clocks and ends by
// the earliest.
func (p *planner) retiredKey(id string) (discovery.Key, bool) {
	m := p.memory[id]
	if m.JWK == "" || p.revoked(id, m) {
		return discovery.Key{}, false
	}
	if m.Retired == nil {
		m.Retired = &p.latest
		p.plan.retires = true
	}
	p.lowerRetired(&m)
	ends := m.Retired.Add(p.policy.Grace)
	switch {
	case m.Missed == nil:
	case p.latest.Sub(*m.Retired) < renewRetiredAfter:
		ends = ends.Add(renewRetiredAfter) // another writer may still list it
		if p.latest.Sub(*m.Missed) >= forgetMissedAfter/2 {
			m.Missed = &p.latest
		}
	default:
		m.Missed, m.Retired = nil, &p.latest // no other writer does, or none ran
		ends = m.Retired.Add(p.policy.Grace)
	}
	if p.policy.Grace == 0 || !p.earliest.Before(ends) {
		m.Dropped, m.JWK = &p.latest, ""
		p.memory[id] = m
		return discovery.Key{}, false
	}
	p.memory[id] = m
	p.plan.GraceEnds[id] = ends
	p.plan.Changes.Retired = append(p.plan.Changes.Retired, id)
	return m.key, true
}

func (p *planner) revoked(id string, m keyMemory) bool {
	return m.Revoked != nil || slices.Contains(p.policy.Revoke, id) || slices.Contains(p.policy.revokedElsewhere, id)
}

func (p *planner) forgetRevoked() {
	for _, id := range slices.Concat(p.policy.Revoke, p.policy.revokedElsewhere) {
		m, remembered := p.memory[id]
		if !remembered {
			m = keyMemory{KeyID: id, FirstSeen: p.latest}
		}
		if m.Thumbprint == "" { // seen neither here nor in the cluster
			p.plan.Unknown = append(p.plan.Unknown, id)
		}
		if m.Revoked == nil {
			if slices.Contains(p.policy.revokedElsewhere, id) {
				p.warn("key %q is revoked on another target, and is now revoked on this one too", id)
			}
			m.Revoked = &p.latest
		}
		m.JWK = ""
		p.memory[id] = m
	}
}

// checkSet refuses an empty set, and one with too many keys.
func (p *planner) checkSet(live []discovery.Key) {
	if len(live) == 0 {
		p.refuse("no key would be left: an empty key set cuts off every relying party")
	}
	if len(live) > discovery.MaxKeys {
		p.refuse("%d keys would be public, and relying parties accept at most %d: shorten --grace or --revoke retired keys", len(live), discovery.MaxKeys)
	}
}

// checkCanary requires that the key that the API server signs with is public.
func (p *planner) checkCanary(live []discovery.Key) {
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
		p.warn("the API server signs tokens with key %q, which it no longer lists: it refuses them itself, and relying parties do once the key's grace period ends. "+
			"Finish the rotation on every API server", canary.KeyID)
	}
	if discovery.Issuer(canary.Issuer) != p.plan.Issuer && !p.policy.AheadOfIssuerChange {
		p.refuse("a new token has the issuer %q, and the discovery document %q: give --service-account-issuer=%s first on every API server",
			canary.Issuer, p.plan.Issuer, p.plan.Issuer)
	}
}
