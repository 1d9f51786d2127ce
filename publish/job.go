package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"oidc-publisher/internal/service/retry"
)

// maxRaces bounds how often a pass plans again after losing a race.
const maxRaces = 50

// job is one target's part of a pass.
type job struct {
	publisher *Publisher
	policy    Policy
	held      Held
	TargetReport
	// warnings come from plans that were only partly carried out: the next plan
	// finds what the last one wrote, and no longer warns.
	warnings []string
}

func (j *job) plan(with fetched) {
	j.held.remembered = nil
	if j.Published.Target != "" {
		j.held.remembered = &j.Published.state
	}
	j.Plan = NewPlan(j.held, with.Snapshot, j.policy, j.publisher.now())
}

// run carries out the plan, and plans again while other writers interfere.
func (j *job) run(ctx context.Context, last fetched) {
	defer func() { j.Plan.Warnings = append(j.warnings, j.Plan.Warnings...) }()
	var err error
	conflicts := 0
	for race := range maxRaces {
		if j.Err != nil {
			return
		}
		if j.Err = j.Plan.Refused(); j.Err != nil {
			return
		}
		if j.publisher.DryRun {
			j.Written = names(j.Plan.Writes)
			return
		}
		written := len(j.Written)
		err = j.carryOut(ctx)
		if err == nil {
			j.keep()
			return
		}
		j.Err = err
		lost := errors.Is(err, ErrPrecondition)
		if !lost && !errors.Is(err, errAgain) {
			return
		}
		conflicts++
		if len(j.Written) > written {
			j.warnings = append(j.warnings, j.Plan.Warnings...)
		}
		j.publisher.log().DebugContext(ctx, "planning again", "target", j.Target.Name, "cause", err)
		if lost && !pause(ctx, race) {
			break
		}
		last = j.publisher.plan(ctx, []*job{j}, last, lost)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	j.Err = fmt.Errorf("gave up after %d conflicting writes: %w", conflicts, err)
}

// keep records what the target holds now.
func (j *job) keep() {
	now := Published{
		Target: j.Target.Name, Document: j.Plan.Document, Keys: j.Plan.Keys, GraceEnds: j.Plan.GraceEnds,
		Since: j.publisher.now(), state: j.Plan.state,
	}
	same := j.Published.Target != "" && j.Published.SameDocuments(now)
	j.Repaired = same && j.wroteDocuments()
	j.Changed = !same || !maps.EqualFunc(now.GraceEnds, j.Published.GraceEnds, func(_, _ time.Time) bool { return true })
	if same && !j.wroteDocuments() {
		now.Since = j.Published.Since
	}
	j.Published = now
	j.publisher.memory.keep(now)
}

func names(writes []Write) []string {
	var names []string
	for _, w := range writes {
		names = append(names, w.Object.Name)
	}
	return slices.Clip(names)
}

// pause waits a random time that grows with each lost race, up to a second,
// and reports whether there is time for another attempt.
func pause(ctx context.Context, race int) bool {
	longest := min(time.Second, 10*time.Millisecond<<min(race, 7))
	return retry.Sleep(ctx, time.Duration(rand.Int64N(int64(longest))))
}
