package serve_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"oidc-publisher/internal/logtest"
	"oidc-publisher/internal/serve"
)

func fullSite(t testing.TB) *serve.Site {
	t.Helper()
	site := newSite()
	place(t, site, pair(t, pathIssuer, keyA, keyB))
	return site
}

// fetch makes one request, with a connection of its own.
func fetch(address string) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get("http://" + address + "/a/openid/v1/jwks")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	return nil
}

const (
	whole = "GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\n\r\n"
	body  = "POST /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow"
)

// incomplete are beginnings of requests that never end.
var incomplete = []string{"", "GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\nX-Slow: ", "P", body}

// TestSlowloris: 5,000 connections that never complete a request, and 1,000 that
// are idle after a response, do not stop the server.
func TestSlowloris(t *testing.T) {
	needFiles(t, 8000)
	address := run(t, fullSite(t), nil)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	crowd(t, func(text string) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		_, _ = io.WriteString(conn, text) // it may have been closed to make room
	}, func() error { return fetch(address) })
}

// crowd opens all of them, with requests in between.
func crowd(t *testing.T, dial func(text string), ask func() error) {
	t.Helper()
	for i := range 6000 {
		if i < 1000 {
			dial(whole)
		} else {
			dial(incomplete[i%len(incomplete)])
		}
		if i%100 != 99 {
			continue
		}
		if err := ask(); err != nil {
			t.Fatalf("after %d: %v", i+1, err)
		}
	}
	for range 20 {
		if err := ask(); err != nil {
			t.Errorf("with all of them: %v", err)
		}
	}
}

// TestSlowlorisTakesNoTime: no client waits until the slow ones are closed.
func TestSlowlorisTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := make(pipes)
		serveOn(t, listener, &serve.Server{Handler: fullSite(t), Log: slog.New(slog.DiscardHandler), Metrics: newMetrics()}, nil)
		connect := func(text string) net.Conn {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close() })
			listener <- far
			_, _ = io.WriteString(near, text) // it may have been closed to make room
			return near
		}
		crowd(t, func(text string) {
			conn := connect(text)
			go func() { _, _ = io.Copy(io.Discard, conn) }() // as a kernel takes in an answer
			time.Sleep(time.Millisecond)
		}, func() error {
			began := time.Now()
			conn := connect(whole)
			defer conn.Close()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return err
			}
			if took := time.Since(began); resp.StatusCode != http.StatusOK || took != 0 {
				return fmt.Errorf("HTTP status %d after %v", resp.StatusCode, took)
			}
			return nil
		})
	})
}

// needFiles fails the test unless the process may open n files.
func needFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < n {
		t.Fatalf("this test needs %d open files, and may have %d (%v): raise ulimit -n", n, limit.Cur, err)
	}
}

// TestRoom: a connection that is being served stays, and the one that has waited
// for longest is evicted.
func TestRoom(t *testing.T) {
	registry := prometheus.NewRegistry()
	server := &serve.Server{Handler: fullSite(t), Log: slog.New(slog.DiscardHandler), Metrics: serve.NewMetrics(registry), Room: 2}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, listener, server, nil)
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	oldest, kept := dial(), dial()
	awaitMetric(t, registry, "oidc_publisher_http_connections 2")
	dial()
	awaitMetric(t, registry, "oidc_publisher_http_connections_evicted_total 1")
	_ = oldest.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := oldest.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest connection is still there: %v", err)
	}
	if _, err := io.WriteString(kept, "GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(kept), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the younger one got no response: %v", err)
	}
	resp.Body.Close()
}

func awaitMetric(t *testing.T, registry *prometheus.Registry, line string) {
	t.Helper()
	name, want, _ := strings.Cut(line, " ")
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, err := testutil.GatherAndCount(registry, name)
		if err != nil || got == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		err = testutil.GatherAndCompare(registry, strings.NewReader(exposition(t, registry, name, want)), name)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// exposition is how the metric would look with that value.
func exposition(t *testing.T, registry *prometheus.Registry, name, value string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, family.GetHelp(), name, strings.ToLower(family.GetType().String()), name, value)
		}
	}
	t.Fatalf("no metric %s", name)
	return ""
}

