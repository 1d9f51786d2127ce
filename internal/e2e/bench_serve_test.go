//go:build figures

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

const (
	benchRounds  = 5
	benchSeconds = 4
	// bareShare is how many of the requests of a bare net/http server serve
	// answers at least.
	bareShare = 0.85
	// One core for the server, the other for who asks.
	serverCore, clientCore = "0", "1"
)

// A contender serves the two documents of a directory, in plain HTTP and with
// TLS, as a person who knows it would have it do that.
type contender struct {
	name string
	// start returns the command that listens on the port; cert and key are
	// empty for plain HTTP.
	start func(b *bench, port int, cert, key string) testserver.Command
	// noTLS is set for what does not speak it.
	noTLS bool
}

var contenders = []contender{
	{name: "oidc-publisher serve", start: (*bench).ours},
	{name: "bare net/http", start: (*bench).bare},
	{name: "nginx, tuned", start: (*bench).nginxTuned},
	{name: "nginx, as Debian has it", start: (*bench).nginxStock},
	{name: "caddy", start: (*bench).caddy},
	{name: "python3 -m http.server", start: (*bench).python, noTLS: true},
}

type bench struct {
	t         *testing.T
	docs, dir string
}

// TestServeFigures measures how fast and how large each server of the same two
// documents is, on one core, with kept connections, the servers taking turns.
func TestServeFigures(t *testing.T) {
	l := newLab(t)
	b := &bench{t: t, docs: filepath.Join(l.dir, "docs"), dir: l.dir}
	_, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: "https://issuer.example.com", Algorithm: "RS256"})
	l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", b.docs, "--no-verify")
	cert, certKey := b.certificate()
	for _, kind := range []struct{ name, scheme, cert, key string }{
		{"plain HTTP", "http", "", ""},
		{"TLS", "https", cert, certKey},
	} {
		t.Run(kind.name, func(t *testing.T) { b.in(t).compare(kind.scheme, kind.cert, kind.key) })
	}
}

func (b *bench) in(t *testing.T) *bench { return &bench{t, b.docs, b.dir} }

// score is what the rounds of one contender gave.
type score struct {
	perSecond, p99 []float64 // requests, milliseconds
	resident, peak float64   // MiB
}

func (b *bench) compare(scheme, cert, key string) {
	urls, pids := map[string]string{}, map[string]int{}
	scores := map[string]*score{}
	for _, c := range contenders {
		if cert != "" && c.noTLS {
			continue
		}
		port := testserver.FreePort(b.t)
		url := fmt.Sprintf("%s://127.0.0.1:%d/%s", scheme, port, discovery.JWKSPath)
		cmd := c.start(b, port, cert, key)
		cmd.Name, cmd.Args, cmd.Path = c.name, append([]string{"-c", serverCore, cmd.Path}, cmd.Args...), testserver.Require(b.t, "taskset")
		cmd.Ready = answers(url)
		urls[c.name], pids[c.name] = url, testserver.Start(b.t, cmd).Pid()
		scores[c.name] = &score{}
	}
	for range benchRounds {
		for _, c := range contenders {
			if url, ok := urls[c.name]; ok {
				b.round(scores[c.name], url)
			}
		}
	}
	ours := median(scores[contenders[0].name].perSecond)
	var shares []float64 // the two are measured one after the other in each round
	for i, perSecond := range scores[contenders[0].name].perSecond {
		shares = append(shares, perSecond/scores[contenders[1].name].perSecond[i])
	}
	if share := median(shares); share < bareShare {
		b.t.Errorf("%.2f of the requests of a bare server, want %.2f", share, bareShare)
	}
	b.t.Logf("%-24s %12s %10s %12s %14s %10s", "", "requests/s", "ours is", "99 % within", "resident after", "at most")
	for _, c := range contenders {
		s, ok := scores[c.name]
		if !ok {
			continue
		}
		s.resident, s.peak = memoryOf(b.t, pids[c.name])
		b.t.Logf("%-24s %12.0f %9.2fx %9.2f ms %10.1f MiB %6.1f MiB", c.name, median(s.perSecond), ours/median(s.perSecond), median(s.p99), s.resident, s.peak)
	}
}

// answers waits for the keys, whatever the certificate.
func answers(url string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // only asks whether it is there
	}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: HTTP status %d", url, resp.StatusCode)
		}
		return nil
	}
}

var (
	wrkPerSecond = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkP99       = regexp.MustCompile(`\s99%\s+([\d.]+)(us|ms|s)\b`)
	wrkRefused   = regexp.MustCompile(`Non-2xx.*`)
)

func (b *bench) round(s *score, url string) {
	b.t.Helper()
	wrk := exec.CommandContext(b.t.Context(), "taskset", "-c", clientCore, testserver.Require(b.t, "wrk"),
		"-t1", "-c32", "-d", strconv.Itoa(benchSeconds)+"s", "--latency", url)
	out, err := wrk.CombinedOutput()
	perSecond, p99 := wrkPerSecond.FindSubmatch(out), wrkP99.FindSubmatch(out)
	if err != nil || perSecond == nil || p99 == nil || wrkRefused.Match(out) {
		b.t.Fatalf("wrk %s: %v\n%s", url, err, out)
	}
	scale := map[string]float64{"us": 0.001, "ms": 1, "s": 1000}[string(p99[2])]
	s.perSecond = append(s.perSecond, number(b.t, perSecond[1]))
	s.p99 = append(s.p99, scale*number(b.t, p99[1]))
}

