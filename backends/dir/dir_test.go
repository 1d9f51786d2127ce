package dir_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/backends/dir"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"
)

const (
	tempName = ".oidc-publisher.tmp"
	lockName = ".oidc-publisher.lock"
	jwks     = "openid/v1/jwks"
	nobody   = 65534
)

// TestMain is also the writers that the tests below run as other processes.
func TestMain(m *testing.M) {
	switch root := os.Getenv("DIR_TEST_ROOT"); os.Getenv("DIR_TEST_CHILD") {
	case "write":
		exit(writeForever(root))
	case "count":
		exit(count(root))
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestBackend(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{BytesOnly: true, CreatesStore: true, ShortNames: true, NewStore: newStore})
}

func newStore(t testing.TB) backendtest.Store {
	around := worldReadable(t)
	root := filepath.Join(around, "root")
	t.Cleanup(func() { noTemp(t, around) })
	return backendtest.Store{
		Open: func(t testing.TB) publish.Backend { return open(t, root) },
		Place: func(t testing.TB, name string, body []byte) {
			place(t, filepath.Join(root, name), body)
		},
		Remove: func(t testing.TB, name string) {
			must(t, os.Remove(filepath.Join(root, name)))
		},
		Forbidden:     func(t testing.TB) publish.Backend { return readOnly(t, root) },
		ForbiddenCure: "the right to read and write",
		Missing:       func(t testing.TB) publish.Backend { return open(t, filepath.Join(root, "missing")) },
		Strays:        func(t testing.TB) []string { return strays(t, around) },
	}
}

func open(t testing.TB, root string) publish.Backend {
	t.Helper()
	b, err := dir.Config{Path: root}.Open(context.Background())
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func place(t testing.TB, path string, body []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, body, 0o644))
}

func object(body string) publish.Object {
	return publish.Object{Name: jwks, Body: []byte(body)}
}

// worldReadable is a temporary directory that another user may enter.
func worldReadable(t testing.TB) string {
	d := t.TempDir()
	must(t, os.Chmod(filepath.Dir(d), 0o755))
	return d
}

func strays(t testing.TB, around string) []string {
	entries, err := os.ReadDir(around)
	must(t, err)
	var names []string
	for _, e := range entries {
		if e.Name() != "root" {
			names = append(names, e.Name())
		}
	}
	return names
}

func noTemp(t testing.TB, root string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".tmp") {
			t.Errorf("left behind: %s", path)
		}
		return err
	}))
}

// readOnly returns a backend that may not write. Permissions don't bind root,
// who therefore calls it with another user's rights.
func readOnly(t testing.TB, root string) publish.Backend {
	b := open(t, root)
	if os.Geteuid() == 0 {
		return asNobody{b}
	}
	for _, d := range []string{"", "openid", "openid/v1"} {
		d = filepath.Join(root, d)
		must(t, os.Chmod(d, 0o555))
		t.Cleanup(func() { os.Chmod(d, 0o755) })
	}
	return b
}

type asNobody struct{ publish.Backend }

func (b asNobody) Get(ctx context.Context, name string) (o publish.Object, err error) {
	drop(func() { o, err = b.Backend.Get(ctx, name) })
	return o, err
}

func (b asNobody) Put(ctx context.Context, o publish.Object, p publish.Precondition) (err error) {
	drop(func() { err = b.Backend.Put(ctx, o, p) })
	return err
}

// drop calls f on a thread that accesses files as another user.
func drop(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.Setfsuid(nobody)
	defer syscall.Setfsuid(0)
	f()
}

