package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"oidc-publisher/discovery"
)

// Source is where a cluster's documents come from.
type Source interface {
	// Fetch reads and judges both documents once. On error nothing that is
	// public may be changed.
	Fetch(ctx context.Context) (discovery.Snapshot, error)
}

// Target is one place to publish to.
type Target struct {
	// Name is the target as the user wrote it.
	Name    string
	Backend Backend
	// Local is set for a directory: who serves it, and whether it is served
	// yet, can't be known.
	Local bool
	// CheckIssuer returns an error for an issuer that is the URL of another
	// bucket than this target; nil where any will do. One target of several
	// has to be the issuer's own; the others are copies.
	CheckIssuer func(discovery.Issuer) error
}

// ErrUnconditional is wrapped by the error of a target whose store accepts
// writes whose precondition does not hold.
var ErrUnconditional = errors.New("the store ignores the conditions of a write")

const (
	// maxRaces bounds how often a pass plans anew after losing a race.
	maxRaces = 50
	// operations is how many steps the deadline of a run is divided into: one
	// silent operation must leave time to say so.
	operations = 3
	// freshness is how old what the cluster said may be when a target has been
	// read. With an older look, a key that another publisher added meanwhile
	// would be taken for one that the cluster no longer lists.
	freshness = time.Second
)

// Publisher publishes a cluster's documents.
type Publisher struct {
	Source  Source
	Targets []Target
	Policy  Policy
	// Timeout bounds one pass, and a third of it each operation.
	Timeout time.Duration
	// DryRun plans and writes nothing.
	DryRun bool
	// NoVerify leaves the public issuer unread after a pass.
	NoVerify bool
	// Client reads the public issuer back; nil is an anonymous one.
	Client *http.Client
	// Now is the clock; nil is the system's.
	Now func() time.Time
	Log *slog.Logger

	clock  clock
	memory memories
	// settled is set once a pass of any Run was complete and found nobody else's target.
	settled bool
}

// Report is what one pass did.
type Report struct {
	Issuer   discovery.Issuer
	Warnings []string
	Targets  []TargetReport
	// Snapshot is what the source said.
	Snapshot discovery.Snapshot
	// Proof is what reading the public issuer back said.
	Proof Proof
}

// TargetReport is what one pass did to one target.
type TargetReport struct {
	Target Target
	Plan   Plan
	// Written are the names of the objects written, in order.
	Written []string
	// Err wraps ErrRefused, ErrUnconditional or the backend's own error.
	Err error
}

func (t *TargetReport) wrote(name string) {
	if !slices.Contains(t.Written, name) {
		t.Written = append(t.Written, name)
	}
}

// Changed reports whether anything was written, or would be.
func (r Report) Changed() bool {
	for _, t := range r.Targets {
		if len(t.Written) > 0 {
			return true
		}
	}
	return false
}

// Publish is one pass: fetch, and for each target plan and write, then read
// the public issuer back. Every target is tried; their errors are in the
// report. The error returned is that of the fetch alone.
func (p *Publisher) Publish(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	snapshot, err := Fetch(ctx, p.Source)
	if err != nil {
		return Report{}, err
	}
	report := Report{
		Issuer:   cmp.Or(p.Policy.Issuer, snapshot.Document.Issuer()),
		Warnings: snapshot.Warnings,
		Snapshot: snapshot,
		Targets:  make([]TargetReport, len(p.Targets)),
	}
	first := look{snapshot, time.Now()}
	var all sync.WaitGroup
	wrong := p.checkIssuer(report.Issuer)
	if err := p.checkRevoke(ctx, snapshot); err != nil {
		wrong = slices.Repeat([]error{err}, len(p.Targets))
	}
	for i, target := range p.Targets {
		report.Targets[i] = TargetReport{Target: target, Err: wrong[i]}
		if wrong[i] == nil {
			all.Go(func() { report.Targets[i] = p.publishTo(ctx, target, first) })
		}
	}
	all.Wait()
	report.Proof = p.prove(ctx, report)
	return report, nil
}

// look is what the cluster said, and when it had said it.
type look struct {
	discovery.Snapshot
	ended time.Time
}

