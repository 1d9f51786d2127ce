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

// Policy holds the choices of the user.
type Policy struct {
	// Issuer is the public issuer, or empty for the cluster's own.
	Issuer discovery.Issuer
	// Owner names who publishes here, or empty for the cluster's own names.
	Owner string
	// Grace is how long a key stays public after the cluster stopped listing
	// it. 0 drops it at once.
	Grace time.Duration
	// Revoke are key IDs that must not be public from now on, even if listed.
	Revoke []string
	// TakeOver allows replacing what another owner published.
	TakeOver bool
	// AheadOfIssuerChange allows Issuer to differ from the cluster's own.
	AheadOfIssuerChange bool

	// revokedElsewhere are keys that are revoked on another target of this run.
	revokedElsewhere []string
}

// Write is one step of a plan.
type Write struct {
	Object       Object
	Precondition Precondition
}

// KeyChanges lists key IDs by what happens to the keys. Each list is sorted.
type KeyChanges struct {
	// Published are all keys that will be public.
	Published []string
	// Added will become public.
	Added []string
	// Retired are no longer listed by the cluster and stay public until
	// their grace ends.
	Retired []string
	// Dropped will no longer be public.
	Dropped []string
}

// Plan is what one pass does to one target.
type Plan struct {
	Issuer discovery.Issuer
	// Document and Keys are the documents to publish.
	Document discovery.Document
	Keys     discovery.KeySet
	// Writes are the objects to write, in this order: state, keys, document.
	Writes []Write
	// Changes is what happens to each key.
	Changes KeyChanges
	// GraceEnds has the time at which each retired key will be dropped.
	GraceEnds map[string]time.Time
	// Refusals are the rules that forbid this publication. A plan with
	// refusals has no writes.
	Refusals []error
	// Warnings are messages for people. They prevent no write.
	Warnings []string
	// Unknown are keys to revoke that this target never had and the cluster does
	// not list. A Publisher refuses those that no target had; the others are
	// never published here, even if they appear later.
	Unknown []string

	// unproved is set if the store must first prove that it honours
	// preconditions, and openProbe is a probe that was begun and not finished.
	unproved  bool
	openProbe string
	// retires is set if a key goes from current to retired or dropped.
	retires bool
	// state is the content of stateObject.
	state       state
	stateObject Object
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

// RefusedError lists the rules that forbid a publication. It wraps ErrRefused.
type RefusedError struct{ Reasons []error }

func (e *RefusedError) Error() string { return errors.Join(e.Reasons...).Error() }

// Unwrap makes ErrRefused and the reasons visible to errors.Is.
func (e *RefusedError) Unwrap() []error { return append([]error{ErrRefused}, e.Reasons...) }

// NewPlan compares what a target holds with what the cluster lists and decides,
// by the rules of publication, what to write. It is pure: its only clocks are
// now and the Date of the API servers in the snapshot.
//
// Grace periods protect tokens whose times were set by the API servers. A grace
// period starts by the latest of their clocks and this machine's, and ends by
// the earliest. A retirement time later than all of them is lowered when it is
// read.
func NewPlan(held Held, fetched discovery.Snapshot, policy Policy, now time.Time) Plan {
	now = now.UTC().Round(0)
	p := planner{held: held, fetched: fetched, policy: policy, earliest: now, latest: now}
	p.readClocks()
	p.checkIssuer()
	p.readHeld()
	p.checkOwner()
	p.checkMaterial()
	keys := p.liveKeys()
	p.checkSet(keys)
	p.checkCanary(keys)
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
	// earliest and latest are the current time by the slowest and by the fastest
	// clock.
	earliest, latest time.Time

	known          *state              // nil if the target has no state
	parsed         bool                // known is what the target holds, not what this process remembers
	public         discovery.KeySet    // what is public and well-formed
	publicDocument *discovery.Document // nil if there is none that is well-formed
	memory         map[string]keyMemory
	ours           bool // the target was this owner's before
	plan           Plan
}

func (p *planner) refuse(format string, args ...any) {
	p.plan.Refusals = append(p.plan.Refusals, fmt.Errorf(format, args...))
}

func (p *planner) warn(format string, args ...any) {
	p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf(format, args...))
}