func TestMissingRoot(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	base := t.TempDir()
	root := filepath.Join(base, "a/b/out")
	b := open(t, root)
	if _, err := b.Get(t.Context(), jwks); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
	if _, err := os.Stat(filepath.Join(base, "a")); err == nil {
		t.Error("Get created a directory")
	}
	must(t, b.Put(t.Context(), object("keys"), publish.IfAbsent()))
	for path, want := range map[string]fs.FileMode{
		"a": 0o755, "a/b": 0o755, "a/b/out": 0o755, "a/b/out/openid": 0o755, "a/b/out/openid/v1": 0o755,
		"a/b/out/openid/v1/jwks": 0o644,
	} {
		info, err := os.Stat(filepath.Join(base, path))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("with umask 077, %s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	b := open(t, "./out")
	t.Chdir(t.TempDir())
	must(t, b.Put(t.Context(), object("keys"), publish.IfAbsent()))
	if _, err := os.Stat("out"); err == nil {
		t.Error("a relative path follows the working directory")
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name  string
		setup func(t *testing.T, root, outside string)
		want  string
	}{
		{"link to a file outside", func(t *testing.T, root, outside string) {
			place(t, filepath.Join(outside, "f"), []byte("secret"))
			must(t, os.MkdirAll(filepath.Join(root, "openid/v1"), 0o755))
			must(t, os.Symlink(filepath.Join(outside, "f"), filepath.Join(root, jwks)))
		}, "symbolic link"},
		{"parent is a link outside", func(t *testing.T, root, outside string) {
			place(t, filepath.Join(outside, "v1/jwks"), []byte("secret"))
			must(t, os.Mkdir(root, 0o755))
			must(t, os.Symlink(outside, filepath.Join(root, "openid")))
		}, "a symbolic link leads out of the directory: remove it"},
		{"parent is a relative link outside", func(t *testing.T, root, outside string) {
			place(t, filepath.Join(outside, "v1/jwks"), []byte("secret"))
			must(t, os.Mkdir(root, 0o755))
			must(t, os.Symlink("../outside", filepath.Join(root, "openid")))
		}, "a symbolic link leads out of the directory: remove it"},
		{"object is a directory", func(t *testing.T, root, _ string) {
			must(t, os.MkdirAll(filepath.Join(root, jwks), 0o755))
		}, "is a directory, not a regular file"},
		{"object is a pipe", func(t *testing.T, root, _ string) {
			must(t, os.MkdirAll(filepath.Join(root, "openid/v1"), 0o755))
			must(t, syscall.Mkfifo(filepath.Join(root, jwks), 0o644))
		}, "is a special file, not a regular file"},
		{"parent is a file", func(t *testing.T, root, _ string) {
			place(t, filepath.Join(root, "openid"), nil)
		}, "there is a file where a directory is needed"},
		{"root turned into a file", func(t *testing.T, root, _ string) {
			place(t, root, nil)
		}, "there is a file where a directory is needed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := t.TempDir()
			root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
			b := open(t, root)
			test.setup(t, root, outside)
			before := tree(t, base)
			_, err := b.Get(t.Context(), jwks)
			wantText(t, "Get", err, test.want)
			wantText(t, "Put", b.Put(t.Context(), object("x"), publish.IfAbsent()), test.want)
			if after := tree(t, base); after != before {
				t.Errorf("files changed:\n%s\nto\n%s", before, after)
			}
		})
	}
}

func wantText(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got error %v, want one that says %q", what, err, text)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, publish.ErrPrecondition) {
		t.Errorf("%s: the error passes for absent or lost: %v", what, err)
	}
}

func tree(t *testing.T, root string) string {
	var all strings.Builder
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		var body []byte
		if err == nil && e.Type().IsRegular() {
			body, err = os.ReadFile(path)
		}
		fmt.Fprintf(&all, "%s %s %q\n", path, e.Type(), body)
		return err
	}))
	return all.String()
}

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	place(t, path, nil)
	_, err := dir.Config{Path: path}.Open(context.Background())
	wantText(t, "Open", err, "not a directory")
}

func TestReservedName(t *testing.T) {
	b := open(t, t.TempDir())
	for _, name := range []string{"a/" + tempName, "a/" + strings.ToUpper(tempName), lockName, strings.ToUpper(lockName)} {
		if err := b.Put(t.Context(), publish.Object{Name: name}, publish.IfAbsent()); !errors.Is(err, publish.ErrInvalidName) {
			t.Errorf("Put %s: %v", name, err)
		}
	}
}

// TestRootBehindLink: where the directory itself is a link, that is the user's
// choice.
func TestRootBehindLink(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(base, "link")))
	must(t, open(t, filepath.Join(base, "link")).Put(t.Context(), object("keys"), publish.IfAbsent()))
	if _, err := os.Stat(filepath.Join(base, "real", jwks)); err != nil {
		t.Error(err)
	}
}

func TestLockWaitEndsWithTheContext(t *testing.T) {
	root := t.TempDir()
	holder, err := os.Open(root)
	must(t, err)
	defer holder.Close()
	must(t, syscall.Flock(int(holder.Fd()), syscall.LOCK_EX))
	b := open(t, root)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = b.Put(ctx, object("keys"), publish.IfAbsent())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another writer holds") {
		t.Errorf("Put under another's lock: %v", err)
	}
	must(t, syscall.Flock(int(holder.Fd()), syscall.LOCK_UN))
	must(t, b.Put(t.Context(), object("keys"), publish.IfAbsent()))
}

func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	mountSmall(t, root)
	b := open(t, root)
	must(t, b.Put(t.Context(), object("small"), publish.IfAbsent()))
	old, err := b.Get(t.Context(), jwks)
	must(t, err)
	for range 3 {
		err = b.Put(t.Context(), object(strings.Repeat("x", 256<<10)), publish.IfVersion(old.Version))
		wantText(t, "Put", err, "the disk is full")
	}
	noTemp(t, root)
	now, err := b.Get(t.Context(), jwks)
	must(t, err)
	if !now.Same(old) {
		t.Errorf("the object is now %q", now.Body)
	}
	must(t, b.Put(t.Context(), object("fits"), publish.IfVersion(old.Version)))
}

