package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// event is a line of `serve --output json`.
type event struct {
	Event                string
	Address, URL, Issuer string
	Reason               string
	Keys, Added, Dropped []string
	GraceEnds            map[string]time.Time `json:"grace_ends"`
}

// site is a running `oidc-publisher serve --output json`.
type site struct {
	*testserver.Process
	t *testing.T
	// base is where it listens, admin its private side, and ready its --ready-file.
	base, admin, ready string
}

// serve starts the program, which listens when this returns.
func (l *lab) serve(args ...string) *site {
	l.t.Helper()
	return l.serveAt(testserver.FreePort(l.t), nil, args...)
}

func (l *lab) serveAt(port int, env []string, args ...string) *site {
	l.t.Helper()
	public, private := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(l.t))
	s := &site{t: l.t, base: "http://" + public, admin: "http://" + private, ready: filepath.Join(l.t.TempDir(), "ready")}
	s.Process = l.background(s.admin+"/livez", env,
		append([]string{"serve", "--output", "json", "--listen", public, "--admin-listen", private, "--ready-file", s.ready}, args...)...)
	return s
}

// events returns the events of that name so far.
func (s *site) events(name string) (events []event) {
	for text := range strings.Lines(s.Output()) {
		var e event
		if json.Unmarshal([]byte(text), &e) == nil && e.Event == name {
			events = append(events, e)
		}
	}
	return events
}

// awaitEvent waits for the n-th event of that name.
func (s *site) awaitEvent(name string, n int) event {
	s.t.Helper()
	eventually(s.t, 30*time.Second, name, func() error {
		if got := len(s.events(name)); got < n {
			return fmt.Errorf("reported %d times, want %d:\n%s", got, n, s.Output())
		}
		return nil
	})
	return s.events(name)[n-1]
}

// get asks the public side.
func (s *site) get(path string) (*http.Response, string) {
	s.t.Helper()
	resp, err := http.Get(s.base + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(body)
}

func (s *site) answers(path string, want int) {
	s.t.Helper()
	if resp, body := s.get(path); resp.StatusCode != want {
		s.t.Errorf("%s: HTTP status %d, want %d: %s", path, resp.StatusCode, want, body)
	}
}

// adminAnswers asks the private side.
func (s *site) adminAnswers(path string, want int) string {
	s.t.Helper()
	resp, err := http.Get(s.admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		s.t.Errorf("%s: HTTP status %d, want %d: %v", path, resp.StatusCode, want, err)
	}
	return string(body)
}

// route leads an issuer's host to the site, as a proxy would that passes whole
// paths on.
func (l *lab) route(host string, s *site) { l.internet.Route(host, fake.Upstream(s.base)) }

func readyFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
