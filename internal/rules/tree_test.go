package rules

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"oidc-publisher/internal/testserver"
)

// forbidden is what no file may contain. Each pattern is written so that it
// doesn't match itself.
var forbidden = []struct {
	reason  string
	pattern *regexp.Regexp
	files   *regexp.Regexp
	except  *regexp.Regexp
}{
	{
		reason:  "a path of the machine that it was written on",
		pattern: regexp.MustCompile(`(?:^|[^\w.$~}])/(?:root|home|Users)/\w`),
	},
	{
		reason:  "work that belongs into an issue",
		pattern: regexp.MustCompile(`\b(?:TODO|FIXME)\b`),
		except:  regexp.MustCompile(`^internal/rules/|go\.sum$`),
	},
	{
		reason:  "a test may skip through internal/testserver only, which fails where servers are required",
		pattern: regexp.MustCompile(`\.Skip\w{0,3}\(`),
		files:   regexp.MustCompile(`\.go$`),
		except:  regexp.MustCompile(`^internal/testserver/`),
	},
	{
		reason:  "an unbounded read: read from an io.LimitReader, or through internal/httpx",
		pattern: regexp.MustCompile(`\bio\.ReadAll\((?:[^i]|i[^o])`),
		files:   regexp.MustCompile(`\.go$`),
		except:  regexp.MustCompile(`_test\.go$|^internal/(fake|testserver)/|^backends/backendtest/`),
	},
	{
		reason:  "a flag is read once, and never written",
		pattern: regexp.MustCompile(`\bc\.Set\(`),
		files:   regexp.MustCompile(`^cmd/.*\.go$`),
	},
	{
		reason:  "the address of somebody's package mirror",
		pattern: regexp.MustCompile(`"resolved"\s*:`),
		files:   regexp.MustCompile(`package-lock\.json$`),
	},
}

// faultsOf returns one line for each forbidden thing in a file.
func faultsOf(name, content string) []string {
	var faults []string
	for _, f := range forbidden {
		if f.files != nil && !f.files.MatchString(name) || f.except != nil && f.except.MatchString(name) {
			continue
		}
		if found := f.pattern.FindString(content); found != "" {
			faults = append(faults, name+": "+strings.TrimSpace(found)+": "+f.reason)
		}
	}
	return faults
}

func TestTree(t *testing.T) {
	const root = "../.."
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		testserver.Missing(t, "git ls-files: "+err.Error())
	}
	read := 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, but not from the index yet
		}
		if err != nil {
			t.Error(err)
			continue
		}
		read++
		for _, fault := range faultsOf(name, string(content)) {
			t.Error(fault)
		}
	}
	if read < 10 {
		t.Errorf("git ls-files found %d files: this test sees nothing", read)
	}
}

func TestFaultsOf(t *testing.T) {
	for _, c := range []struct {
		name, content string
		fault         bool
	}{
		{"a.go", `"` + "/home/" + `ada/src"`, true},
		{"a.md", "in " + "/root/" + "x", true},
		{"a.md", "https://example.com/home/page and $" + "HOME/root/x", false},
		{"a.go", "// TO" + "DO: later", true},
		{"a.go", "mastodon", false},
		{"a_test.go", "t.Skip" + "(reason)", true},
		{"a_test.go", "fs.SkipDir", false},
		{"internal/testserver/process.go", "t.Skip" + "f(reason)", false},
		{"a.go", "io.ReadAll(resp.Body)", true},
		{"a.go", "io.ReadAll(in)", true},
		{"a.go", "io.ReadAll(io.LimitReader(in, 1))", false},
		{"a_test.go", "io.ReadAll(in)", false},
		{"cmd/a/a.go", `c.Set("issuer", url)`, true},
		{"cmd/a/a.go", `f.Set(value)`, false},
		{"testdata/servers/package-lock.json", `"resolved": "x"`, true},
	} {
		if faults := faultsOf(c.name, c.content); (len(faults) > 0) != c.fault {
			t.Errorf("%s with %q: got %q", c.name, c.content, faults)
		}
	}
}
