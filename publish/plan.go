package publish

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"oidc-publisher/discovery"
)

// Cache lifetimes of the public documents. The keys' is short because an
// object store left to its default hides a new key for an hour (Cloud Storage:
// public objects without Cache-Control are served with max-age=3600).
const (
	keysCacheControl     = "public, max-age=60"
	documentCacheControl = "public, max-age=300"
)

// Content types as kube-apiserver sends them; the JWKS type is registered by
// RFC 7517 section 8.5.
const (
	keysContentType     = "application/jwk-set+json"
	documentContentType = "application/json"
)

// Described gives a document that comes from a store without metadata the
// content type and the cache lifetime that this tool publishes it with.
func Described(o Object) Object {
	if !o.BytesOnly {
		return o
	}
	o.BytesOnly = false
	switch o.Name {
	case discovery.JWKSPath:
		o.ContentType, o.CacheControl = keysContentType, keysCacheControl
	case discovery.ConfigurationPath:
		o.ContentType, o.CacheControl = documentContentType, documentCacheControl
	}
	return o
}

// DefaultGrace is how long a retired key stays public: the longest lifetime
// that clouds accept for a service account token is 24 hours.
const DefaultGrace = 24 * time.Hour

// Policy is what the user decided.
type Policy struct {
	// Issuer is the public issuer, or empty for the cluster's own.
	Issuer discovery.Issuer
	// Owner names who publishes here, or empty for the cluster's own names.
	Owner string
	// Grace is how long a key stays public after the cluster stopped listing
	// it. 0 drops it at once.
	Grace time.Duration
	// Revoke are key IDs that must not be public from now on, whoever lists them.
	Revoke []string
	// TakeOver allows replacing what another owner published.
	TakeOver bool
	// AheadOfIssuerChange allows Issuer to differ from the cluster's own.
	AheadOfIssuerChange bool
}

// Held is what a backend has, nil for an absent object.
type Held struct {
	State, Keys, Document *Object
	// Recalled is the state that this very process last saw there, nil for
	// none. It counts where there is none any more, as in a bucket that was
	// deleted and made anew, unless what is public there is somebody else's.
	Recalled *Object
}

// Write is one step of a plan.
type Write struct {
	Object       Object
	Precondition Precondition
}

// KeyChanges are the key IDs that a plan is about, each list sorted.
type KeyChanges struct {
	// Published is the whole set that will be public.
	Published []string
	// Added are not public yet.
	Added []string
	// Retired are no longer listed by the cluster and stay public until
	// their grace ends.
	Retired []string
	// Dropped are public now and will not be any more.
	Dropped []string
}

// Plan is what one pass does to one target.
type Plan struct {
	Issuer discovery.Issuer
	// Document and Keys are the public objects as they shall be.
	Document, Keys Object
	// Writes are what must be done for it, in order: memory, keys, document.
	Writes []Write
	// Changes says what that means for each key.
	Changes KeyChanges
	// GraceEnds tells when each retired key will be dropped.
	GraceEnds map[string]time.Time
	// Refusals are the rules that forbid this publication. A plan with
	// refusals has no writes.
	Refusals []error
	// Warnings are for people and stop nothing.
	Warnings []string
	// Unknown are keys to revoke that this target never had and the cluster
	// does not list. A Publisher refuses those that no target had; the others
	// will not be published here should they appear.
	Unknown []string

	// unproved says that the store must first show that it honours
	// preconditions.
	unproved bool
	// recalled says that the memory is this process's own.
	recalled bool
	state    state
}

// Refused returns nil, or an error that wraps ErrRefused and every refusal.
func (p Plan) Refused() error {
	if len(p.Refusals) == 0 {
		return nil
	}
	return &RefusedError{Reasons: p.Refusals}
}

// ErrRefused is wrapped by the error of a publication that a rule forbids.
var ErrRefused = errors.New("refused")

// RefusedError says which rules forbid a publication. It wraps ErrRefused.
type RefusedError struct{ Reasons []error }

func (e *RefusedError) Error() string { return errors.Join(e.Reasons...).Error() }

// Unwrap makes ErrRefused and the reasons visible to errors.Is.
func (e *RefusedError) Unwrap() []error { return append([]error{ErrRefused}, e.Reasons...) }

