package publish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"oidc-publisher/discovery"
)

// errAgain asks for another look after the store was found sound.
var errAgain = errors.New("the store was probed")

func (p *Publisher) carryOut(ctx context.Context, backend Backend, held Held, report *TargetReport) error {
	if report.Plan.unproved {
		if err := p.probe(ctx, backend, held.State, report.Plan.state); err != nil {
			return err
		}
		report.wrote(StateName)
		return errAgain
	}
	for _, write := range report.Plan.Writes {
		if err := p.put(ctx, backend, write); err != nil {
			return err
		}
		report.wrote(write.Object.Name)
	}
	return nil
}

func (p *Publisher) read(ctx context.Context, backend Backend) (Held, error) {
	// Every publisher writes its memory before the keys. Memory that is read
	// last is therefore never older than the keys: a key that another
	// publisher adds or revokes in between is not taken for drift.
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

// put writes, and where the answer is an error looks whether the object is
// there all the same: a lost acknowledgement looks like a lost race on S3 and
// like a broken connection on Cloud Storage (rule 9).
func (p *Publisher) put(ctx context.Context, backend Backend, write Write) error {
	err := p.tryPut(ctx, backend, write)
	if err == nil {
		return nil
	}
	got, readErr := p.get(ctx, backend, write.Object.Name)
	if readErr == nil && got.Same(write.Object) {
		p.log().DebugContext(ctx, "the write was done though its answer was an error", "object", write.Object.Name, "error", err)
		return nil
	}
	return err
}

func (p *Publisher) tryPut(ctx context.Context, backend Backend, write Write) error {
	ctx, cancel := p.operation(ctx)
	defer cancel()
	return backend.Put(ctx, write.Object, write.Precondition)
}

// probe finds out, once per target, whether the store honours preconditions:
// some S3 clones accept them and write regardless, and then two publishers
// overwrite each other's keys. The state object says that the question is open
// until both kinds of condition were seen to be refused, so a probe that was
// cut short is done again.
func (p *Publisher) probe(ctx context.Context, backend Backend, held *Object, s state) error {
	first := IfAbsent()
	if held != nil {
		first = IfVersion(held.Version)
	}
	s.Probe = rand.Text()
	stale, err := p.putOwn(ctx, backend, Write{s.object(), first})
	if err != nil {
		return err
	}
	s.Probe = rand.Text()
	open, err := p.putOwn(ctx, backend, Write{s.object(), IfVersion(stale)})
	if err != nil {
		return err
	}
	for _, unmet := range []Precondition{IfAbsent(), IfVersion(stale)} {
		err := p.putUnmet(ctx, backend, Write{s.object(), unmet})
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

// putUnmet tries a write that must be refused. If no answer came and the store
// still answers, it asks once more: whether the write was refused can't be
// told from what the store holds.
func (p *Publisher) putUnmet(ctx context.Context, backend Backend, write Write) error {
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
