package tunnel

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"
)

// What the services print, in short; the first is the longest known.
const localhostRun = "===============================================================================\r\n" +
	"Welcome to localhost.run!\r\n" +
	"Follow your favourite reverse tunnel at [https://twitter.com/localhost_run].\r\n" +
	"To set up and manage custom domains go to https://admin.localhost.run/\r\n" +
	"More details on custom domains at https://localhost.run/docs/custom-domains\r\n" +
	"To explore using localhost.run visit the documentation site: https://localhost.run/docs/\r\n" +
	"===============================================================================\r\n" +
	"** your connection id is 0, please mention it if you send me a message about an issue. **\r\n" +
	"authenticated as anonymous user\r\n" +
	"8beaa541ba3dc2.lhr.life tunneled with tls termination, https://8beaa541ba3dc2.lhr.life\r\n" +
	"create an account for a longer lasting domain name. see https://localhost.run/docs/forever-free/ for more information.\r\n"

func TestOutput(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name, server, text string
		want               string // each URL that is announced
	}{
		{"localhost.run", "localhost.run", localhostRun, "https://8beaa541ba3dc2.lhr.life"},
		{"serveo", "serveo.net", "\x1b[0;32mForwarding HTTP traffic from https://abc.serveo.net\x1b[0m\n\x1b[0;32mPress g to start a GUI session and ctrl-c to quit.\x1b[0m\n", "https://abc.serveo.net"},
		{"serveo of today", "serveo.net", "To request a particular subdomain, register your key at https://console.serveo.net/ssh/keys?add=SHA256%3Ax\nForwarding HTTP traffic from https://3e-49-37.serveousercontent.com", "https://3e-49-37.serveousercontent.com"},
		{"pinggy", "a.pinggy.io", "You are not authenticated.\nYour tunnel will expire in 60 minutes. Upgrade to Pinggy Pro to get unrestricted tunnels. https://dashboard.pinggy.io\n\nhttp://rnabc.a.free.pinggy.link\nhttps://rnabc.a.free.pinggy.link\n", "https://rnabc.a.free.pinggy.link"},
		{"sish", "ssi.sh", "Starting SSH Forwarding service for http:80. Forwarded connections can be accessed via the following methods:\r\nHTTP: http://foo.ssi.sh\r\nHTTPS: https://foo.ssi.sh\r\n", "https://foo.ssi.sh"},
		{"an arrow", "x.example", "Forwarding  https://foo.example.com -> http://localhost:8080\n", "https://foo.example.com"},
		{"the more certain one", "x.example", "your tunnel may be at https://maybe.example.com or so\nhttps://sure.example.com\n", "https://sure.example.com"},
		{"a port", "x.example", "https://foo.example.com:8443\n", "https://foo.example.com:8443"},
		{"the default port, capitals, a slash, a full stop", "x.example", "Public URL: HTTPS://Foo.Example.com:443/.\n", "https://foo.example.com"},
		{"split over its colours", "x.example", "https://\x1b[1mfoo\x1b[0m.example.com\n", "https://foo.example.com"},
		{"a window title around it", "x.example", "\x1b]0;https://title.example.com\x07https://foo.example.com\n", "https://foo.example.com"},
		{"no newline", "x.example", "https://foo.example.com", "https://foo.example.com"},
		{"again and again", "x.example", "https://foo.example.com\nhttps://foo.example.com\n", "https://foo.example.com"},
		{"another", "x.example", "https://foo.example.com\nhttps://bar.example.com\n", "https://foo.example.com https://bar.example.com"},
		{"after a huge line", "x.example", long + "\nhttps://foo.example.com\n", "https://foo.example.com"},

		{"nothing", "x.example", "", ""},
		{"a message of the day", "host.example.com", "Welcome to Ubuntu\n * Documentation:  https://help.ubuntu.com\n * Management:     https://landscape.canonical.com\n * Support:        https://ubuntu.com/pro\n", ""},
		{"the server's own page", "tunnel.example.com", "your tunnel: https://tunnel.example.com\nyour tunnel: https://example.com\n", ""},
		{"plain http", "x.example", "http://foo.example.com\n", ""},
		{"in a huge line", "x.example", long + "https://foo.example.com\n", ""},
		{"a path", "x.example", "https://foo.example.com/a\n", ""},
		{"a query", "x.example", "https://foo.example.com?a\nhttps://foo.example.com/?b\n", ""},
		{"a user", "x.example", "https://foo.example.com@evil.example\n", ""},
		{"an address", "x.example", "https://192.0.2.1\nhttps://[2001:db8::1]\n", ""},
		{"a bare name", "x.example", "https://localhost\n", ""},
		{"no name", "x.example", "https://\nhttps://.\nhttps://..example.com\nhttps://-a.example.com\n", ""},
		{"port 0, and one too large", "x.example", "https://foo.example.com:0\nhttps://foo.example.com:65536\n", ""},
		{"other letters", "x.example", "https://fоо.example.com\n", ""}, // Cyrillic
		{"a name too long", "x.example", "https://" + strings.Repeat("abcdefgh.", 30) + "example.com\n", ""},
		{"bytes", "x.example", "\xff\xfe\x00\x9b31m\xc3https\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 7, len(c.text) + 1} {
				if size == 1 && len(c.text) > 1<<16 {
					continue
				}
				if got := strings.Join(announcedIn(t, c.server, []byte(c.text), size), " "); got != c.want {
					t.Errorf("in pieces of %d: %q, want %q", size, got, c.want)
				}
			}
		})
	}
}

