package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"oidc-publisher/discovery"
)

// Source is where a cluster's documents come from.
type Source interface {
	// Fetch reads and validates both documents once. On error nothing that is
	// public may be changed.
	Fetch(ctx context.Context) (discovery.Snapshot, error)
}

// Target is one place to publish to.
type Target struct {
	// Name is the target as the user wrote it.
	Name    string
	Backend Backend
	// Local is set for a directory: it is unknown who serves it, and whether
	// it is served yet.
	Local bool
	// CheckIssuer returns an error for an issuer that is the URL of another
	// bucket than this target; nil if the target fits every issuer. Of several
	// targets only one has to be the issuer's own; the others are copies.
	CheckIssuer func(discovery.Issuer) error
}

// ErrUnconditional is wrapped by the error of a target whose store accepts
// writes although their precondition does not hold.
var ErrUnconditional = errors.New("the store ignores the conditions of a write")

const (
	// operations is the number of parts into which the deadline of a pass is
	// divided, so that an operation that hangs leaves time to report it.
	operations = 3
	// freshness is how old a fetched snapshot may be once the targets were read.
	// An older one is fetched again: another publisher may have published a key
	// that the cluster lists by now.
	freshness = time.Second
)

// Publisher publishes a cluster's documents.
type Publisher struct {
	Source Source
	// First is a snapshot that was already fetched to find out the targets, if
	// that was needed. The first pass uses it unless it is too old by then.
	First   discovery.Snapshot
	Targets []Target
	Policy  Policy
	// Timeout bounds one pass, and a third of it each operation.
	Timeout time.Duration
	// DryRun plans and writes nothing.
	DryRun bool
	// NoVerify skips reading the public issuer after a pass.
	NoVerify bool
	// Replicated is set if other replicas may run. A pass then waits for a probe
	// of the store that another replica has begun.
	Replicated bool
	// Client reads the public issuer back; nil is an anonymous one.
	Client *http.Client
	// Now is the clock; nil is the system's.
	Now func() time.Time
	Log *slog.Logger

	memory targetMemory
	// settled is set after the first complete pass that found no target of
	// another cluster.
	settled bool
}

// Report is what one pass did.
type Report struct {
	Issuer   discovery.Issuer
	Warnings []string
	Targets  []TargetReport
	// Snapshot is what the source returned.
	Snapshot discovery.Snapshot
	// Proof is the result of reading the public issuer back.
	Proof Proof
}

// TargetReport is what one pass did to one target.
type TargetReport struct {
	Target Target
	Plan   Plan
	// Published is what the target holds now. After an error it is the result of
	// the last successful pass, or the zero value if there was none.
	Published Published
	// Written are the names of the objects written, in order.
	Written []string
	// Changed is set if the documents or the retired keys differ from those of the
	// last pass.
	Changed bool
	// Repaired is set if documents were written although this process had
	// published the same before: another writer changed or deleted them.
	Repaired bool
	// Err wraps ErrRefused, ErrUnconditional or the backend's own error.
	Err error
}

func (t *TargetReport) wrote(name string) {
	if !slices.Contains(t.Written, name) {
		t.Written = append(t.Written, name)
	}
}

// wroteDocuments reports whether something that relying parties read was written.
func (t *TargetReport) wroteDocuments() bool {
	return slices.ContainsFunc(t.Written, func(name string) bool { return name != StateName })
}

// Changed reports whether anything was written, or would be.
func (r Report) Changed() bool {
	return slices.ContainsFunc(r.Targets, func(t TargetReport) bool { return len(t.Written) > 0 })
}

// Publish is one pass: fetch, plan all targets, check the plans against each
// other, write, and read the public issuer back. Every target is tried, and its
// error is in the report. The error returned is that of the fetch alone.
func (p *Publisher) Publish(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	fetched, err := p.firstFetch(ctx)
	if err != nil {
		return Report{}, err
	}
	report := Report{
		Issuer:   cmp.Or(p.Policy.Issuer, fetched.Document.Issuer()),
		Warnings: fetched.Warnings,
		Snapshot: fetched.Snapshot,
		Targets:  make([]TargetReport, len(p.Targets)),
	}
	jobs := make([]*job, len(p.Targets))
	wrong := p.checkIssuer(report.Issuer)
	for i, target := range p.Targets {
		jobs[i] = &job{publisher: p, policy: p.Policy, TargetReport: TargetReport{Target: target, Err: wrong[i]}}
		jobs[i].Published, _ = p.memory.of(target.Name)
	}
	planned := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.Err != nil })
	fetched = p.plan(ctx, planned, fetched, false)
	p.checkRevoke(planned)
	var all sync.WaitGroup
	for _, j := range planned {
		all.Go(func() { j.run(ctx, fetched) })
	}
	all.Wait()
	for i, j := range jobs {
		report.Targets[i] = j.TargetReport
	}
	report.Proof = p.prove(ctx, report)
	return report, nil
}

// fetched is a snapshot, and when its fetch ended by both clocks.
type fetched struct {
	discovery.Snapshot
	ended, wall time.Time
}

// tooOld reports whether the snapshot is too old to plan with, by either clock:
// a process may have been frozen, or its machine suspended.
func (p *Publisher) tooOld(f fetched) bool {
	return max(time.Since(f.ended), p.now().Round(0).Sub(f.wall)) > freshness
}

