package publish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/service/retry"
)

// errAgain asks to read the target and plan again.
var errAgain = errors.New("the target has to be read again")

// carryOut makes the plan's writes, in their order.
func (j *job) carryOut(ctx context.Context) error {
	p, backend := j.publisher, j.Target.Backend
	if j.Plan.unproved {
		if j.waitsForProbe() {
			return j.awaitProbe(ctx)
		}
		if err := j.probe(ctx); err != nil {
			return err
		}
		j.wrote(StateName)
		return errAgain
	}
	for _, write := range j.Plan.Writes {
		if err := p.put(ctx, backend, write); err != nil {
			return err
		}
		j.wrote(write.Object.Name)
	}
	return j.confirmState(ctx)
}

// confirmState reads the state again after keys were written. Each object is
// written conditionally, the three together are not: another publisher may have
// written its state, with another key, before these keys.
func (j *job) confirmState(ctx context.Context) error {
	wroteKeys := slices.ContainsFunc(j.Plan.Writes, func(w Write) bool { return w.Object.Name == discovery.JWKSPath })
	if !wroteKeys {
		return nil
	}
	got, err := j.publisher.get(ctx, j.Target.Backend, StateName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !got.Same(j.Plan.stateObject) {
		return fmt.Errorf("%s: %w", StateName, ErrPrecondition)
	}
	return nil
}

// probePoll is the time between two reads of another replica's open probe.
const probePoll = time.Second

// waitsForProbe reports whether another replica is probing the store.
func (j *job) waitsForProbe() bool {
	return j.publisher.Replicated && j.Plan.openProbe != "" && !j.publisher.memory.knowsProbe(j.Target.Name, j.Plan.openProbe)
}

// awaitProbe waits until another replica's probe is closed, or gives up at the
// end of the pass, one Timeout later. The next pass then probes by itself.
func (j *job) awaitProbe(ctx context.Context) error {
	for retry.Sleep(ctx, probePoll) {
		got, err := j.publisher.get(ctx, j.Target.Backend, StateName)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || j.held.State == nil || !got.Same(*j.held.State) {
			return errAgain
		}
	}
	j.publisher.memory.keepProbe(j.Target.Name, j.Plan.openProbe)
	return fmt.Errorf("another replica began to check whether the store honours conditional writes, and did not finish: %w", ctx.Err())
}

func (p *Publisher) read(ctx context.Context, backend Backend) (Held, error) {
	// Every publisher writes its state before the keys. A state that is read last
	// is therefore never older than the keys: a key that another publisher adds
	// or revokes in between is not taken for drift.
	var held Held
	for _, object := range []struct {
		name string
		into **Object
	}{
		{discovery.ConfigurationPath, &held.Document},
		{discovery.JWKSPath, &held.Keys},
		{StateName, &held.State},
	} {
		got, err := p.get(ctx, backend, object.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Held{}, err
		}
		*object.into = &got
	}
	return held, nil
}

func (p *Publisher) get(ctx context.Context, backend Backend, name string) (Object, error) {
	ctx, cancel := p.operation(ctx)
	defer cancel()
	return backend.Get(ctx, name)
}

// put writes, and after an error reads back whether the object was written
// nevertheless: a lost acknowledgement looks like a lost race on S3 and like a
// broken connection on Cloud Storage.
func (p *Publisher) put(ctx context.Context, backend Backend, write Write) error {
	err := p.tryPut(ctx, backend, write)
	if err == nil {
		return nil
	}
	got, readErr := p.get(ctx, backend, write.Object.Name)
	if readErr == nil && got.Same(write.Object) {
		p.log().DebugContext(ctx, "the write succeeded although its answer was an error", "object", write.Object.Name, "error", err)
		return nil
	}
	return err
}

func (p *Publisher) tryPut(ctx context.Context, backend Backend, write Write) error {
	ctx, cancel := p.operation(ctx)
	defer cancel()
	return backend.Put(ctx, write.Object, write.Precondition)
}

// probe checks, once per target, whether the store honours preconditions: some
// S3 clones accept them and write regardless, and then two publishers overwrite
// each other's keys. The state object has an open probe until both kinds of
// condition were refused, so a probe that was cut short is done again.
func (j *job) probe(ctx context.Context) error {
	p, backend, s := j.publisher, j.Target.Backend, j.Plan.state
	first := IfAbsent()
	if j.held.State != nil {
		first = IfVersion(j.held.State.Version)
	}
	newProbe := func() string {
		probe := rand.Text()
		p.memory.keepProbe(j.Target.Name, probe) // its own probe needs no wait
		return probe
	}
	s.Probe = newProbe()
	stale, err := p.putOwn(ctx, backend, Write{s.object(), first})
	if err != nil {
		return err
	}
	s.Probe = newProbe()
	open, err := p.putOwn(ctx, backend, Write{s.object(), IfVersion(stale)})
	if err != nil {
		return err
	}
	for _, unmet := range []Precondition{IfAbsent(), IfVersion(stale)} {
		err := p.putUnmetCondition(ctx, backend, Write{s.object(), unmet})
		if err == nil {
			return fmt.Errorf("%w: two publishers would overwrite each other's keys, so nothing was published. Use a store with conditional writes", ErrUnconditional)
		}
		if !errors.Is(err, ErrPrecondition) {
			return err
		}
	}
	s.Probe = ""
	return p.put(ctx, backend, Write{s.object(), IfVersion(open)})
}

// putUnmetCondition attempts a write that must be refused. If no answer came and the store
// still answers, it tries once more: what the store holds does not show whether
// the write was refused.
func (p *Publisher) putUnmetCondition(ctx context.Context, backend Backend, write Write) error {
	err := p.tryPut(ctx, backend, write)
	if err == nil || errors.Is(err, ErrPrecondition) {
		return err
	}
	if _, readErr := p.get(ctx, backend, write.Object.Name); readErr != nil {
		return err
	}
	return p.tryPut(ctx, backend, write)
}

// putOwn writes and returns the version of what it wrote. Finding another
// writer's object there is a lost race.
func (p *Publisher) putOwn(ctx context.Context, backend Backend, write Write) (version string, err error) {
	if err := p.put(ctx, backend, write); err != nil {
		return "", err
	}
	got, err := p.get(ctx, backend, write.Object.Name)
	if err != nil {
		return "", err
	}
	if !got.Same(write.Object) {
		return "", fmt.Errorf("%s: %w", write.Object.Name, ErrPrecondition)
	}
	return got.Version, nil
}

func (p *Publisher) operation(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.Timeout/operations)
}
