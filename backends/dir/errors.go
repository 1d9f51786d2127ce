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
	if err == nil {
		return nil
	}
	at := filepath.Join(b.path, filepath.FromSlash(name))
	if errors.Is(err, publish.ErrInvalidName) || errors.Is(err, publish.ErrClosed) {
		at = b.path
	}
	cure := cure(err)
	// The operating system's errors may name the temporary file instead.
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		err = file.Err
	} else if rename, ok := errors.AsType[*os.LinkError](err); ok {
		err = rename.Err
	}
	if cure != "" {
		return fmt.Errorf("%s: %w: %s", at, err, cure)
	}
	return fmt.Errorf("%s: %w", at, err)
}

const (
	diskFull     = "the disk is full or the quota is used up: make room"
	notDirectory = "there is a file where a directory is needed: remove it"
)

func cure(err error) string {
	if cure := systemCure(err); cure != "" {
		return cure
	}
	switch text := err.Error(); { // package os exports no variables for these errors of os.Root
	case strings.HasSuffix(text, "not a directory"):
		return notDirectory
	case strings.Contains(text, "path escapes from parent"):
		return "a symbolic link leads out of the directory: remove it"
	}
	return ""
}
