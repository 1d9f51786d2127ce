package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"

	"oidc-publisher/publish"
)

// Memory is a store in memory, for unit tests of what uses a backend. The zero
// value is empty and without faults. Faults are fields, to be set before use; the
// functions are called without a lock held and may be called concurrently.
type Memory struct {
	// BeforeGet and BeforePut may return an error, and then the call fails
	// before it reads or writes anything.
	BeforeGet func(name string) error
	BeforePut func(object publish.Object) error
	// AfterPut may return an error, and then Put fails although it wrote the
	// object: its acknowledgement is lost.
	AfterPut func(object publish.Object) error
	// IgnoreAbsent makes the store overwrite an object that must be absent, and
	// IgnoreVersion one that must have another version, as some S3 clones do.
	IgnoreAbsent, IgnoreVersion bool
	// BytesOnly makes the store forget metadata, as a directory does.
	BytesOnly bool

	mu      sync.Mutex
	objects map[string]publish.Object
	writes  []publish.Object
}

// Open returns a new handle on the store.
func (m *Memory) Open() publish.Backend { return &memoryHandle{store: m} }

// Writes returns every object that was ever stored, oldest first.
func (m *Memory) Writes() []publish.Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.writes)
}

// Place stores an object without condition, fault or limit.
func (m *Memory) Place(object publish.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store(object)
}

// Remove deletes an object.
func (m *Memory) Remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
}

func (m *Memory) store(object publish.Object) {
	if m.objects == nil {
		m.objects = map[string]publish.Object{}
	}
	object.Body = bytes.Clone(object.Body)
	object.BytesOnly = m.BytesOnly
	if m.BytesOnly {
		object.ContentType, object.CacheControl = "", ""
	}
	object.Version = strconv.Itoa(len(m.writes) + 1)
	m.writes = append(m.writes, object)
	m.objects[object.Name] = object
}

type memoryHandle struct {
	gate  publish.Gate
	store *Memory
}

var _ publish.Backend = (*memoryHandle)(nil)

func (h *memoryHandle) Get(ctx context.Context, name string) (publish.Object, error) {
	if err := h.gate.Get(ctx, name); err != nil {
		return publish.Object{}, err
	}
	if err := fault(h.store.BeforeGet, name); err != nil {
		return publish.Object{}, err
	}
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	object, ok := h.store.objects[name]
	switch {
	case !ok:
		return publish.Object{}, fmt.Errorf("memory: %s: %w", name, fs.ErrNotExist)
	case len(object.Body) > publish.MaxObjectSize:
		return publish.Object{}, fmt.Errorf("memory: %s: %w", name, publish.ErrTooLarge)
	}
	object.Body = bytes.Clone(object.Body)
	return object, nil
}

func (h *memoryHandle) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := h.gate.Put(ctx, object); err != nil {
		return err
	}
	if err := fault(h.store.BeforePut, object); err != nil {
		return err
	}
	if err := h.store.replace(object, precondition); err != nil {
		return err
	}
	return fault(h.store.AfterPut, object)
}

func (m *Memory) replace(object publish.Object, precondition publish.Precondition) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	current, ok := m.objects[object.Name]
	version, present := precondition.Version()
	ignored := present && m.IgnoreVersion || !present && m.IgnoreAbsent
	if !ignored && (ok != present || current.Version != version) {
		return fmt.Errorf("memory: %s: %w", object.Name, publish.ErrPrecondition)
	}
	m.store(object)
	return nil
}

func (h *memoryHandle) Close() error {
	h.gate.Close()
	return nil
}

func fault[T any](hook func(T) error, about T) error {
	if hook == nil {
		return nil
	}
	return hook(about)
}

// Once returns a fault that happens only the first time.
func Once[T any](err error) func(T) error {
	var once sync.Once
	return func(T) (fault error) {
		once.Do(func() { fault = err })
		return fault
	}
}