// checkIssuer requires that the public issuer is exactly the cluster's own.
func (p *planner) checkIssuer() {
	own := p.fetched.Document.Issuer()
	p.plan.Issuer = p.policy.Issuer
	if p.plan.Issuer == "" {
		p.plan.Issuer = own
	}
	if p.plan.Issuer == own || p.policy.AheadOfIssuerChange {
		return
	}
	p.refuse("the cluster's issuer is %q and not %q: relying parties compare them byte for byte, so every token would be refused. "+
		"Start the API server with --service-account-issuer=%s, or leave --issuer out to publish its own; "+
		"to publish before that change, add --ahead-of-issuer-change", own, p.policy.Issuer, p.policy.Issuer)
}

// maxClockDifference is how much the clocks of two machines may differ, the time
// of a fetch included, before one of them must be wrong.
const maxClockDifference = time.Minute

// readClocks takes the API servers' clocks into account. Without a grace period
// there is nothing to protect, and so nothing to warn of.
func (p *planner) readClocks() {
	earliest, latest := p.fetched.Time, p.fetched.LatestTime
	if earliest.IsZero() {
		return
	}
	if latest.Before(earliest) {
		latest = earliest
	}
	local := p.latest
	if earliest.Before(local) {
		p.earliest = earliest.UTC()
	}
	if latest.After(local) {
		p.latest = latest.UTC()
	}
	if p.policy.Grace == 0 {
		return
	}
	if local.Sub(earliest) > maxClockDifference {
		p.warn("this machine's clock is ahead of the API server's by more than a minute: a retired key is dropped only when its grace period is over by both clocks. Set the one that is wrong")
	}
	if latest.Sub(local) > maxClockDifference {
		p.warn("this machine's clock is behind the API server's by more than a minute: the grace period of a key that is retired now starts by the API server's clock. Set the one that is wrong")
	}
}

// write turns the decision into objects and, where they differ from what is
// held, into writes.
func (p *planner) write(live []discovery.Key) {
	set := p.fetched.Keys.WithKeys(live)
	document := p.fetched.Document.WithJWKSURI(p.plan.Issuer.JWKSURI()).WithAlgorithms(algorithms(live))
	if document.Issuer() != p.plan.Issuer {
		document = document.WithIssuer(p.plan.Issuer)
	}
	p.plan.Keys, p.plan.Document = set, document
	p.plan.state = p.nextState()
	p.diff(set)

	p.plan.stateObject = p.plan.state.object()
	if p.parsed && p.known.Probe == "" && len(p.known.keys()) == len(p.known.Keys) && p.plan.state.same(*p.known) {
		p.plan.stateObject.Body = p.held.State.Body // another version of this program may have written it
	}
	p.step(p.plan.stateObject, p.held.State)
	p.step(Object{Name: discovery.JWKSPath, Body: set.Bytes(), ContentType: keysContentType, CacheControl: keysCacheControl}, p.held.Keys)
	p.step(Object{Name: discovery.ConfigurationPath, Body: document.Bytes(), ContentType: documentContentType, CacheControl: documentCacheControl}, p.held.Document)
}

// algorithms returns the algorithms that the document must list for the keys:
// relying parties refuse a token whose algorithm is not listed, and a retired
// key may have another algorithm than the current keys.
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
		next.others = p.known.others
		next.Cluster = mergeCluster(p.known.Cluster, p.fetched.Cluster)
		if next.Owner == "" {
			next.Owner = p.known.Owner
		}
	}
	if next.Owner == "" && len(next.Cluster) > 0 {
		next.Owner = next.Cluster[0]
	}
	if kept := next; p.known != nil && p.ours && sameUID(p.known.Cluster, p.fetched.Cluster) {
		kept.Cluster = mergeCluster(p.fetched.Cluster, p.known.Cluster)
		if kept.same(*p.known) {
			return kept // replicas with two CA bundles would rewrite it in turns
		}
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
