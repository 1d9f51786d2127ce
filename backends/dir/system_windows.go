package dir

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

const (
	nonblock = 0
	lockCure = "this file system can't lock a file: choose another directory"
)

func openLock(root *os.Root) (*os.File, error) { return openLockFile(root) }

// tryLock locks the whole file. Windows unlocks it when the handle is closed.
func tryLock(file *os.File) error {
	const all = ^uint32(0)
	err := windows.LockFileEx(windows.Handle(file.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, all, all, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return errLocked
	}
	return err
}

// syncDir does nothing: Windows has no way to make the entries of a directory
// durable.
func syncDir(*os.Root, string) error { return nil }

func systemCure(err error) string {
	switch {
	case errors.Is(err, windows.ERROR_DISK_FULL), errors.Is(err, windows.ERROR_HANDLE_DISK_FULL), errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED):
		return diskFull
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return "another program has the file open: close it, or make it share the file for deletion"
	case errors.Is(err, windows.ERROR_WRITE_PROTECT):
		return "make it writable or choose another directory"
	case errors.Is(err, os.ErrPermission):
		return "give this user the right to read and write there"
	case errors.Is(err, windows.ERROR_FILENAME_EXCED_RANGE):
		return "choose a shorter path"
	case errors.Is(err, windows.ERROR_DIRECTORY):
		return notDirectory
	}
	return ""
}