func number(t *testing.T, text []byte) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memoryOf is what a process and its children have of memory, now and at most,
// in MiB; what they share counts for each.
func memoryOf(t *testing.T, pid int) (resident, peak float64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "VmRSS" || name == "VmHWM" {
			mib := number(t, []byte(strings.Fields(value)[0])) / 1024
			if name == "VmRSS" {
				resident = mib
			} else {
				peak = mib
			}
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for child := range strings.FieldsSeq(string(children)) {
		r, p := memoryOf(t, int(number(t, []byte(child))))
		resident, peak = resident+r, peak+p
	}
	return resident, peak
}

func (b *bench) ours(port int, cert, key string) testserver.Command {
	args := []string{"serve", "--dir", b.docs, "--listen", fmt.Sprintf("127.0.0.1:%d", port)}
	if cert != "" {
		args = append(args, "--tls-cert", cert, "--tls-key", key)
	}
	return testserver.Command{Path: built, Args: args}
}

// bare is a net/http server without limits that writes the same answer.
func (b *bench) bare(port int, cert, key string) testserver.Command {
	source := b.file(b.t.TempDir(), "main.go", `package main

import (
	"net/http"
	"os"
)

func main() {
	body, err := os.ReadFile(os.Args[2])
	if err != nil {
		panic(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Accept-Ranges", "bytes")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cache-Control", "public, max-age=60")
		h.Set("Content-Type", "application/jwk-set+json")
		h.Set("Etag", "\"0123456789abcdef0123456789abcdef\"")
		h.Set("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(body)
	})
	if len(os.Args) > 3 {
		panic(http.ListenAndServeTLS(os.Args[1], os.Args[3], os.Args[4], handler))
	}
	panic(http.ListenAndServe(os.Args[1], handler))
}
`)
	binary := strings.TrimSuffix(source, ".go")
	if out, err := exec.CommandContext(b.t.Context(), testserver.Require(b.t, "go"), "build", "-o", binary, source).CombinedOutput(); err != nil {
		b.t.Fatalf("go build: %v\n%s", err, out)
	}
	args := []string{fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(b.docs, discovery.JWKSPath)}
	if cert != "" {
		args = append(args, cert, key)
	}
	return testserver.Command{Path: binary, Args: args}
}

// nginxTuned has no log, keeps files open and never ends a connection: as fast
// as it gets.
func (b *bench) nginxTuned(port int, cert, key string) testserver.Command {
	return b.nginx(port, cert, key, `access_log off;
  keepalive_requests 1000000000;
  open_file_cache max=100;`)
}

// nginxStock is what the nginx.conf of Debian's package does: it logs each
// request, opens the file for each, and ends a connection after 1,000.
func (b *bench) nginxStock(port int, cert, key string) testserver.Command {
	return b.nginx(port, cert, key, `access_log `+filepath.Join(b.t.TempDir(), "access.log")+`;
  gzip on;`)
}

func (b *bench) nginx(port int, cert, key, settings string) testserver.Command {
	listen := fmt.Sprintf("listen 127.0.0.1:%d;", port)
	if cert != "" {
		listen = fmt.Sprintf("listen 127.0.0.1:%d ssl; ssl_certificate %s; ssl_certificate_key %s;", port, cert, key)
	}
	home := b.t.TempDir()
	config := b.file(home, "nginx.conf", `daemon off;
user root;
worker_processes 1;
error_log stderr;
pid `+home+`/pid;
events { worker_connections 1024; }
http {
  `+settings+`
  sendfile on;
  tcp_nopush on;
  client_body_temp_path `+home+`/body;
  proxy_temp_path `+home+`/proxy;
  fastcgi_temp_path `+home+`/fastcgi;
  uwsgi_temp_path `+home+`/uwsgi;
  scgi_temp_path `+home+`/scgi;
  server {
    `+listen+`
    root `+b.docs+`;
    location = /`+discovery.ConfigurationPath+` { default_type application/json; add_header Cache-Control "public, max-age=300"; }
    location = /`+discovery.JWKSPath+` { default_type application/jwk-set+json; add_header Cache-Control "public, max-age=60"; }
  }
}
`)
	return testserver.Command{Path: testserver.Require(b.t, "nginx"), Args: []string{"-p", home, "-e", "stderr", "-c", config}}
}

func (b *bench) caddy(port int, cert, key string) testserver.Command {
	site, tls := fmt.Sprintf("http://:%d", port), ""
	if cert != "" {
		site, tls = fmt.Sprintf("https://:%d", port), "tls "+cert+" "+key
	}
	home := b.t.TempDir()
	config := b.file(home, "Caddyfile", `{
	admin off
	auto_https off
}
`+site+` {
	`+tls+`
	root * `+b.docs+`
	header Cache-Control "public, max-age=60"
	file_server
}
`)
	return testserver.Command{
		Path: testserver.Require(b.t, "caddy"),
		Args: []string{"run", "--adapter", "caddyfile", "--config", config},
		Env:  []string{"HOME=" + home},
	}
}

func (b *bench) python(port int, _, _ string) testserver.Command {
	return testserver.Command{
		Path: testserver.Require(b.t, "python3"),
		Args: []string{"-m", "http.server", strconv.Itoa(port), "--bind", "127.0.0.1", "--directory", b.docs},
		Env:  []string{"HOME=" + b.dir},
	}
}

func (b *bench) file(dir, name, content string) string {
	b.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// certificate makes one for 127.0.0.1, of the kind that ACME servers give.
func (b *bench) certificate() (cert, key string) {
	b.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(90 * 24 * time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		b.t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		b.t.Fatal(err)
	}
	pemOf := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return b.file(b.dir, "cert.pem", pemOf("CERTIFICATE", signed)), b.file(b.dir, "key.pem", pemOf("PRIVATE KEY", encoded))
}
