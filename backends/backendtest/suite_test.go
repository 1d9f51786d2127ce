package backendtest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/publish"
)

func TestMemory(t *testing.T) {
	for _, bytesOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("BytesOnly=%v", bytesOnly), func(t *testing.T) {
			backendtest.Run(t, memoryHarness(bytesOnly, broken{}))
		})
	}
}

// memoryHarness is that of a Memory with a bug.
func memoryHarness(bytesOnly bool, bug broken) backendtest.Harness {
	wrap := func(b publish.Backend) publish.Backend {
		return broken{Backend: b, get: bug.get, put: bug.put}
	}
	return backendtest.Harness{
		BytesOnly:    bytesOnly,
		CreatesStore: true,
		Instant:      true,
		NewStore: func(t testing.TB) backendtest.Store {
			m := &backendtest.Memory{BytesOnly: bytesOnly}
			return backendtest.Store{
				Open: func(testing.TB) publish.Backend { return wrap(m.Open()) },
				Place: func(_ testing.TB, name string, body []byte) {
					m.Place(publish.Object{Name: name, Body: body})
				},
				Remove: func(_ testing.TB, name string) { m.Remove(name) },
				Forbidden: func(testing.TB) publish.Backend {
					return wrap(broken{Backend: m.Open(), put: func(publish.Backend, context.Context, publish.Object, publish.Precondition) error {
						return errors.New("read-only")
					}})
				},
				ForbiddenCure: "read-only",
				Missing:       func(testing.TB) publish.Backend { return wrap((&backendtest.Memory{BytesOnly: bytesOnly}).Open()) },
				Strays: func(testing.TB) []string {
					var strays []string
					for _, o := range m.Writes() {
						if !fs.ValidPath(o.Name) {
							strays = append(strays, o.Name)
						}
					}
					return strays
				},
			}
		},
	}
}

// broken is a backend with a bug.
type broken struct {
	publish.Backend
	get func(publish.Backend, context.Context, string) (publish.Object, error)
	put func(publish.Backend, context.Context, publish.Object, publish.Precondition) error
}

func (b broken) Get(ctx context.Context, name string) (publish.Object, error) {
	if b.get == nil {
		return b.Backend.Get(ctx, name)
	}
	return b.get(b.Backend, ctx, name)
}

func (b broken) Put(ctx context.Context, o publish.Object, p publish.Precondition) error {
	if b.put == nil {
		return b.Backend.Put(ctx, o, p)
	}
	return b.put(b.Backend, ctx, o, p)
}

// bug is one of a backend or of its harness, and the subtests that must fail.
type bug struct {
	broken
	caughtBy []string
	harness  func(*backendtest.Harness)
}

// bugs are bugs of real backends, and false declarations of a harness.
var bugs = map[string]bug{
	"ignores preconditions": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, _ publish.Precondition) error {
			return force(ctx, b, o)
		}},
		caughtBy: []string{"create-only", "version-lost", "version-deleted", "version-of-nothing", "no-lost-update", "racing-creators"},
	},
	"checks, then writes": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			current, err := b.Get(ctx, o.Name)
			want, present := p.Version()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if (err == nil) != present || current.Version != want {
				return publish.ErrPrecondition
			}
			time.Sleep(100 * time.Microsecond) // as long as a store takes to answer
			return force(ctx, b, o)
		}},
		caughtBy: []string{"no-lost-update"},
	},
	"forgets metadata": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			o.ContentType, o.CacheControl = "application/octet-stream", ""
			return b.Put(ctx, o, p)
		}},
		caughtBy: []string{"round-trip", "overwrite", "metadata-alone", "no-torn-read"},
	},
	"ignores the context": {
		broken: broken{
			get: func(b publish.Backend, ctx context.Context, name string) (publish.Object, error) {
				return b.Get(context.WithoutCancel(ctx), name)
			},
			put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
				return b.Put(context.WithoutCancel(ctx), o, p)
			},
		},
		caughtBy: []string{"cancelled-before"},
	},
	"forbidden passes for absent": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			err := b.Put(ctx, o, p)
			if err != nil && err.Error() == "read-only" {
				return fs.ErrNotExist
			}
			return err
		}},
		caughtBy: []string{"forbidden"},
	},
	"cleans names": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			o.Name = strings.Trim(strings.ReplaceAll(o.Name, "..", ""), "/")
			return b.Put(ctx, o, p)
		}},
		caughtBy: []string{"hostile-names"},
	},
	"writes in two halves": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			half := o
			half.Body = o.Body[:len(o.Body)/2]
			if err := b.Put(ctx, half, p); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // as long as a store takes to write
			return force(ctx, b, o)
		}},
		caughtBy: []string{"no-torn-read"},
	},
	"truncates silently": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			o.Body = o.Body[:min(len(o.Body), publish.MaxObjectSize-1)]
			return b.Put(ctx, o, p)
		}},
		caughtBy: []string{"largest-body", "oversize-put"},
	},
	"cancels nothing": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			time.Sleep(time.Millisecond) // as long as a store takes to write
			return b.Put(context.WithoutCancel(ctx), o, p)
		}},
		harness:  func(h *backendtest.Harness) { h.Instant = false },
		caughtBy: []string{"cancelled-during"},
	},
	"is slow and declared to be instant": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			time.Sleep(120 * time.Millisecond)
			return b.Put(ctx, o, p)
		}},
		caughtBy: []string{"cancelled-during"},
	},
	"forbids and is declared not to": {
		harness: func(h *backendtest.Harness) {
			h.ForbidsNothing = true
			change(h, func(s *backendtest.Store) { s.ForbiddenCure = "" })
		},
		caughtBy: []string{"forbidden"},
	},
	"creates stores and is declared not to": {
		harness: func(h *backendtest.Harness) {
			h.CreatesStore = false
			change(h, func(s *backendtest.Store) { s.MissingCure = "create it" })
		},
		caughtBy: []string{"missing-store"},
	},
	"takes long names and is declared not to": {
		harness:  func(h *backendtest.Harness) { h.ShortNames = true },
		caughtBy: []string{"long-component"},
	},
	"fails for long names": {
		broken: broken{put: func(b publish.Backend, ctx context.Context, o publish.Object, p publish.Precondition) error {
			if len(o.Name) > 255 {
				return errors.New("file name too long")
			}
			return b.Put(ctx, o, p)
		}},
		caughtBy: []string{"long-component"},
	},
	"lacks a hook": {
		harness:  func(h *backendtest.Harness) { change(h, func(s *backendtest.Store) { s.Strays = nil }) },
		caughtBy: []string{"absent", "hostile-names"},
	},
	"lacks a cure": {
		harness:  func(h *backendtest.Harness) { change(h, func(s *backendtest.Store) { s.ForbiddenCure = "" }) },
		caughtBy: []string{"absent", "forbidden"},
	},
}