// NewPlan compares what a target holds with what the cluster says and decides,
// by the rules of publication, what to write. It is pure: now is the only clock.
//
// A process that goes on can do better than to believe its clock, which may
// jump. It stamps what happens with the latest that the present may be, and
// ends a grace only when that is past at the earliest that it may be: by each
// offset between the system's clock and the time that really passed which it
// saw within the last grace. A jump therefore shortens no grace that the
// process itself began, and a clock that was wrong when it started, or stood
// while the machine slept, is made up for one grace after it was set right.
// What other processes stamped is judged by this one's clock and the cluster's:
// a grace begins at the later of the two, and is over where both say so. If
// both are wrong, their graces end too soon or too late by as much.
func NewPlan(held Held, fetched discovery.Snapshot, policy Policy, now time.Time) Plan {
	return newPlan(held, fetched, policy, moment{now, now})
}

func newPlan(held Held, fetched discovery.Snapshot, policy Policy, present moment) Plan {
	present = present.rounded()
	p := planner{held: held, fetched: fetched, policy: policy, now: present.latest, surely: present.earliest}
	p.judgeIssuer()
	p.judgeClock()
	p.readHeld()
	p.judgeOwner()
	p.judgeMaterial()
	keys := p.liveKeys()
	p.judgeSet(keys)
	p.judgeCanary(keys)
	if len(p.plan.Refusals) > 0 {
		return p.plan
	}
	p.write(keys)
	return p.plan
}

// planner carries one NewPlan from step to step.
type planner struct {
	held    Held
	fetched discovery.Snapshot
	policy  Policy
	// now stamps what happens, and what surely is past is over.
	now, surely time.Time

	known  *state           // nil where the target has no memory
	public discovery.KeySet // what is public and well-formed
	memory map[string]keyMemory
	ours   bool // the target was this owner's before
	plan   Plan
}

func (p *planner) refuse(format string, args ...any) {
	p.plan.Refusals = append(p.plan.Refusals, fmt.Errorf(format, args...))
}

func (p *planner) warn(format string, args ...any) {
	p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf(format, args...))
}

// judgeIssuer is rule 2: the issuer is exact.
func (p *planner) judgeIssuer() {
	own := p.fetched.Document.Issuer()
	p.plan.Issuer = p.policy.Issuer
	if p.plan.Issuer == "" {
		p.plan.Issuer = own
	}
	if p.plan.Issuer == own || p.policy.AheadOfIssuerChange {
		return
	}
	p.refuse("the cluster's issuer is %q and not %q: relying parties compare them byte for byte, so every token would be refused. "+
		"Start the API server with --service-account-issuer=%s, or publish what it says without --issuer; "+
		"to publish before that change, add --ahead-of-issuer-change", own, p.policy.Issuer, p.policy.Issuer)
}

// apart is how much the clocks of two machines may differ, the time of a look
// included, before one of them must be wrong.
const apart = time.Minute

// judgeClock stamps nothing earlier, and lets nothing be over earlier, than it
// is by the cluster's clock, which stamps the tokens: this machine's may have
// started wrong. Without a grace there is nothing to protect.
func (p *planner) judgeClock() {
	cluster := p.fetched.Time
	if p.policy.Grace == 0 || cluster.IsZero() {
		return
	}
	if p.surely.Sub(cluster) > apart {
		p.surely = cluster
		p.warn("this machine's clock is ahead of the API server's, by more than a minute: a retired key is dropped only when its grace is over by both. Set the one that is wrong")
	}
	if cluster.Sub(p.now) > apart {
		p.now = cluster.UTC()
		p.warn("this machine's clock is behind the API server's, by more than a minute: the grace of a key that is retired now begins by the API server's. Set the one that is wrong")
	}
}

func (p *planner) readHeld() {
	p.plan.unproved = p.held.State == nil
	if p.held.Keys != nil {
		public, err := discovery.ParseKeySet(p.held.Keys.Body)
		if err != nil {
			p.warn("the public %s is damaged and will be replaced: %v", discovery.JWKSPath, err)
		}
		p.public = public
	}
	if p.held.State != nil {
		known, err := parseState(p.held.State.Body)
		switch {
		case err == nil:
			p.known = known
			p.plan.unproved = known.Probe != ""
		case p.policy.TakeOver:
			p.plan.unproved = true
			p.warn("%v; starting anew", err)
		default:
			p.refuse("%w. To start anew from the public keys, delete it or use --take-over", err)
		}
	}
	if recalled := p.recalled(); recalled != nil {
		p.known, p.plan.recalled = recalled, true
	}
	if p.known != nil && p.known.Issuer != p.plan.Issuer && !p.policy.TakeOver {
		p.refuse("this target publishes the issuer %q: replacing it with %q would cut off its relying parties. "+
			"Give each issuer its own target, or use --take-over", p.known.Issuer, p.plan.Issuer)
	}
	p.memory = memory(p.known, p.public, p.now)
	p.judgeHeldDocument()
	if p.policy.TakeOver {
		p.inherit()
	}
	p.judgeDrift()
}

