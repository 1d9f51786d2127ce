// Package dir publishes into a directory, for a web server to serve.
//
// A write is the sequence that POSIX needs for an atomic and durable replace:
// write a temporary file in the same directory, fsync it, rename it over the
// object, fsync the directory. A process killed in between leaves the old
// object, and perhaps the temporary file, which the next write beside it removes.
//
// Writers exclude each other with flock(2) on the root directory itself: it
// leaves no lock file among the published objects, and the kernel drops it
// with the process that held it. NFS can't lock a directory, so Put fails there.
//
// Windows can lock files only, so a file is kept there for the lock. It can't
// fsync directories: after a power failure the previous object may be back. A
// rename is atomic on NTFS, and fails while another program has the object open
// without sharing it.
//
// On a file system that ignores case, names that differ in case only are the
// same object.
package dir

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"oidc-publisher/backends/internal/answer"
	"oidc-publisher/publish"
)

const (
	// tempName is the same for all writers. The lock admits one at a time, so a
	// file of this name was left behind by a writer that was killed.
	tempName = ".oidc-publisher.tmp"
	// lockName is the file to lock on systems that can't lock a directory.
	lockName = ".oidc-publisher.lock"
)

// A web server must be able to read, whatever the umask of this process.
const (
	fileMode = 0o644
	dirMode  = 0o755
)

// Backend is a directory. Files hold bytes only, so its objects are BytesOnly
// and their version is the SHA-256 of the body.
type Backend struct {
	path     string
	gate     publish.Gate
	openLock func(*os.Root) (*os.File, error)
}

var _ publish.Backend = (*Backend)(nil)

// Open returns the backend of a directory. A directory that doesn't exist yet
// reads as empty, and the first Put creates it with its parents.
func (c Config) Open(context.Context) (publish.Backend, error) {
	abs, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	if info, err := os.Stat(abs); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s: not a directory: name a directory to publish into", abs)
	}
	return &Backend{path: abs, openLock: openLock}, nil
}

// Get reads a file. It refuses objects that are symbolic links, and links that
// lead out of the directory.
func (b *Backend) Get(ctx context.Context, name string) (_ publish.Object, err error) {
	defer func() { err = b.explain(name, err) }()
	if err := b.admit(b.gate.Get(ctx, name), name); err != nil {
		return publish.Object{}, err
	}
	root, err := os.OpenRoot(b.path)
	if err != nil {
		return publish.Object{}, err
	}
	defer root.Close()
	return read(root, name)
}

// Put replaces a whole file. It stores only the body: the web server in front
// chooses the headers.
func (b *Backend) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) (err error) {
	defer func() { err = b.explain(object.Name, err) }()
	if err := b.admit(b.gate.Put(ctx, object), object.Name); err != nil {
		return err
	}
	root, err := createRoot(b.path)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := b.lock(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	if err := check(root, object.Name, precondition); err != nil {
		return err
	}
	return replace(ctx, root, object)
}

// Close makes later calls fail. Every call opens the directory and closes it, so
// there is nothing to free.
func (b *Backend) Close() error {
	b.gate.Close()
	return nil
}

// admit adds two rules to the common ones: the operating system must use the
// name literally, and this package's own files are not objects.
func (b *Backend) admit(err error, name string) error {
	if err != nil {
		return err
	}
	local, err := filepath.Localize(name)
	base := path.Base(name)
	if err != nil || filepath.ToSlash(local) != name || isWindows && !literalOnWindows(name) ||
		strings.EqualFold(base, tempName) || strings.EqualFold(base, lockName) {
		return fmt.Errorf("%w: %q is reserved here", publish.ErrInvalidName, name)
	}
	return nil
}

const isWindows = runtime.GOOS == "windows"

// notLiteral matches names that Windows refuses, or shortens at the end, or
// reads as the short name of another file.
var notLiteral = regexp.MustCompile(`[. ]$|~[0-9]|[<>:"|?*]`)

// literalOnWindows reports whether Windows gives a file exactly this name.
// filepath.Localize refuses the names of devices.
func literalOnWindows(name string) bool {
	return !slices.ContainsFunc(strings.Split(name, "/"), notLiteral.MatchString)
}

func read(root *os.Root, name string) (publish.Object, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return publish.Object{}, err
	}
	if !info.Mode().IsRegular() {
		return publish.Object{}, fmt.Errorf("is %s, not a regular file: remove it", kind(info.Mode()))
	}
	// The file may have been replaced by a FIFO, which would block.
	file, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return publish.Object{}, err
	}
	defer file.Close()
	body, err := answer.Body(file)
	if err != nil {
		return publish.Object{}, err
	}
	sum := sha256.Sum256(body)
	return publish.Object{Name: name, Body: body, BytesOnly: true, Version: hex.EncodeToString(sum[:])}, nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "a special file"
}

// check must be called with the lock held.
func check(root *os.Root, name string, precondition publish.Precondition) error {
	current, err := read(root, name)
	want, present := precondition.Version()
	switch {
	case errors.Is(err, fs.ErrNotExist) && !present:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it was deleted", publish.ErrPrecondition)
	case errors.Is(err, publish.ErrTooLarge):
		return fmt.Errorf("%w: another writer's object is too large", publish.ErrPrecondition)
	case err != nil:
		return err
	case !present, current.Version != want:
		return publish.ErrPrecondition
	}
	return nil
}

// replace must be called with the lock held.
func replace(ctx context.Context, root *os.Root, object publish.Object) error {
	parent := path.Dir(object.Name)
	if err := makeDirs(root, parent); err != nil {
		return err
	}
	temp := path.Join(parent, tempName)
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the file of a killed writer: %w", err)
	}
	err := write(root, temp, object.Body)
	if err == nil {
		err = ctx.Err() // after the rename it is too late
	}
	if err == nil {
		err = root.Rename(temp, object.Name)
	}
	if err != nil {
		_ = root.Remove(temp) // if it fails, the next write removes it
		return err
	}
	return syncDir(root, parent)
}

func write(root *os.Root, name string, body []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(body)
	return cmp.Or(err, file.Chmod(fileMode), file.Sync(), file.Close())
}

// createRoot opens a directory. If it is missing, it creates it first, with its
// parents.
func createRoot(name string) (*os.Root, error) {
	root, err := os.OpenRoot(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if filepath.Dir(name) == name { // a drive that doesn't exist
		return nil, err
	}
	parent, err := createRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := makeDir(parent, filepath.Base(name)); err != nil {
		return nil, err
	}
	return parent.OpenRoot(filepath.Base(name))
}

func makeDirs(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if err := makeDirs(root, path.Dir(name)); err != nil {
		return err
	}
	return makeDir(root, name)
}

// makeDir creates one directory durably, unless it exists.
func makeDir(root *os.Root, name string) error {
	err := root.Mkdir(name, dirMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return cmp.Or(root.Chmod(name, dirMode), syncDir(root, path.Dir(name)))
}