func change(h *backendtest.Harness, store func(*backendtest.Store)) {
	original := h.NewStore
	h.NewStore = func(t testing.TB) backendtest.Store {
		s := original(t)
		store(&s)
		return s
	}
}

// force writes without a condition.
func force(ctx context.Context, b publish.Backend, o publish.Object) error {
	for {
		p := publish.IfAbsent()
		current, err := b.Get(ctx, o.Name)
		switch {
		case err == nil:
			p = publish.IfVersion(current.Version)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := b.Put(ctx, o, p); !errors.Is(err, publish.ErrPrecondition) {
			return err
		}
	}
}

const bugVariable = "BACKENDTEST_BUG"

// TestBug is what TestSuiteCatchesBugs runs in a child, where it must fail.
func TestBug(t *testing.T) {
	bug, ok := bugs[os.Getenv(bugVariable)]
	if !ok {
		return
	}
	harness := memoryHarness(false, bug.broken)
	if bug.harness != nil {
		bug.harness(&harness)
	}
	backendtest.Run(t, harness)
}

func TestSuiteCatchesBugs(t *testing.T) {
	for name, bug := range bugs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBug$/^("+strings.Join(bug.caughtBy, "|")+")$", "-test.v")
			cmd.Env = append(os.Environ(), bugVariable+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Error("the suite passed")
			}
			for _, subtest := range bug.caughtBy {
				if !strings.Contains(string(out), "--- FAIL: TestBug/"+subtest+" ") {
					t.Errorf("not caught by %s", subtest)
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

func TestMemoryFaults(t *testing.T) {
	boom := errors.New("boom")
	m := &backendtest.Memory{BeforePut: backendtest.Once[publish.Object](boom), AfterPut: backendtest.Once[publish.Object](boom)}
	b, o := m.Open(), publish.Object{Name: "a", Body: []byte("x")}
	if err := b.Put(t.Context(), o, publish.IfAbsent()); !errors.Is(err, boom) || len(m.Writes()) != 0 {
		t.Errorf("failed write: %v, %d writes", err, len(m.Writes()))
	}
	if err := b.Put(t.Context(), o, publish.IfAbsent()); !errors.Is(err, boom) || len(m.Writes()) != 1 {
		t.Errorf("lost acknowledgement: %v, %d writes", err, len(m.Writes()))
	}
	if err := b.Put(t.Context(), o, publish.IfAbsent()); !errors.Is(err, publish.ErrPrecondition) {
		t.Errorf("create again: %v", err)
	}
	m.IgnoreAbsent, m.IgnoreVersion = true, true
	if err := b.Put(t.Context(), o, publish.IfAbsent()); err != nil {
		t.Errorf("with preconditions ignored: %v", err)
	}
}