// recalled is the state from this process's memory where the target lost its
// own, and what is public there is nothing or ours.
func (p *planner) recalled() *state {
	if p.held.State != nil || p.held.Recalled == nil {
		return nil
	}
	s, err := parseState(p.held.Recalled.Body)
	if err != nil || s.Issuer != p.plan.Issuer {
		return nil
	}
	if p.held.Document != nil {
		if document, err := discovery.ParseDocument(p.held.Document.Body); err != nil || document.Issuer() != s.Issuer {
			return nil
		}
	}
	ours := func(key discovery.Key) bool {
		return slices.ContainsFunc(s.Keys, func(m keyMemory) bool { return m.KeyID == key.ID && m.Thumbprint == key.Thumbprint })
	}
	if p.held.Keys != nil && !slices.ContainsFunc(p.public.Keys(), ours) {
		return nil
	}
	return s
}

// judgeDrift says what somebody else did to the public keys. They are repaired,
// and that would wipe out the traces.
func (p *planner) judgeDrift() {
	if p.known == nil {
		return
	}
	for _, key := range p.public.Keys() {
		switch m, ours := p.memory[key.ID]; {
		case !ours:
			p.warn("the public key %q was never the cluster's and is removed: somebody else can write to this target, and tokens signed with it were accepted", key.ID)
		case m.Thumbprint != key.Thumbprint && m.Thumbprint != "":
			p.warn("the public key %q was replaced by another under its ID and is restored: somebody else can write to this target, and tokens signed with the other were accepted", key.ID)
		}
	}
}

// write turns the decision into objects and, where they differ from what is
// held, into writes: rules 3 and 6.
func (p *planner) write(live []discovery.Key) {
	set := p.fetched.Keys.WithKeys(live)
	document := p.fetched.Document.WithJWKSURI(p.plan.Issuer.JWKSURI()).WithAlgorithms(algorithms(live))
	if document.Issuer() != p.plan.Issuer {
		document = document.WithIssuer(p.plan.Issuer)
	}
	p.plan.Keys = Object{Name: discovery.JWKSPath, Body: set.Bytes(), ContentType: keysContentType, CacheControl: keysCacheControl}
	p.plan.Document = Object{Name: discovery.ConfigurationPath, Body: document.Bytes(), ContentType: documentContentType, CacheControl: documentCacheControl}
	p.plan.state = p.nextState()
	p.diff(set)

	p.step(p.plan.state.object(), p.held.State)
	p.step(p.plan.Keys, p.held.Keys)
	p.step(p.plan.Document, p.held.Document)
}

// algorithms are those that the document must list for the keys: relying
// parties refuse a token whose algorithm is not listed, and a retired key may
// have another than the cluster's present ones.
func algorithms(keys []discovery.Key) []string {
	var algorithms []string
	for _, key := range keys {
		if key.Algorithm != "" {
			algorithms = append(algorithms, key.Algorithm)
		}
	}
	return algorithms
}

func (p *planner) step(wanted Object, held *Object) {
	switch {
	case held == nil:
		p.plan.Writes = append(p.plan.Writes, Write{wanted, IfAbsent()})
	case !wanted.Same(*held):
		p.plan.Writes = append(p.plan.Writes, Write{wanted, IfVersion(held.Version)})
	}
}

func (p *planner) nextState() state {
	next := state{Issuer: p.plan.Issuer, Owner: p.policy.Owner, Cluster: p.fetched.Cluster, Keys: sortedKeys(p.memory)}
	if p.known != nil && p.ours {
		next.Cluster = mergeCluster(p.known.Cluster, p.fetched.Cluster)
		if next.Owner == "" {
			next.Owner = p.known.Owner
		}
	}
	if next.Owner == "" && len(next.Cluster) > 0 {
		next.Owner = next.Cluster[0]
	}
	return next
}

func (p *planner) diff(set discovery.KeySet) {
	changes := &p.plan.Changes
	changes.Published = set.IDs()
	for _, id := range changes.Published {
		key, _ := set.Lookup(id)
		if public, ok := p.public.Lookup(id); !ok || public.Thumbprint != key.Thumbprint {
			changes.Added = append(changes.Added, id)
		}
	}
	for _, id := range p.public.IDs() {
		if _, kept := set.Lookup(id); !kept {
			changes.Dropped = append(changes.Dropped, id)
		}
	}
	slices.Sort(changes.Dropped)
}

func list(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = fmt.Sprintf("%q", id)
	}
	return strings.Join(quoted, ", ")
}
