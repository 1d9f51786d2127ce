//go:build unix

package dir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const (
	nonblock = syscall.O_NONBLOCK
	lockCure = "this file system can't lock a directory (NFS can't)"
)

func openLock(root *os.Root) (*os.File, error) { return root.Open(".") }

func tryLock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK || err == syscall.EINTR {
		return errLocked
	}
	return err
}

// syncDir makes the entries of a directory durable. File systems that can't do
// that return EINVAL.
func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

func systemCure(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return diskFull
	case errors.Is(err, syscall.EROFS):
		return "mount it read-write or choose another directory"
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("give user %d the right to read and write there", os.Geteuid())
	case errors.Is(err, syscall.ENAMETOOLONG):
		return "choose a shorter path"
	case errors.Is(err, syscall.ENOTDIR):
		return notDirectory
	}
	return ""
}