// TestFilesRunOut: when the process has no file left for a new connection, one
// that waits is evicted.
func TestFilesRunOut(t *testing.T) {
	broken := &scarce{fail: make(chan error, 1)}
	var err error
	if broken.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	serveOn(t, broken, &serve.Server{Handler: fullSite(t), Log: slog.New(slog.DiscardHandler), Metrics: serve.NewMetrics(registry)}, nil)
	waiting, err := net.Dial("tcp", broken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	awaitMetric(t, registry, "oidc_publisher_http_connections 1")
	broken.fail <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	if err := fetch(broken.Addr().String()); err != nil {
		t.Error(err)
	}
	awaitMetric(t, registry, "oidc_publisher_http_connections_evicted_total 1")
}

// scarce fails once, and accepts that connection the next time.
type scarce struct {
	net.Listener
	fail chan error
	left net.Conn
}

func (s *scarce) Accept() (net.Conn, error) {
	if conn := s.left; conn != nil {
		s.left = nil
		return conn, nil
	}
	conn, err := s.Listener.Accept()
	select {
	case fail := <-s.fail:
		s.left = conn
		return nil, fail
	default:
		return conn, err
	}
}

// TestMissingBodies are not waited for: a client that announces a body and does
// not send it gets its response, and can be evicted.
func TestMissingBodies(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, listener, &serve.Server{Handler: fullSite(t), Log: slog.New(slog.DiscardHandler), Metrics: newMetrics(), Room: 2}, nil)
	for _, c := range []struct {
		request string
		status  int
	}{
		{"POST /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow", http.StatusMethodNotAllowed},
		{"GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", http.StatusOK},
		{"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nslow\r\n", http.StatusNotFound},
	} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // half of what it was given to send all
		if _, err := io.WriteString(conn, c.request); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != c.status {
			t.Fatalf("%.20q: %v, %v", c.request, resp, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Errorf("%.20q: %v", c.request, err)
		}
		if _, err := in.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("%.20q: the connection stays open: %v", c.request, err)
		}
		if err := fetch(listener.Addr().String()); err != nil {
			t.Errorf("%.20q: the next one: %v", c.request, err)
		}
	}
}

// pipes is a listener in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestTimeouts: a connection without a complete request, an idle one, and one
// whose client does not read the response are closed in time.
func TestTimeouts(t *testing.T) {
	const request = "GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		name, sends string
		// takes reads the response as the client does.
		takes func(t *testing.T, in *bufio.Reader)
		after time.Duration
	}{
		{"half a header", "GET /a/openid/v1/jwks HTTP/1.1\r\nX: ", nil, 5 * time.Second},
		{"nothing more", request, func(t *testing.T, in *bufio.Reader) {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
		}, time.Minute},
		{"half a header of another request", request + "GET /a", func(t *testing.T, in *bufio.Reader) {
			if _, err := http.ReadResponse(in, nil); err != nil {
				t.Fatal(err)
			}
		}, 5 * time.Second},
		{"a response that is not read", request, func(*testing.T, *bufio.Reader) { time.Sleep(10*time.Second + time.Millisecond) }, 10*time.Second + time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := make(pipes)
				serveOn(t, listener, &serve.Server{Handler: fullSite(t), Log: slog.New(slog.DiscardHandler), Metrics: newMetrics()}, nil)
				near, far := net.Pipe()
				defer near.Close()
				listener <- far
				began := time.Now()
				if _, err := io.WriteString(near, c.sends); err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(near)
				if c.takes != nil {
					c.takes(t, in)
				}
				_ = near.SetReadDeadline(began.Add(time.Hour))
				rest, err := io.ReadAll(in)
				if took := time.Since(began); err != nil || took < c.after || took > c.after+100*time.Millisecond {
					t.Errorf("it is closed after %v with %v, want %v", took, err, c.after)
				}
				if strings.Contains(string(rest), "200 OK") {
					t.Error("the response came all the same")
				}
			})
		})
	}
}

// TestHugeHeaders are refused, in number and in size.
func TestHugeHeaders(t *testing.T) {
	address := run(t, fullSite(t), nil)
	for _, request := range []string{
		"GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n",
		"GET /a/openid/v1/jwks HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 4<<10) + "\r\n",
		"GET /" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, request) // it may hang up before the end
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%.60q: %v, %v", request, resp, err)
		}
	}
	if err := fetch(address); err != nil {
		t.Error(err)
	}
}

