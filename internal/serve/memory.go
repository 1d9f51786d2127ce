package serve

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"sync"

	"oidc-publisher/publish"
)

// Memory holds objects until the process ends. The zero value is empty and safe
// for concurrent use.
type Memory struct {
	mu      sync.Mutex
	objects map[string]publish.Object
	writes  uint64
}

// Open returns the memory as a backend.
func (m *Memory) Open() publish.Backend { return &memoryBackend{memory: m} }

// store must be called with the lock held.
func (m *Memory) store(object publish.Object) {
	if m.objects == nil {
		m.objects = map[string]publish.Object{}
	}
	m.writes++
	object.Body, object.BytesOnly = bytes.Clone(object.Body), false
	object.Version = strconv.FormatUint(m.writes, 10)
	m.objects[object.Name] = object
}

type memoryBackend struct {
	gate   publish.Gate
	memory *Memory
}

var _ publish.Backend = (*memoryBackend)(nil)

func (b *memoryBackend) Get(ctx context.Context, name string) (publish.Object, error) {
	if err := b.gate.Get(ctx, name); err != nil {
		return publish.Object{}, err
	}
	b.memory.mu.Lock()
	defer b.memory.mu.Unlock()
	object, ok := b.memory.objects[name]
	switch {
	case !ok:
		return publish.Object{}, fmt.Errorf("memory: %s: %w", name, fs.ErrNotExist)
	case len(object.Body) > publish.MaxObjectSize:
		return publish.Object{}, fmt.Errorf("memory: %s: %w", name, publish.ErrTooLarge)
	}
	object.Body = bytes.Clone(object.Body)
	return object, nil
}

func (b *memoryBackend) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := b.gate.Put(ctx, object); err != nil {
		return err
	}
	b.memory.mu.Lock()
	defer b.memory.mu.Unlock()
	current, ok := b.memory.objects[object.Name]
	if version, present := precondition.Version(); ok != present || current.Version != version {
		return fmt.Errorf("memory: %s: %w", object.Name, publish.ErrPrecondition)
	}
	b.memory.store(object)
	return nil
}

// Close closes this backend; the memory stays.
func (b *memoryBackend) Close() error {
	b.gate.Close()
	return nil
}