// TestQuiet: a line without an end is complete once nothing follows it.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var urls []string
		o := &output{line: func(string) {}, announced: func(string) {}, settled: func(settled []string) { urls = append(urls, settled...) }}
		stdout := o.stream(false)
		announced := func() string {
			synctest.Wait()
			o.mu.Lock()
			defer o.mu.Unlock()
			return strings.Join(urls, " ")
		}
		for _, part := range []string{"https://", "foo.", "example.com"} {
			stdout.Write([]byte(part))
			time.Sleep(quiet - time.Millisecond)
			if got := announced(); got != "" {
				t.Fatalf("too early: %q", got)
			}
		}
		time.Sleep(time.Millisecond)
		if got := announced(); got != "https://foo.example.com" {
			t.Errorf("got %q", got)
		}
	})
}

// TestStreams: a line of stderr does not tear one of stdout, and the last lines
// of stderr are kept, no more.
func TestStreams(t *testing.T) {
	o := &output{line: func(string) {}, announced: func(string) {}, settled: func([]string) {}}
	stdout, stderr := o.stream(false), o.stream(true)
	stdout.Write([]byte("https://foo."))
	for range 2 * errorLimit {
		stderr.Write([]byte("some error\n"))
	}
	stderr.Write([]byte("the last"))
	stdout.Write([]byte("example.com\n"))
	lines := o.end()
	if len(lines) != errorLimit || lines[errorLimit-1] != "the last" {
		t.Errorf("stderr is %q", lines)
	}
	if len(o.urls) != 1 || o.urls[0] != "https://foo.example.com" {
		t.Errorf("urls are %q", o.urls)
	}
}

// announcedIn prints a text in pieces and returns the URLs that were announced.
// What is logged must be fit for any terminal.
func announcedIn(t testing.TB, server string, text []byte, size int) (urls []string) {
	o := &output{host: server, announced: func(url string) { urls = append(urls, url) }}
	var settled []string
	o.settled = func(all []string) { settled = all }
	o.timer = time.NewTimer(time.Hour) // which calls nothing
	defer o.timer.Stop()
	o.line = func(line string) {
		if !utf8.ValidString(line) || utf8.RuneCountInString(line) > shownLimit+1 || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("logged is %q", line)
		}
	}
	stdout := o.stream(false)
	for rest := text; len(rest) > 0; {
		n := min(size, len(rest))
		if written, err := stdout.Write(rest[:n]); written != n || err != nil {
			t.Fatalf("Write: %d, %v", written, err)
		}
		if kept := len(o.streams[0].partial); kept > lineLimit {
			t.Fatalf("it keeps %d bytes", kept)
		}
		rest = rest[n:]
	}
	o.flush()
	o.flush()
	if strings.Join(settled, " ") != strings.Join(urls, " ") {
		t.Errorf("settled are %q, announced were %q", settled, urls)
	}
	return urls
}

// FuzzOutput: whatever a server prints, in whatever pieces, what is found is a
// URL that can be an issuer, and the same for all pieces; what is logged is
// clean; and what was found is found again in its plainest form.
func FuzzOutput(f *testing.F) {
	f.Add([]byte(localhostRun), 5)
	f.Add([]byte("\x1b]0;x\x07Forwarding HTTP traffic from https://a.serveo.net:1\r"), 1)
	f.Add([]byte("https://a.b\x1b[https://c.d"), 3)
	f.Add([]byte("your url is: https://A.b/."), 100)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		if size < 1 || len(text) > 8<<10 {
			return
		}
		whole := announcedIn(t, "tunnel.example", text, len(text)+1)
		if pieces := announcedIn(t, "tunnel.example", text, size); strings.Join(pieces, " ") != strings.Join(whole, " ") {
			t.Errorf("in pieces %q, else %q", pieces, whole)
		}
		for _, name := range whole {
			if hostURL(name, "tunnel.example") != name {
				t.Errorf("%q is not a public URL", name)
			}
			if again, sure := publicURL(name, "tunnel.example"); again != name || !sure {
				t.Errorf("%q is found again as %q", name, again)
			}
		}
	})
}
