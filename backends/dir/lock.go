package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// errLocked is returned by tryLock while another process, or another handle of
// this one, holds the lock.
var errLocked = errors.New("another writer holds the directory's lock")

// lock takes the lock of the whole tree. It polls, because a call that waits for
// the lock could not be interrupted when the context ends.
func (b *Backend) lock(ctx context.Context, root *os.Root) (unlock func(), err error) {
	file, err := b.openLock(root)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 16*time.Millisecond) {
		err := tryLock(file)
		if err == nil {
			return func() { file.Close() }, nil // closing the file unlocks it
		}
		if !errors.Is(err, errLocked) {
			file.Close()
			return nil, fmt.Errorf("lock: %w: %s", err, lockCure)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("%w: %w", errLocked, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// openLockFile creates the file to lock, on systems that can lock only files.
// The file is never removed: if it were, two writers could lock two different
// files.
func openLockFile(root *os.Root) (*os.File, error) {
	return root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, fileMode)
}
