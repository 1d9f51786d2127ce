package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"oidc-publisher/publish"
)

// explain names the target and adds what to do about the error.
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

// bare drops the path from the operating system's error.
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

const (
	diskFull     = "the disk is full or the quota is used up: make room"
	notDirectory = "a file stands where a directory is needed: remove it"
)

func cure(err error) string {
	if cure := systemCure(err); cure != "" {
		return cure
	}
	switch text := err.Error(); { // these errors of os.Root have no name
	case strings.HasSuffix(text, "not a directory"):
		return notDirectory
	case strings.Contains(text, "path escapes from parent"):
		return "a symbolic link leads out of the directory: remove it"
	}
	return ""
}
