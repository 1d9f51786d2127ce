package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/testserver"
)

// watcher is a running `oidc-publisher watch`.
type watcher struct {
	*testserver.Process
	t      *testing.T
	status string // base URL
}

// watch starts the program and returns when it answers.
func (l *lab) watch(args ...string) *watcher { return l.watchWith(nil, args...) }

func (l *lab) watchWith(env []string, args ...string) *watcher {
	l.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(l.t))
	w := &watcher{t: l.t, status: "http://" + address}
	w.Process = l.background(w.status+"/livez", env, append([]string{"watch", "--admin-listen", address}, args...)...)
	return w
}

// eventually polls until there is no error any more, at most for so long.
func eventually(t *testing.T, atMost time.Duration, what string, check func() error) (took time.Duration) {
	t.Helper()
	return poll(t, 5*time.Millisecond, atMost, what, check)
}

func poll(t *testing.T, each, atMost time.Duration, what string, check func() error) (took time.Duration) {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(each)
	defer tick.Stop()
	for {
		err := check()
		took = time.Since(began)
		if err == nil {
			return took
		}
		if took > atMost {
			t.Fatalf("%s: not within %v: %v", what, atMost, err)
		}
		<-tick.C
	}
}

// get asks the watcher itself.
func (w *watcher) get(path string) (status int, body string, err error) {
	resp, err := http.Get(w.status + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

func (w *watcher) answers(path string, want int) error {
	status, body, err := w.get(path)
	if err == nil && status != want {
		err = fmt.Errorf("%s: HTTP status %d: %s", path, status, strings.TrimSpace(body))
	}
	return err
}

func (w *watcher) ready() {
	w.t.Helper()
	eventually(w.t, 30*time.Second, "ready", func() error { return w.answers("/readyz", http.StatusOK) })
}

// alive requires that it runs and that /livez answers 200.
func (w *watcher) alive() {
	w.t.Helper()
	if err := w.answers("/livez", http.StatusOK); err != nil {
		w.t.Fatal(err)
	}
}

// metric is the sum over a metric's series that have these labels, given as
// name=value. There must be one: a misspelled name would otherwise be 0.
func (w *watcher) metric(name string, labels ...string) float64 {
	w.t.Helper()
	sum, series := w.metricSoFar(name, labels...)
	if series == 0 {
		w.t.Fatalf("there is no metric %s with %q", name, labels)
	}
	return sum
}

// metricSoFar is metric for one that may have no series yet.
func (w *watcher) metricSoFar(name string, labels ...string) (sum float64, series int) {
	w.t.Helper()
	_, body, err := w.get("/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	for text := range strings.Lines(body) {
		left, value, _ := strings.Cut(strings.TrimSpace(text), " ")
		found, values, _ := strings.Cut(strings.TrimSuffix(left, "}"), "{")
		has := strings.Split(strings.ReplaceAll(values, `"`, ""), ",")
		if found != name || slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		sum += number
		series++
	}
	return sum, series
}

// fetches waits for so many more fetches from the cluster, successful or not.
func (w *watcher) fetches(more int) {
	w.t.Helper()
	before := w.metric("oidc_publisher_fetches_total")
	poll(w.t, 100*time.Millisecond, 2*time.Minute, "fetches", func() error {
		if now := w.metric("oidc_publisher_fetches_total"); now < before+float64(more) {
			return fmt.Errorf("%v of %v", now-before, more)
		}
		return nil
	})
}

// line is one record of the log.
type line struct{ Level, Msg, Error, Target, Written, Added string }

// log returns the records whose message is this one, or all.
func (w *watcher) log(msg string) (lines []line) {
	w.t.Helper()
	for text := range strings.Lines(w.Output()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			continue // the oldest may be cut
		}
		if msg == "" || l.Msg == msg {
			lines = append(lines, l)
		}
	}
	return lines
}

// failures are the records of what failed.
func (w *watcher) failures() (lines []line) {
	w.t.Helper()
	for _, l := range w.log("") {
		if strings.HasSuffix(l.Msg, " failed") {
			lines = append(lines, l)
		}
	}
	return lines
}

// recoveries is the number of records of what recovered.
func (w *watcher) recoveries() (n int) {
	w.t.Helper()
	for _, l := range w.log("") {
		if strings.HasSuffix(l.Msg, " recovered") {
			n++
		}
	}
	return n
}

// logs waits for a record.
func (w *watcher) says(msg, of string) {
	w.t.Helper()
	eventually(w.t, 30*time.Second, "the log says "+msg+" of "+of, func() error {
		if !slices.ContainsFunc(w.log(msg), func(l line) bool { return strings.Contains(l.Target, of) }) {
			return fmt.Errorf("it says\n%s", w.Output())
		}
		return nil
	})
}

// holds checks that exactly these keys are public in a directory.
func holds(dir string, ids ...string) func() error {
	want := sorted(slices.Clone(ids)...)
	return func() error {
		body, err := os.ReadFile(filepath.Join(dir, discovery.JWKSPath))
		if err != nil {
			return err
		}
		return wantKeys(body, want)
	}
}

// shows is holds for what an issuer answers.
func (l *lab) shows(issuer string, ids ...string) func() error {
	want := sorted(slices.Clone(ids)...)
	return func() error {
		ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/"+discovery.JWKSPath, nil)
		if err != nil {
			return err
		}
		resp, err := l.internet.Client().Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("HTTP status %d: %s", resp.StatusCode, bytes.TrimSpace(body))
		}
		if err != nil {
			return err
		}
		return wantKeys(body, want)
	}
}

func wantKeys(body []byte, want []string) error {
	keys, err := discovery.ParseKeySet(body)
	if err != nil {
		return err
	}
	if got := sorted(keys.IDs()...); !slices.Equal(got, want) {
		return fmt.Errorf("public are %v, want %v", got, want)
	}
	return nil
}

func (w *watcher) signal(s syscall.Signal) {
	w.t.Helper()
	if err := w.Signal(s); err != nil {
		w.t.Fatal(err)
	}
}
