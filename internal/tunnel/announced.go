package tunnel

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// lineLimit bounds how much of a line is read, in bytes.
	lineLimit = 1 << 10
	// shownLimit bounds how much of a line is logged, in runes.
	shownLimit = 200
	// urlLimit bounds how many URLs of one connection are kept.
	urlLimit = 16
	// errorLimit bounds how many lines of stderr are kept.
	errorLimit = 20
	// quiet is how long ssh must print nothing before an unfinished line counts
	// as complete and a likely URL counts as the tunnel's.
	quiet = time.Second
)

// output reads what one run of ssh prints: lines to log, and among them the
// public URL of the tunnel.
type output struct {
	// host is the name of the server: URLs of its own pages are not the
	// tunnel's.
	host string
	// line gets every line, cleaned. These functions are called one at a time.
	line func(text string)
	// forwards is called once the server forwards.
	forwards func()
	// announced is called once with each public URL. settled is called with all
	// of them once ssh has been quiet, because some services print several for
	// one tunnel.
	announced func(url string)
	settled   func(urls []string)

	mu      sync.Mutex
	streams []*stream
	likely  string
	urls    []string
	agreed  int // the number of urls that settled was called with
	stderr  []string
	timer   *time.Timer
}

// stream is one of ssh's two outputs. It never blocks or fails.
type stream struct {
	output   *output
	isStderr bool
	partial  []byte
}

// stream returns a writer for ssh's stdout or stderr.
func (o *output) stream(isStderr bool) io.Writer {
	s := &stream{output: o, isStderr: isStderr}
	o.streams = append(o.streams, s)
	return s
}

// Write splits what ssh prints into lines.
func (s *stream) Write(p []byte) (int, error) {
	o := s.output
	o.mu.Lock()
	defer o.mu.Unlock()
	for rest := p; len(rest) > 0; {
		end := bytes.IndexAny(rest, "\n\r")
		part := rest
		if end >= 0 {
			part = rest[:end]
		}
		s.partial = append(s.partial, part[:min(len(part), lineLimit-len(s.partial))]...)
		if end < 0 {
			break
		}
		s.endLine()
		rest = rest[end+1:]
	}
	if o.timer == nil {
		o.timer = time.AfterFunc(quiet, o.flush)
	} else {
		o.timer.Reset(quiet)
	}
	return len(p), nil
}

// flush treats unfinished lines as complete. It is called when ssh has been
// quiet and when it has ended.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.streams {
		s.endLine()
	}
	if len(o.urls) == 0 && o.likely != "" {
		o.announce(o.likely)
	}
	if len(o.urls) > o.agreed {
		o.agreed = len(o.urls)
		o.settled(slices.Clone(o.urls))
	}
}

// end returns the last lines of stderr once ssh has ended.
func (o *output) end() []string {
	o.flush()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
	}
	return o.stderr
}

func (s *stream) endLine() {
	o, text := s.output, logPlace.ReplaceAllString(clean(s.partial), "")
	s.partial = s.partial[:0]
	if text == "" {
		return
	}
	if s.isStderr && strings.HasPrefix(text, "remote forward success ") {
		o.forwards()
		return
	}
	if s.isStderr {
		o.stderr = append(o.stderr[max(0, len(o.stderr)-errorLimit+1):], shorten(text))
	}
	o.line(shorten(text))
	switch found, sure := publicURL(text, o.host); {
	case sure:
		o.announce(found)
	case found != "":
		o.likely = found
	}
}

func (o *output) announce(found string) {
	if len(o.urls) < urlLimit && !slices.Contains(o.urls, found) {
		o.urls = append(o.urls, found)
		o.announced(found)
	}
}

// Escape sequences of terminals: CSI, OSC (to BEL, ST or the end), and others.
var escapes = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|[\\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\|$)|[ -/]*[0-~]?)")

// clean makes a line fit for any terminal and any log.
func clean(line []byte) string {
	printable := func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}
	return strings.TrimSpace(strings.Map(printable, string(escapes.ReplaceAll(line, nil))))
}

func shorten(text string) string {
	if runes := []rune(text); len(runes) > shownLimit {
		return string(runes[:shownLimit]) + "…"
	}
	return text
}

var (
	httpsURL = regexp.MustCompile(`(?i)https://[^\s"'<>()\[\]{}|\\^` + "`" + `,;]+`)
	label    = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	// Phrases that localhost.run and serveo print on the line of the tunnel's
	// URL.
	phrases = []string{"tunneled with tls termination", "forwarding http traffic from"}
	// Labels that may stand before the URL on a line of its own (sish: "HTTPS:
	// …").
	labels = []string{"", "https", "url", "public url", "your url is", "your url"}
	// Words that make a URL on the same line a likely one.
	hints = []string{"tunnel", "forward", "public", "expos", "traffic", "your url", "available at"}
	// Host names of pages to read or log in at.
	pages = []string{"www", "docs", "doc", "documentation", "help", "support", "status", "blog", "admin", "dashboard", "console", "login", "account", "accounts", "app", "api"}
)

// publicURL finds in a line the URL of a tunnel through a server: https, a name
// and no path, and not a page of the service itself. sure is set if the line
// has a known form.
func publicURL(line, server string) (found string, sure bool) {
	lower := strings.ToLower(line)
	for _, text := range httpsURL.FindAllString(line, -1) {
		address := hostURL(strings.TrimRight(text, ".:!?"), server)
		if address == "" {
			continue
		}
		around := strings.Trim(strings.ReplaceAll(lower, strings.ToLower(text), ""), " .:!>*-=|")
		if slices.Contains(labels, around) || slices.ContainsFunc(phrases, func(p string) bool { return strings.Contains(lower, p) }) {
			return address, true
		}
		if slices.ContainsFunc(hints, func(h string) bool { return strings.Contains(around, h) }) {
			found = address
		}
	}
	return found, false
}

// hostURL returns a URL that has only a name and could be a tunnel's, or "".
func hostURL(text, server string) string {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	all := strings.Split(host, ".")
	if len(host) > 253 || len(all) < 2 || net.ParseIP(host) != nil || slices.ContainsFunc(all, func(l string) bool { return !label.MatchString(l) }) {
		return ""
	}
	if slices.Contains(pages, all[0]) || host == strings.ToLower(server) || strings.HasSuffix(strings.ToLower(server), "."+host) {
		return ""
	}
	if u.Port() == "" || u.Port() == "443" {
		return "https://" + host
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return ""
	}
	return "https://" + host + ":" + u.Port()
}