// fresh looks again where the last look is too old.
func (p *Publisher) fresh(ctx context.Context, last look) (look, error) {
	if time.Since(last.ended) <= freshness {
		return last, nil
	}
	snapshot, err := Fetch(ctx, p.Source)
	if err != nil {
		return last, err
	}
	next := look{snapshot, time.Now()}
	if next.Document.Issuer() != last.Document.Issuer() {
		return last, fmt.Errorf("the cluster's issuer changed from %q to %q meanwhile: try again", last.Document.Issuer(), next.Document.Issuer())
	}
	return next, nil
}

// publishTo plans and writes until no other writer comes between.
func (p *Publisher) publishTo(ctx context.Context, target Target, last look) TargetReport {
	report := TargetReport{Target: target}
	recalled := false
	for race := range maxRaces {
		held, err := p.read(ctx, target.Backend)
		if err == nil {
			last, err = p.fresh(ctx, last)
		}
		if err != nil {
			report.Err = err
			return report
		}
		held.Recalled = p.memory.of(target.Name)
		report.Plan = newPlan(held, last.Snapshot, p.Policy, p.clock.read(p.now(), p.Policy.Grace))
		if recalled = recalled || report.Plan.recalled; recalled {
			report.Plan.Warnings = append(report.Plan.Warnings, "somebody deleted "+StateName+", and this process wrote it back from memory. "+
				"Another process would have forgotten which keys are retired or revoked")
		}
		if report.Err = report.Plan.Refused(); report.Err != nil {
			return report
		}
		if p.DryRun {
			report.Written = names(report.Plan.Writes)
			return report
		}
		report.Err = p.carryOut(ctx, target.Backend, held, &report)
		if report.Err == nil {
			p.memory.keep(target.Name, report.Plan.state.object())
		}
		if !errors.Is(report.Err, errAgain) && !errors.Is(report.Err, ErrPrecondition) {
			return report
		}
		p.log().DebugContext(ctx, "planning again", "target", target.Name, "cause", report.Err)
		if errors.Is(report.Err, ErrPrecondition) && !pause(ctx, race) {
			break
		}
	}
	report.Err = fmt.Errorf("other writers were faster every time: %w", report.Err)
	return report
}

// memories are the states of targets, by name. The zero value is empty.
type memories struct {
	mu     sync.Mutex
	states map[string]Object
}

func (m *memories) keep(target string, state Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states == nil {
		m.states = map[string]Object{}
	}
	m.states[target] = state
}

func (m *memories) of(target string) *Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	if state, ok := m.states[target]; ok {
		return &state
	}
	return nil
}

// checkRevoke returns a refusal of every target if a key to revoke is known
// neither to the cluster nor to any of them: it is mistyped, and a revocation
// can't be taken back. One target may have had a key that the others never had,
// and one that can't be read may know them all.
func (p *Publisher) checkRevoke(ctx context.Context, snapshot discovery.Snapshot) error {
	unknown := slices.Clone(p.Policy.Revoke)
	for _, target := range p.Targets {
		if len(unknown) == 0 {
			return nil
		}
		held, err := p.read(ctx, target.Backend)
		if err != nil {
			return nil //nolint:nilerr // publishTo finds and tells it
		}
		plan := newPlan(held, snapshot, p.Policy, p.clock.read(p.now(), p.Policy.Grace))
		unknown = slices.DeleteFunc(unknown, func(id string) bool { return !slices.Contains(plan.Unknown, id) })
	}
	if len(unknown) == 0 {
		return nil
	}
	return &RefusedError{Reasons: []error{fmt.Errorf("can't revoke what neither a target nor the cluster knows: %s", strings.Join(unknown, ", "))}}
}

// Fetch asks the source once. Documents that must not be published (rule 1) are
// a *RefusedError; any other error is a look that went wrong.
func Fetch(ctx context.Context, source Source) (discovery.Snapshot, error) {
	snapshot, err := source.Fetch(ctx)
	if unfit := new(discovery.UnfitError); errors.As(err, &unfit) {
		return snapshot, &RefusedError{Reasons: []error{err}}
	}
	return snapshot, err
}

// checkIssuer returns a refusal for each target that is not where the issuer
// leads to, or none if another target is.
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

func names(writes []Write) []string {
	var names []string
	for _, w := range writes {
		names = append(names, w.Object.Name)
	}
	return names
}

// pause waits a random time that grows with each lost race, up to a second,
// and reports whether there is time for another try.
func pause(ctx context.Context, race int) bool {
	longest := min(time.Second, 10*time.Millisecond<<min(race, 7))
	return sleep(ctx, time.Duration(rand.Int64N(int64(longest))))
}

// sleep reports whether it was not cut short.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
