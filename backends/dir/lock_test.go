package dir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"oidc-publisher/publish"
)

// withLockFile returns a backend that locks as on Windows.
func withLockFile(t *testing.T, path string) *Backend {
	t.Helper()
	b, err := Config{Path: path}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.(*Backend).openLock = openLockFile
	return b.(*Backend)
}

func TestLockFileLosesNoUpdate(t *testing.T) {
	const updates = 200
	path := filepath.Join(t.TempDir(), "out")
	if err := withLockFile(t, path).Put(t.Context(), publish.Object{Name: "n", Body: []byte("0")}, publish.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	var successes, conflicts atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		b := withLockFile(t, path)
		wg.Go(func() {
			for !t.Failed() {
				o, err := b.Get(t.Context(), "n")
				value, _ := strconv.Atoi(string(o.Body))
				if err != nil || value >= updates {
					return
				}
				err = b.Put(t.Context(), publish.Object{Name: "n", Body: []byte(strconv.Itoa(value + 1))}, publish.IfVersion(o.Version))
				switch {
				case err == nil:
					successes.Add(1)
				case errors.Is(err, publish.ErrPrecondition):
					conflicts.Add(1)
				default:
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if successes.Load() != updates || conflicts.Load() == 0 {
		t.Errorf("%d successes and %d conflicts made %d", successes.Load(), conflicts.Load(), updates)
	}
}

func TestLockFileExcludes(t *testing.T) {
	path := t.TempDir()
	b := withLockFile(t, path)
	holder, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := tryLock(holder); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = b.Put(ctx, publish.Object{Name: "n"}, publish.IfAbsent())
	if !errors.Is(err, errLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put while another holds the lock: %v", err)
	}
	holder.Close()
	if err := b.Put(t.Context(), publish.Object{Name: "n"}, publish.IfAbsent()); err != nil {
		t.Error(err)
	}
}

func TestLiteralOnWindows(t *testing.T) {
	for name, want := range map[string]bool{
		"openid/v1/jwks":                   true,
		".well-known/openid-configuration": true,
		"a..b/with space":                  true,
		"~":                                true,
		"a.":                               false,
		"a./b":                             false,
		"a /b":                             false,
		"openid/v1/jwks ":                  false,
		"OPENID~1/v1":                      false,
		"stream:data":                      false,
		"what?":                            false,
		"*":                                false,
		"<tag>":                            false,
		`say "x"`:                          false,
		"a|b":                              false,
	} {
		if got := literalOnWindows(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}