func mountSmall(t *testing.T, at string) {
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
		testserver.Missing(t, fmt.Sprintf("needs the right to mount a small tmpfs (root): %v", err))
	}
	t.Cleanup(func() { syscall.Unmount(at, syscall.MNT_DETACH) })
}

func TestReadOnlyFileSystem(t *testing.T) {
	root := t.TempDir()
	mountSmall(t, root)
	b := open(t, root)
	must(t, b.Put(t.Context(), object("old"), publish.IfAbsent()))
	must(t, syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	old, err := b.Get(t.Context(), jwks)
	must(t, err)
	wantText(t, "Put", b.Put(t.Context(), object("new"), publish.IfVersion(old.Version)), "mount it read-write")
}

// TestKilledWriter kills a writing process at random moments. The object must
// always be one whole version, and the next writer must be able to write.
func TestKilledWriter(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	stale := 0
	for range 120 {
		killWriter(t, root)
		if _, err := os.Stat(filepath.Join(root, "openid/v1", tempName)); err == nil {
			stale++
		}
		o, err := b.Get(t.Context(), jwks)
		must(t, err)
		if len(o.Body) < 50_000 || bytes.Count(o.Body, o.Body[:1]) != len(o.Body) {
			t.Fatalf("torn object of %d bytes %.20q", len(o.Body), o.Body)
		}
		must(t, b.Put(t.Context(), object(strings.Repeat("p", 50_000)), publish.IfVersion(o.Version)))
		noTemp(t, root)
	}
	t.Logf("%d of 120 killed writers left a temporary file", stale)
	if stale == 0 {
		t.Error("no writer was killed in the middle of a write")
	}
}

func killWriter(t *testing.T, root string) {
	cmd, out := startChild(t, "write", root)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatalf("the writer died before its first write: %v", err)
	}
	time.Sleep(time.Duration(rand.IntN(10_000)) * time.Microsecond) // the random moment
	must(t, cmd.Process.Kill())
	cmd.Wait()
}

func startChild(t *testing.T, role, root string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DIR_TEST_CHILD="+role, "DIR_TEST_ROOT="+root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, bufio.NewReader(out)
}

// writeForever is a child: it overwrites the object and says when it begins.
func writeForever(root string) error {
	b, err := dir.Config{Path: root}.Open(context.Background())
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		p := publish.IfAbsent()
		if old, err := b.Get(context.Background(), jwks); err == nil {
			p = publish.IfVersion(old.Version)
		}
		body := bytes.Repeat([]byte{byte('a' + i%26)}, 50_000+i%1000)
		if err := b.Put(context.Background(), publish.Object{Name: jwks, Body: body}, p); err != nil {
			return err
		}
		if i == 0 {
			fmt.Println("writing")
		}
	}
}

const countTo = 300

// TestProcessesLoseNoUpdate counts from several processes at once.
func TestProcessesLoseNoUpdate(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	must(t, b.Put(t.Context(), object("0"), publish.IfAbsent()))
	var wg sync.WaitGroup
	totals := make([]int, 3)
	for i := range totals {
		cmd, out := startChild(t, "count", root)
		wg.Go(func() {
			text, _ := io.ReadAll(out)
			if err := cmd.Wait(); err != nil {
				t.Errorf("child: %v", err)
			}
			totals[i], _ = strconv.Atoi(string(text))
		})
	}
	wg.Wait()
	o, err := b.Get(t.Context(), jwks)
	must(t, err)
	if sum := totals[0] + totals[1] + totals[2]; string(o.Body) != strconv.Itoa(countTo) || sum != countTo {
		t.Errorf("increments %v made %s, want %d", totals, o.Body, countTo)
	}
}

// count is a child: it increments and prints how often it succeeded.
func count(root string) error {
	b, err := dir.Config{Path: root}.Open(context.Background())
	if err != nil {
		return err
	}
	successes := 0
	for {
		o, err := b.Get(context.Background(), jwks)
		if err != nil {
			return err
		}
		value, err := strconv.Atoi(string(o.Body))
		if err != nil {
			return err
		}
		if value >= countTo {
			fmt.Print(successes)
			return nil
		}
		err = b.Put(context.Background(), object(strconv.Itoa(value+1)), publish.IfVersion(o.Version))
		if err == nil {
			successes++
		} else if !errors.Is(err, publish.ErrPrecondition) {
			return err
		}
	}
}
