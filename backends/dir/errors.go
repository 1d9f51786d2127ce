package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"oidc-publisher/publish"
)

// explain names the target and adds what mends the error.
func (b *Backend) explain(name string, err error) error {
	at := filepath.Join(b.path, filepath.FromSlash(name))
	if errors.Is(err, publish.ErrInvalidName) || errors.Is(err, publish.ErrClosed) {
		at = b.path
	}
	if cure := cure(err); cure != "" {
		return fmt.Errorf("%s: %w: %s", at, bare(err), cure)
	}
	return fmt.Errorf("%s: %w", at, bare(err))
}

// bare drops the operating system's own mention of the path.
func bare(err error) error {
	var file *fs.PathError
	var rename *os.LinkError
	switch {
	case errors.As(err, &file):
		return file.Err
	case errors.As(err, &rename):
		return rename.Err
	}
	return err
}

func cure(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk is full or the quota is used up: make room"
	case errors.Is(err, syscall.EROFS):
		return "mount it read-write or choose another directory"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("give user %d the right to read and write there", os.Geteuid())
	case errors.Is(err, syscall.ENAMETOOLONG):
		return "choose a shorter path"
	case errors.Is(err, syscall.ENOTDIR), strings.HasSuffix(err.Error(), "not a directory"): // os.Root has its own
		return "a file stands where a directory is needed: remove it"
	case strings.Contains(err.Error(), "path escapes from parent"):
		return "a symbolic link leads out of the directory: remove it"
	}
	return ""
}