// firstFetch returns First while it is fresh, else what the source returns.
func (p *Publisher) firstFetch(ctx context.Context) (fetched, error) {
	first := fetched{p.First, p.First.FetchedAt, p.First.FetchedAt.Round(0)}
	p.First = discovery.Snapshot{}
	if !first.ended.IsZero() && !p.tooOld(first) {
		return first, nil
	}
	return p.fetch(ctx)
}

func (p *Publisher) fetch(ctx context.Context) (fetched, error) {
	snapshot, err := Fetch(ctx, p.Source)
	return fetched{snapshot, time.Now(), p.now().Round(0)}, err
}

// fetchAgain is fetch during a pass.
func (p *Publisher) fetchAgain(ctx context.Context, last fetched) (fetched, error) {
	next, err := p.fetch(ctx)
	if err != nil {
		return last, err
	}
	if next.Document.Issuer() != last.Document.Issuer() {
		return last, fmt.Errorf("the cluster's issuer changed from %q to %q during the pass: try again", last.Document.Issuer(), next.Document.Issuer())
	}
	return next, nil
}

// plan reads what the targets hold and plans what to write. It returns the
// snapshot that it planned with: that given or, if it is to be fetched again or
// is too old, another.
func (p *Publisher) plan(ctx context.Context, jobs []*job, last fetched, again bool) fetched {
	var all sync.WaitGroup
	for _, j := range jobs {
		all.Go(func() { j.held, j.Err = p.read(ctx, j.Target.Backend) })
	}
	all.Wait()
	jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.Err != nil })
	planAll := func(err error) {
		for _, j := range jobs {
			if j.Err = err; err == nil {
				j.plan(last)
			}
		}
	}
	var err error
	if again = again || p.tooOld(last); again {
		last, err = p.fetchAgain(ctx, last)
	}
	planAll(err)
	if !again && slices.ContainsFunc(jobs, func(j *job) bool { return j.Plan.retires }) {
		last, err = p.fetchMore(ctx, last)
		planAll(err)
	}
	p.shareRevocations(jobs, last)
	return last
}

// fetchMore fetches once more and adds the keys of both fetches together. A key
// may be retired only if a fetch that began after the target was read does not
// list it: otherwise it may be a new key that another publisher was faster to
// publish. Both fetches count, because they may have reached different API
// servers.
func (p *Publisher) fetchMore(ctx context.Context, last fetched) (fetched, error) {
	next, err := p.fetchAgain(ctx, last)
	if err != nil {
		return last, err
	}
	next.Keys, err = discovery.Union(last.Keys, next.Keys)
	if unfit := new(discovery.UnfitError); errors.As(err, &unfit) {
		err = &RefusedError{Reasons: []error{err}}
	}
	return next, err
}

// shareRevocations revokes on every target what is revoked on one of them.
func (p *Publisher) shareRevocations(jobs []*job, last fetched) {
	var revoked []string
	for _, j := range jobs {
		revoked = append(revoked, j.Plan.state.revoked()...)
	}
	for _, j := range jobs {
		missing := slices.DeleteFunc(slices.Clone(revoked), func(id string) bool { return slices.Contains(j.Plan.state.revoked(), id) })
		if j.Err != nil || len(missing) == 0 || len(j.Plan.Refusals) > 0 {
			continue
		}
		j.policy.revokedElsewhere = missing
		j.plan(last)
	}
}

// checkRevoke refuses all targets if a key to revoke is known neither to the
// cluster nor to any of them: it is mistyped, and a revocation can't be undone.
// One target may have had a key that the others never had, and one that can't
// be read may know them all.
func (p *Publisher) checkRevoke(jobs []*job) {
	unknown := slices.Clone(p.Policy.Revoke)
	for _, j := range jobs {
		if j.Err != nil {
			return
		}
		unknown = slices.DeleteFunc(unknown, func(id string) bool { return !slices.Contains(j.Plan.Unknown, id) })
	}
	if len(unknown) == 0 {
		return
	}
	err := fmt.Errorf("can't revoke keys that neither a target nor the cluster knows: %s", strings.Join(unknown, ", "))
	for _, j := range jobs {
		j.Err = &RefusedError{Reasons: []error{err}}
	}
}

// Fetch asks the source once. Documents that must not be published are a
// *RefusedError; any other error means that the fetch failed.
func Fetch(ctx context.Context, source Source) (discovery.Snapshot, error) {
	began := time.Now()
	snapshot, err := source.Fetch(ctx)
	snapshot.FetchedAt = began
	if unfit := new(discovery.UnfitError); errors.As(err, &unfit) {
		return snapshot, &RefusedError{Reasons: []error{err}}
	}
	return snapshot, err
}

// checkIssuer returns a refusal for each target that the issuer does not lead
// to, or none if another target is the issuer's own.
func (p *Publisher) checkIssuer(issuer discovery.Issuer) []error {
	wrong := make([]error, len(p.Targets))
	for i, target := range p.Targets {
		if target.Local || target.CheckIssuer == nil {
			continue
		}
		err := target.CheckIssuer(issuer)
		if err == nil {
			return make([]error, len(p.Targets))
		}
		wrong[i] = &RefusedError{Reasons: []error{err}}
	}
	return wrong
}

func (p *Publisher) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

func (p *Publisher) log() *slog.Logger {
	if p.Log != nil {
		return p.Log
	}
	return slog.New(slog.DiscardHandler)
}
