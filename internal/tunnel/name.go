package tunnel

import (
	"bytes"
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
	// lineLimit is how much of a line of the server's text is looked at, in bytes.
	lineLimit = 1 << 10
	// shownLimit is how much of it a person gets to see, in runes.
	shownLimit = 200
	// namesLimit is how many URLs of one connection are taken note of.
	namesLimit = 16
	// quiet is how long the server says nothing before a line without an end
	// is taken for whole, and a likely URL for the one.
	quiet = time.Second
)

// speech is what the server says: lines for a person, and among them the URL
// under which the tunnel is public. It is an io.Writer that never blocks or
// fails, and may be written to from several goroutines.
type speech struct {
	// host is the server's: its own pages are not the tunnel.
	host string
	// line gets every line, cleaned. One of these functions is called at a time.
	line func(text string)
	// name gets each public URL once, and settled all of them when the server
	// has been quiet: some tell several for one tunnel.
	name    func(url string)
	settled func(urls []string)

	mu      sync.Mutex
	partial []byte
	likely  string
	told    []string
	agreed  int // how many of told were settled
	timer   *time.Timer
}

func (s *speech) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	if s.timer == nil {
		s.timer = time.AfterFunc(quiet, s.flush)
	} else {
		s.timer.Reset(quiet)
	}
	return len(p), nil
}

// flush is called when the server has been quiet, and when it says no more.
func (s *speech) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLine()
	if len(s.told) == 0 && s.likely != "" {
		s.tell(s.likely)
	}
	if len(s.told) > s.agreed {
		s.agreed = len(s.told)
		s.settled(slices.Clone(s.told))
	}
}

func (s *speech) endLine() {
	text := clean(s.partial)
	s.partial = s.partial[:0]
	if text == "" {
		return
	}
	s.line(shorten(text))
	switch found, sure := publicURL(text, s.host); {
	case sure:
		s.tell(found)
	case found != "":
		s.likely = found
	}
}

func (s *speech) tell(found string) {
	if len(s.told) < namesLimit && !slices.Contains(s.told, found) {
		s.told = append(s.told, found)
		s.name(found)
	}
}

// Escape sequences of terminals: CSI, OSC (to BEL, ST or the end), and others.
var escapes = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|[\\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\|$)|[ -/]*[0-~]?)")

// clean is a line as it may be shown on any terminal and written to any log.
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
	// What localhost.run and serveo say on the line of the tunnel's URL.
	phrases = []string{"tunneled with tls termination", "forwarding http traffic from"}
	// What else may stand on a line that names it and nothing else (sish: "HTTPS: …").
	labels = []string{"", "https", "url", "public url", "your url is", "your url"}
	// Words that make a URL a likely one.
	hints = []string{"tunnel", "forward", "public", "expos", "traffic", "your url", "available at"}
	// Names of pages to read or log in at.
	pages = []string{"www", "docs", "doc", "documentation", "help", "support", "status", "blog", "admin", "dashboard", "console", "login", "account", "accounts", "app", "api"}
)

// publicURL finds in a line the URL of a tunnel through a server: https and a
// name, nothing behind it, and not a page of the service's own. It is sure
// where the line has a known form.
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

// hostURL is a URL of only a name that could be a tunnel's, or "".
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
