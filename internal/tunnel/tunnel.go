package tunnel

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
)

// Config is the configuration of a Tunnel. Options may be empty.
type Config struct {
	Server Server
	Bind   Bind
	// Target is the local address, HOST:PORT, to which connections are forwarded.
	Target string
	// Options are options of ssh, KEY=VALUE, that CheckOption accepts.
	Options []string
	// Session opens a session and reads the public URL in it. Without a session
	// ssh only forwards, for a public URL that is known.
	Session bool
	// Check waits until there are documents, reads them at the public issuer,
	// and returns nil if they are the documents of this server.
	Check func(context.Context) error
	Log   *slog.Logger
}

const (
	firstWait   = 500 * time.Millisecond
	longestWait = 15 * time.Second
	// portRefusals is how often a server may refuse the port that it chose itself
	// before it is asked to choose again: it may still hold the lost connection.
	portRefusals = 3
	// stopTime is how long ssh may take to end before it is killed.
	stopTime = 3 * time.Second
	// firstCheck and longestCheck are the shortest and longest times between two
	// checks of the public documents. checkTime is how long the checks may fail
	// before that is logged.
	firstCheck   = 200 * time.Millisecond
	longestCheck = 15 * time.Second
	checkTime    = 15 * time.Second
	// logLimit bounds how many lines of each ssh are logged.
	logLimit = 40
)

// Tunnel keeps ssh running.
type Tunnel struct {
	config    Config
	ssh       string
	failures  *service.Failures
	announced chan struct{} // closed once url is known
	ended     chan struct{} // closed once Run has returned

	mu sync.Mutex
	// running is set while ssh runs, checked once the public documents were read
	// since it started.
	running, checked bool
	// forwarded is set once an ssh has forwarded.
	forwarded bool
	// port is the port that the server chose, or 0, and refused how often in a
	// row it refused to forward.
	port, refused int
	// wasUp is set once checked was set for the first time.
	wasUp bool
	// url is the first URL that the server announced, and moved the one that it
	// announces instead now.
	url, moved string
	err        error
}

// New looks for the ssh program; Run starts it.
func New(c Config) (*Tunnel, error) {
	ssh, err := find()
	if err != nil {
		return nil, err
	}
	return &Tunnel{config: c, ssh: ssh, failures: service.NewFailures(c.Log), announced: make(chan struct{}), ended: make(chan struct{})}, nil
}

// Run keeps the tunnel up until ctx ends, and then returns nil. It returns an
// error if the first ssh fails for a reason that lasts or before it forwards.
func (t *Tunnel) Run(ctx context.Context) error {
	defer close(t.ended)
	backoff := retry.Backoff{First: firstWait, Longest: longestWait}
	for first := true; ; first = false {
		wasUp, lasting, err := t.connect(ctx, first)
		switch {
		case ctx.Err() != nil:
			return nil
		case wasUp:
			backoff.Reset()
		case first && (lasting || !t.wasOpen()):
			t.mu.Lock()
			defer t.mu.Unlock()
			t.err = err
			return err
		}
		// ctx may end soon too: an interrupt at the terminal ends both programs.
		if !retry.Sleep(ctx, backoff.Next()) {
			return nil
		}
		t.failures.Report("tunnel", err, "server", t.config.Server)
	}
}

// connect runs ssh until it ends. It reports whether the public documents were
// read during that time, and whether another attempt would fail in the same
// way.
func (t *Tunnel) connect(ctx context.Context, first bool) (wasUp, lasting bool, err error) {
	level := slog.LevelDebug
	if first {
		level = slog.LevelInfo
	}
	out, config := t.output(ctx, level), t.config
	config.Bind = t.bind()
	cmd := exec.CommandContext(ctx, t.ssh, config.arguments(inForeground())...) //nolint:gosec // arguments that ssh could read as options were refused
	cmd.Stdout, cmd.Stderr = out.stream(false), out.stream(true)
	cmd.Cancel, cmd.WaitDelay = func() error { return end(cmd) }, stopTime
	endWithParent(cmd)
	if t.config.Session {
		// It stays open: its end would end the session.
		if _, err := cmd.StdinPipe(); err != nil {
			return false, true, err
		}
	}
	// Linux ends ssh with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return false, true, err
	}
	t.start()
	checking, stopChecking := context.WithCancel(ctx)
	var check sync.WaitGroup
	check.Go(func() { t.check(checking) })
	err = cmd.Wait()
	stopChecking()
	check.Wait()
	stderr := out.end() // before stop: its last line may be of the forward
	wasUp = t.stop(stderr)
	lasting, err = config.explain(err, stderr)
	return wasUp, lasting, err
}

// end asks ssh to end.
func end(cmd *exec.Cmd) error {
	if cmd.Process.Signal(syscall.SIGTERM) != nil { // Windows has no signals
		return cmd.Process.Kill()
	}
	return nil
}

