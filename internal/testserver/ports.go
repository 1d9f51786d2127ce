package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// FreePort returns a port of 127.0.0.1 on which nothing listens. It lies below
// the range from which the kernel serves outgoing connections, so that it is
// still free when a server is restarted, and no other test gets it.
func FreePort(t testing.TB) int {
	t.Helper()
	r, err := reserved()
	if err != nil {
		t.Fatal(err)
	}
	port, err := r.pick()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// portRange is a range of ports that this process has to itself among the
// tests that run at the same time.
type portRange struct {
	lock *os.File // held until the process ends
	base int

	mu   sync.Mutex
	next int
}

const (
	lowestPort = 12000
	rangeSize  = 1000
	ranges     = 20
)

var reserved = sync.OnceValues(reserve)

// reserve locks the first range that no other process has locked.
func reserve() (*portRange, error) {
	dir := filepath.Join(os.TempDir(), "oidc-publisher-test-ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var errs error
	for i := range ranges {
		lock, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(i)), os.O_CREATE|os.O_RDWR, 0o644)
		if err == nil {
			if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
				return &portRange{lock: lock, base: lowestPort + i*rangeSize}, nil
			}
			_ = lock.Close()
		}
		errs = errors.Join(errs, err)
	}
	return nil, fmt.Errorf("no free range of ports: %w", errs)
}

// pick returns the next port of the range on which nothing listens.
func (r *portRange) pick() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for range rangeSize {
		port := r.base + r.next%rangeSize
		r.next++
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1: %w", err)
}