// TestDrain: the end waits for a request in progress.
func TestDrain(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	site := fullSite(t)
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-leave
		site.ServeHTTP(w, r)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() {
		server := &serve.Server{Handler: slow, Log: slog.New(slog.DiscardHandler), Metrics: newMetrics()}
		if err := server.Serve(ctx, listener, nil); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		if err := fetch(listener.Addr().String()); err != nil {
			t.Errorf("the request in progress: %v", err)
		}
	})
	<-entered
	cancel()
	for err = nil; err == nil; { // until it takes no more
		var conn net.Conn
		if conn, err = net.Dial("tcp", listener.Addr().String()); err == nil {
			conn.Close()
		}
	}
	close(leave)
	all.Wait()
}

// issued is a certificate of its own CA for 127.0.0.1, as PEM.
func issued(t testing.TB, serial int64) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Duration(serial) * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// client keeps its connection and trusts every certificate.
func client(http2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: protocols, DisableCompression: true,
	}}
}

func serial(t *testing.T, c *http.Client, address string) (serial int64, proto string) {
	t.Helper()
	resp, err := c.Get("https://" + address + "/a/openid/v1/jwks")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("HTTP status %d, %v", resp.StatusCode, err)
	}
	return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), resp.Proto
}

// TestCertificateChanges under open connections, which stay. While the new pair is
// wrong the old one is served, which is logged once.
func TestCertificateChanges(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, firstKey := issued(t, 1)
	second, secondKey := issued(t, 2)
	write(certFile, first)
	write(keyFile, firstKey)
	var logged logtest.Log
	registry := prometheus.NewRegistry()
	metrics := serve.NewMetrics(registry)
	log := slog.New(slog.NewTextHandler(&logged, nil))
	certificate, err := serve.OpenCertificate(certFile, keyFile, log, metrics)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { _ = certificate.Follow(ctx) })
	defer following.Wait()
	defer cancel()
	address := run(t, fullSite(t), certificate.TLSConfig())

	kept, kept2 := client(false), client(true)
	if _, proto := serial(t, kept2, address); proto != "HTTP/2.0" {
		t.Errorf("the protocol is %s", proto)
	}
	want := func(when string, want int64) {
		t.Helper()
		if got, _ := serial(t, client(false), address); got != want {
			t.Errorf("%s: serial number %d, want %d", when, got, want)
		}
		for _, c := range []*http.Client{kept, kept2} {
			if got, _ := serial(t, c, address); got != 1 {
				t.Errorf("%s: an open connection was dropped", when)
			}
		}
	}
	want("at first", 1)
	errorLines := func(n int) {
		t.Helper()
		await(t, func() error {
			if got := strings.Count(logged.String(), "level=ERROR"); got != n {
				return fmt.Errorf("%d errors, want %d:\n%s", got, n, logged.String())
			}
			return nil
		})
	}
	write(keyFile, secondKey)
	errorLines(1)
	want("a key without its certificate", 1)
	write(certFile, second[:len(second)/2])
	errorLines(2)
	want("half a certificate", 1)
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	errorLines(3)
	want("no certificate", 1)
	write(certFile, second)
	await(t, func() error {
		if strings.Count(logged.String(), "new certificate served") != 1 {
			return errors.New("no new certificate")
		}
		return nil
	})
	want("the new pair", 2)
	awaitMetric(t, registry, fmt.Sprintf("oidc_publisher_certificate_expiry_timestamp_seconds %v", float64(expiry(t, second).Unix())))
	errorLines(3)
}

func expiry(t *testing.T, certificate []byte) time.Time {
	t.Helper()
	block, _ := pem.Decode(certificate)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.NotAfter
}

func await(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestOldTLS is refused.
func TestOldTLS(t *testing.T) {
	dir := t.TempDir()
	certificate, key := issued(t, 1)
	for name, data := range map[string][]byte{"c": certificate, "k": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opened, err := serve.OpenCertificate(filepath.Join(dir, "c"), filepath.Join(dir, "k"), slog.New(slog.DiscardHandler), newMetrics())
	if err != nil {
		t.Fatal(err)
	}
	address := run(t, fullSite(t), opened.TLSConfig())
	for version, wanted := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != wanted {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}