func (t *Tunnel) output(ctx context.Context, level slog.Level) *output {
	lines := 0
	return &output{
		host: t.config.Server.Host,
		line: func(text string) {
			t.readPort(text)
			if lines++; lines <= logLimit {
				t.config.Log.Log(ctx, level, "ssh: "+text)
			}
		},
		forwards:  t.forwards,
		announced: t.announce,
		settled:   t.settle,
	}
}

// announce keeps the first public URL that the server announces.
func (t *Tunnel) announce(url string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.url == "" {
		t.url = url
		close(t.announced)
	}
}

// settle compares the URLs that one ssh printed with the first one.
func (t *Tunnel) settle(urls []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !slices.Contains(urls, t.url):
		t.moved = urls[0]
		t.config.Log.Error("THE TUNNEL'S PUBLIC URL HAS CHANGED: relying parties no longer reach the issuer. Its documents stay as they are; give the cluster the new issuer (--service-account-issuer="+t.moved+") and start again",
			"before", t.url, "now", t.moved)
	case t.moved != "":
		t.moved = ""
		t.config.Log.Info("the tunnel has its public URL again", "url", t.url)
	}
}

// check reads the public documents until they are those of this server.
func (t *Tunnel) check(ctx context.Context) {
	began := time.Now()
	backoff := retry.Backoff{First: firstCheck, Longest: longestCheck}
	for {
		err := t.config.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			t.setChecked()
			return
		}
		if time.Since(began) > checkTime {
			t.failures.Report("public check", err, "server", t.config.Server)
		}
		if !retry.Sleep(ctx, backoff.Next()) {
			return
		}
	}
}

func (t *Tunnel) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = true
}

func (t *Tunnel) stop(stderr []string) (wasUp bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wasUp = t.checked
	if forwardRefused(stderr) {
		t.refused++
	}
	t.running, t.checked = false, false
	return wasUp
}

func (t *Tunnel) setChecked() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.wasUp {
		t.config.Log.Info("tunnel up", "server", t.config.Server, "bind", Bind{t.config.Bind.Address, cmp.Or(t.port, t.config.Bind.Port)})
	}
	t.checked, t.wasUp = true, true
	t.failures.Report("public check", nil, "server", t.config.Server)
	t.failures.Report("tunnel", nil, "server", t.config.Server)
}

// wasOpen reports whether the tunnel was open once: it forwarded or, where the
// server announces the public URL, that URL is known.
func (t *Tunnel) wasOpen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config.Session {
		return t.url != ""
	}
	return t.forwarded
}

var chosenPort = regexp.MustCompile(`^Allocated port (\d+) for remote forward`)

// forwards counts an ssh that forwards.
func (t *Tunnel) forwards() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forwarded, t.refused = true, 0
}

// readPort finds in a line of ssh the port that the server chose.
func (t *Tunnel) readPort(line string) {
	found := chosenPort.FindStringSubmatch(line)
	if found == nil || t.config.Bind.Port != 0 {
		return
	}
	if port, err := strconv.ParseUint(found[1], 10, 16); err == nil && port != 0 {
		t.choose(int(port))
	}
}

// choose keeps the port that the server chose.
func (t *Tunnel) choose(port int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, now := Bind{t.config.Bind.Address, t.port}, Bind{t.config.Bind.Address, port}
	if t.port != 0 && t.port != port {
		t.config.Log.Error("the server listens at another port now: what forwards to it must be changed", "before", before, "now", now)
	}
	t.port = port
}

// bind is where the next ssh asks the server to listen: at the port that it
// chose before, unless it keeps refusing that.
func (t *Tunnel) bind() Bind {
	t.mu.Lock()
	defer t.mu.Unlock()
	bind := t.config.Bind
	if bind.Port == 0 && t.refused < portRefusals {
		bind.Port = t.port
	}
	return bind
}

// URL waits until the server announces the tunnel's public URL, at most until
// ctx or Run ends. It does not change if a later connection gets another URL,
// which is logged as an error.
func (t *Tunnel) URL(ctx context.Context) (string, error) {
	var err error
	select {
	case <-t.announced:
	case <-t.ended:
		err = fmt.Errorf("%s announced no public URL: name it with --issuer", t.config.Server)
	case <-ctx.Done():
		err = fmt.Errorf("%s announced no public URL (%w): name it with --issuer", t.config.Server, ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.url != "" { // the URL may have been announced at the end
		return t.url, nil
	}
	if t.err != nil {
		err = t.err
	}
	return "", err
}

// Unready returns why relying parties can't reach the issuer, or "".
func (t *Tunnel) Unready() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.running:
		return "the tunnel is down: relying parties can't reach the issuer"
	case t.moved != "":
		return "the tunnel's public URL is no longer the issuer's: relying parties can't reach the issuer"
	case !t.checked:
		return "the documents have not been read through the tunnel yet"
	}
	return ""
}
