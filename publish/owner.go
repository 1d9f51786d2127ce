package publish

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"oidc-publisher/discovery"
)

// ErrOwner is wrapped by the refusal to overwrite what another owner published.
var ErrOwner = errors.New("target belongs to another cluster")

// checkOwner refuses to overwrite what another cluster published.
func (p *planner) checkOwner() {
	p.ours = p.sameOwner()
	switch {
	case p.ours, p.policy.TakeOver, p.held.Keys == nil && p.known == nil:
		return
	case p.known == nil:
		p.refuse("%w: %s already holds keys of another issuer (%s), and none of this cluster's. "+
			"If they are yours to replace, use --take-over", ErrOwner, discovery.JWKSPath, list(p.public.IDs()))
	case p.policy.Owner == "" && len(p.fetched.Cluster) == 0:
		p.refuse("%w: it belongs to %s, and none of its keys (%s) is among those given. Give its keys too, name the owner with --owner, "+
			"or use --take-over if the target is yours to replace", ErrOwner, named(p.known.Owner), list(p.public.IDs()))
	default:
		owner := cmp.Or(p.policy.Owner, first(p.fetched.Cluster))
		p.refuse("%w: it belongs to %s, and this is %s. Check the kubeconfig context and the target; "+
			"if the target is yours to replace, use --take-over", ErrOwner, named(p.known.Owner), named(owner))
	}
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

func named(owner string) string {
	if owner == "" {
		return "a source without a name (see --owner)"
	}
	return fmt.Sprintf("%q", owner)
}

// sameOwner compares, in this order: names given by the user, the UID and then
// the CA of the cluster and, where those are unknown, a key in common.
func (p *planner) sameOwner() bool {
	if p.known == nil {
		return p.keysInCommon()
	}
	if p.policy.Owner != "" && p.known.ownerGiven() {
		return p.policy.Owner == p.known.Owner
	}
	now, then := uid(p.fetched.Cluster), uid(p.known.Cluster)
	if now != "" && then != "" {
		return now == then
	}
	if p.keysInCommon() {
		return true
	}
	byCA := slices.ContainsFunc(p.fetched.Cluster, p.known.hasName)
	if byCA && then != "" {
		p.warn("this cluster is recognised only by its CA, since no key here is known: let this user get the namespace kube-system, so that its UID can be compared")
	}
	return byCA
}

func uid(names []string) string {
	for _, name := range names {
		if strings.HasPrefix(name, "uid:") {
			return name
		}
	}
	return ""
}

// sameUID reports whether no two UIDs are known, or they are the same.
func sameUID(one, other []string) bool {
	return uid(one) == uid(other) || uid(one) == "" || uid(other) == ""
}

func (s *state) hasName(name string) bool { return slices.Contains(s.Cluster, name) }

// ownerGiven reports whether the user chose the owner's name.
func (s *state) ownerGiven() bool {
	return s.Owner != "" && !slices.Contains(s.Cluster, s.Owner) && !strings.HasPrefix(s.Owner, "uid:") && !strings.HasPrefix(s.Owner, "ca:")
}

// keysInCommon compares current keys only: retired ones may be a former owner's.
func (p *planner) keysInCommon() bool {
	for _, key := range p.fetched.Keys.Keys() {
		if m := p.memory[key.ID]; m.Thumbprint == key.Thumbprint && (m.Retired == nil || m.Missed != nil) && m.JWK != "" {
			return true
		}
	}
	return false
}

// checkHeldDocument is for a target without a state: its document names its
// issuer, even where its keys are elsewhere (ccoctl leaves them in keys.json).
func (p *planner) checkHeldDocument() {
	if p.known != nil || p.held.Document == nil || p.policy.TakeOver {
		return
	}
	switch {
	case p.publicDocument == nil:
		p.refuse("%w: its %s was not written by this tool. If it is yours to replace, use --take-over", ErrOwner, discovery.ConfigurationPath)
	case p.publicDocument.Issuer() != p.plan.Issuer:
		p.refuse("%w: its %s names the issuer %q. If it is yours to replace, use --take-over", ErrOwner, discovery.ConfigurationPath, p.publicDocument.Issuer())
	case p.held.State == nil:
		p.warn("there is no %s beside the public documents, so its owner and its revocations are forgotten: repeat --revoke for every revoked key", StateName)
	}
}

// inherit decides which keys of the former owner a take-over keeps. Keys of
// another issuer sign no tokens of this one, so they are dropped at once. Keys
// of this issuer, such as those of a cluster that was rebuilt, get their grace
// period.
func (p *planner) inherit() {
	before := p.plan.Issuer
	if p.known != nil {
		before = p.known.Issuer
	} else if p.held.Document != nil {
		before = "" // its issuer is unknown if it can't be read
		if p.publicDocument != nil {
			before = p.publicDocument.Issuer()
		}
	}
	for id, m := range p.memory {
		_, listed := p.fetched.Keys.Lookup(id)
		switch {
		case listed || m.JWK == "":
		case before != p.plan.Issuer:
			m.JWK, m.Dropped = "", &p.latest
			p.memory[id] = m
		default:
			p.warn("key %q of the former owner stays public for its grace period, and relying parties take its tokens for this cluster's: use --grace 0 to drop it now", id)
		}
	}
}
