package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/testserver"
)

// ask runs another program and returns its output.
func (l *lab) ask(stdin string, name string, args ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, testserver.Require(l.t, name), args...)
	cmd.Dir, cmd.Stdin = l.dir, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// TestServeCurl: another client gets the documents, and asks again with what it
// got.
func TestServeCurl(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(watched(labIssuer))
	s := l.serve("--kubeconfig", kubeconfig, "--verify-interval", "0")
	s.awaitEvent("serving", 1)
	_, want := s.get(labKeys)
	url := s.base + labKeys
	if got := l.ask("", "curl", "-sS", "--fail", url); got != want {
		t.Errorf("curl: %s", got)
	}
	if got := l.ask("", "curl", "-sS", "--fail", "--compressed", url); got != want {
		t.Errorf("curl --compressed: %s", got)
	}
	if got := l.ask("", "curl", "-sS", "--fail", "--head", url); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, fmt.Sprintf("Content-Length: %d\r\n", len(want))) {
		t.Errorf("curl --head: %s", got)
	}
	status := []string{"-sS", "-o", "again", "-w", "%{http_code}"}
	l.ask("", "curl", "-sS", "--etag-save", "etag", "-o", "first", url)
	if got := l.ask("", "curl", append(status, "--etag-compare", "etag", url)...); got != "304" {
		t.Errorf("with the tag: %s", got)
	}
	l.ask("", "curl", "-sS", "-R", "-o", "first", url)
	if got := l.ask("", "curl", append(status, "-z", "first", url)...); got != "304" {
		t.Errorf("with the time: %s", got)
	}
	for path, want := range map[string]string{"/cluster-a/x/../openid/v1/jwks": "404", "/cluster-a/openid/v1/jwks%00": "404", "//cluster-a/openid/v1/jwks": "404", labKeys + "?x": "200"} {
		if got := l.ask("", "curl", append(status, "--path-as-is", s.base+path)...); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestServeOpenSSL: another TLS implementation agrees on the certificate, the
// version and HTTP/2.
func TestServeOpenSSL(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(watched(labIssuer))
	l.ask("", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "tls.key", "-out", "tls.crt",
		"-days", "1", "-subj", "/CN=issuer", "-addext", "subjectAltName=DNS:issuer.example.com")
	s := l.serve("--kubeconfig", kubeconfig, "--verify-interval", "0", "--tls-cert", "tls.crt", "--tls-key", "tls.key")
	s.awaitEvent("serving", 1)
	address := strings.TrimPrefix(s.base, "http://")
	connect := []string{"s_client", "-connect", address, "-servername", "issuer.example.com", "-CAfile", "tls.crt", "-verify_return_error", "-verify_hostname", "issuer.example.com"}
	for _, c := range []struct{ args, says []string }{
		{[]string{"-tls1_3", "-alpn", "h2,http/1.1"}, []string{"TLSv1.3", "ALPN protocol: h2", "Verify return code: 0 (ok)"}},
		{[]string{"-tls1_2", "-alpn", "http/1.1"}, []string{"TLSv1.2", "ALPN protocol: http/1.1", "Verify return code: 0 (ok)"}},
	} {
		got := l.ask("", "openssl", append(connect, c.args...)...)
		for _, says := range c.says {
			if !strings.Contains(got, says) {
				t.Errorf("openssl %v does not print %q:\n%s", c.args, says, got)
			}
		}
	}
	got := l.ask("GET "+labKeys+" HTTP/1.1\r\nHost: issuer.example.com\r\nConnection: close\r\n\r\n", "openssl", append(connect, "-quiet", "-ign_eof")...)
	if !strings.Contains(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, `{"keys":[`) {
		t.Errorf("openssl got %s", got)
	}
}

// TestServeBehindNginx: a caching proxy keeps what it got for as long as it
// may, asks again with the tag, and goes on while the server is away.
func TestServeBehindNginx(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nginx := testserver.Require(t, "nginx")
	_, kubeconfig := l.embedded(watched(labIssuer))
	s := l.serve("--kubeconfig", kubeconfig, "--verify-interval", "0")
	s.awaitEvent("serving", 1)
	port := testserver.FreePort(t)
	config := filepath.Join(l.dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid nginx.pid; error_log stderr;
events {}
http {
  access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  proxy_cache_path cache keys_zone=issuer:1m;
  server {
    listen 127.0.0.1:%d;
    location / {
      proxy_pass %s; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache issuer; proxy_cache_revalidate on; proxy_cache_use_stale error timeout;
      add_header X-Cache $upstream_cache_status;
    }
  }
}`, port, s.base)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	front := fmt.Sprintf("http://127.0.0.1:%d", port)
	testserver.Start(t, testserver.Command{
		Name: "nginx", Path: nginx, Args: []string{"-p", l.dir, "-e", "stderr", "-c", config},
		Ready: testserver.HTTPReady(http.DefaultClient, front+"/x"),
	})
	proxied := &site{t: t, base: front}
	_, want := s.get(labKeys)
	for i, cache := range []string{"MISS", "HIT"} {
		resp, body := proxied.get(labKeys)
		if body != want || resp.Header.Get("X-Cache") != cache || resp.Header.Get("Cache-Control") != "public, max-age=60" {
			t.Errorf("request %d: %v, %s", i, resp.Header, body)
		}
	}
	s.Stop()
	if resp, body := proxied.get(labKeys); resp.StatusCode != http.StatusOK || body != want {
		t.Errorf("with the server away: %s, %s", resp.Status, body)
	}
}

// TestServeRotationUnderReaders: a client that reads the document and then the
// keys always gets keys that belong to it, and no request fails.
func TestServeRotationUnderReaders(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	s := l.serve("--kubeconfig", kubeconfig, "--interval", "1s", "--verify-interval", "0")
	s.awaitEvent("serving", 1)
	ctx, cancel := context.WithCancel(t.Context())
	var public sync.Map // key IDs that were seen once
	var all sync.WaitGroup
	var reads atomic.Int64
	client := &http.Client{Timeout: 10 * time.Second}
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := readPair(client, s.base, &public); err != nil {
					t.Error(err)
					return
				}
				reads.Add(1)
			}
		})
	}
	for i, algorithm := range []string{"RS256", "ES384", "ES256", "RS256"} {
		if _, err := api.Replace(algorithm); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		s.awaitEvent("keys_changed", i+1)
	}
	cancel()
	all.Wait()
	if reads.Load() < 100 {
		t.Errorf("only %d reads", reads.Load())
	}
}

// readPair reads both documents. A key that was public once stays public, as all
// are in their grace, and the document lists the algorithm of no key that is
// missing.
func readPair(client *http.Client, base string, public *sync.Map) error {
	var known []string
	public.Range(func(id, _ any) bool { known = append(known, id.(string)); return true })
	document, err := body(client, base+labConfiguration)
	if err != nil {
		return err
	}
	set, err := body(client, base+labKeys)
	if err != nil {
		return err
	}
	keys, err := discovery.ParseKeySet(set)
	if err != nil {
		return err
	}
	for _, id := range known {
		if _, there := keys.Lookup(id); !there {
			return fmt.Errorf("key %s was public and is missing", id)
		}
	}
	algorithms := map[string]bool{}
	for _, key := range keys.Keys() {
		public.Store(key.ID, true)
		algorithms[key.Algorithm] = true
	}
	for _, algorithm := range []string{"RS256", "ES256", "ES384"} {
		if bytes.Contains(document, []byte(algorithm)) && !algorithms[algorithm] {
			return fmt.Errorf("a torn pair: the document lists %s, and no key has it", algorithm)
		}
	}
	return nil
}

func body(client *http.Client, url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return out.Bytes(), nil
}

func (s *site) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// TestServeTerminates: SIGTERM ends it soon and with exit code 0, and the stale
// ready file of an earlier run is removed before there is a new one.
func TestServeTerminates(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ready := filepath.Join(l.dir, "ready")
	if err := os.WriteFile(ready, []byte("https://old.example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), built, "serve", "--kubeconfig", "none", "--issuer", labIssuer, "--listen", "127.0.0.1:0", "--ready-file", ready)
	var stdout bytes.Buffer
	stderr, err := os.Create(filepath.Join(l.dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = l.env, l.dir, &stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	logged := func() string { return readyFile(t, stderr.Name()) }
	eventually(t, 30*time.Second, "it waits", func() error {
		if !strings.Contains(logged(), "waiting") {
			return errors.New(logged())
		}
		return nil
	})
	if _, err := os.Stat(ready); err == nil {
		t.Error("the ready file of an earlier run is still there")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, logged())
	}
	if stdout.String() != labIssuer+"\n" {
		t.Errorf("stdout is %q, want the public URL alone", stdout.String())
	}
	if got := strings.Count(logged(), "waiting"); got != 1 {
		t.Errorf("it logs %d times what it waits for:\n%s", got, logged())
	}
}

// TestServeOutlivesReaders: a script that reads the first event and goes away
// does not end the server when there is a second.
func TestServeOutlivesReaders(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), built, "serve", "--kubeconfig", kubeconfig, "--issuer", labIssuer, "--listen", address, "--output", "json", "--interval", "1s", "--verify-interval", "0")
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = l.env, l.dir, writer, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || !strings.Contains(line, "listening") {
		t.Errorf("the first event is %q, %v", line, err)
	}
	reader.Close()
	id, err := api.Replace("ES256")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	eventually(t, 30*time.Second, "the new key", func() error {
		keys, err := body(client, "http://"+address+labKeys)
		if err == nil && !bytes.Contains(keys, []byte(id)) {
			err = errors.New("it is not there")
		}
		return err
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(stderr.String(), "write to standard output failed") {
		t.Errorf("it ends with %v and logs\n%s", err, &stderr)
	}
}
