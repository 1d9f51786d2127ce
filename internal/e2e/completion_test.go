package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

// completions are what is typed before the tab key is pressed, and what the
// line is then.
var completions = []struct{ typed, completed string }{
	{"oidc-publisher publ", "oidc-publisher publish "},
	{"oidc-publisher exchange cloudsm", "oidc-publisher exchange cloudsmith "},
	{"oidc-publisher publish --gra", "oidc-publisher publish --grace "},
	{"oidc-publisher exchange cloudsmith --service-s", "oidc-publisher exchange cloudsmith --service-slug "},
	{"oidc-publisher publish --to public --dry-r", "oidc-publisher publish --to public --dry-run "},
	{"oidc-publisher publish --kubeconfig some-f", "oidc-publisher publish --kubeconfig some-file "},
}

// TestCompletion types at real shells and presses the tab key.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bash", "zsh"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, name)
			s.enter("PS1='> '; source <(oidc-publisher completion " + name + "); echo set''up")
			s.await("setup\r\n")
			for _, c := range completions {
				s.send(c.typed + "\t")
				s.await(c.completed)
				s.send("\x15") // control-U deletes the line
			}
		})
	}
	t.Run("fish", func(t *testing.T) {
		t.Parallel()
		l := completionLab(t)
		fish := testserver.Require(t, "fish")
		setup := "oidc-publisher completion fish | source; "
		if functions := filepath.Join(unpacked(fish), "usr/share/fish/functions"); exists(functions) {
			setup = "set --prepend fish_function_path " + functions + "; " + setup
		}
		for _, c := range completions {
			cmd := exec.CommandContext(t.Context(), fish, "--no-config", "--command", setup+"complete --do-complete '"+c.typed+"'")
			cmd.Env, cmd.Dir = l.env, l.dir
			out, err := cmd.CombinedOutput()
			words := strings.Fields(c.completed)
			if got, _, _ := strings.Cut(strings.TrimSuffix(string(out), "\n"), "\t"); err != nil || strings.Count(string(out), "\n") != 1 || got != words[len(words)-1] {
				t.Errorf("%s: %q, want %q: %v", c.typed, out, words[len(words)-1], err)
			}
		}
	})
}

// completionLab has the program on PATH, and a file to complete the name of.
func completionLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	write(t, filepath.Join(l.dir, "some-file"), "")
	l.env = append(l.env, "PATH="+filepath.Dir(built)+":"+os.Getenv("PATH"), "TERM=dumb")
	return l
}

// unpacked is the root of the folder into which `make servers` unpacked a
// program of Debian's.
func unpacked(program string) string { return filepath.Dir(filepath.Dir(program)) }

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// shell is an interactive shell at a terminal of its own.
type shell struct {
	t        *testing.T
	terminal *os.File

	mu     sync.Mutex
	output strings.Builder
	seen   int // bytes of the output that await has passed
}

func newShell(t *testing.T, name string) *shell {
	t.Helper()
	l := completionLab(t)
	program := testserver.Require(t, name)
	args := map[string][]string{"bash": {"--norc", "--noprofile", "-i"}, "zsh": {"-f", "-i"}}[name]
	person, terminal := newTerminal(t)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env, cmd.Dir = slices.Clone(l.env), l.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s := &shell{t: t, terminal: person}
	go s.read()
	if modules, err := filepath.Glob(filepath.Join(unpacked(program), "usr/lib/*/zsh/*")); name == "zsh" && err == nil && len(modules) == 1 {
		functions := filepath.Join(unpacked(program), "usr/share/zsh/functions")
		s.enter(fmt.Sprintf("module_path=(%s); fpath=(%s %s/**/*(/))", modules[0], functions, functions))
	}
	return s
}

// read collects what the shell writes, until the terminal is closed.
func (s *shell) read() {
	part := make([]byte, 4096)
	for {
		n, err := s.terminal.Read(part)
		s.mu.Lock()
		s.output.Write(part[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *shell) send(keys string) {
	s.t.Helper()
	_, err := s.terminal.WriteString(keys)
	must(s.t, err)
}

func (s *shell) enter(line string) { s.send(line + "\n") }

// await waits until the shell has written a text after the last one.
func (s *shell) await(text string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, fmt.Sprintf("the shell writes %q", text), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := s.output.String()
		i := strings.Index(all[s.seen:], text)
		if i < 0 {
			return fmt.Errorf("it wrote %q", all[s.seen:])
		}
		s.seen += i + len(text)
		return nil
	})
}
