package fake

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Internet plays the public side of an issuer on loopback: every https host is
// reached through its proxy, answers with a certificate of its own CA, and
// leads to the handler that was routed to its name. A program takes part by
// the environment of Env, in which nothing but HTTPS_PROXY and SSL_CERT_FILE
// is special.
type Internet struct {
	// CAFile holds the CA's certificate as PEM.
	CAFile string

	ca           Authority
	proxy        *http.Server
	listener     net.Listener
	mu           sync.Mutex
	routes       map[string]http.Handler
	seen         map[string]int
	certificates map[string]tls.Certificate // by host
}

// NewInternet starts it; the end of the test stops it.
func NewInternet(t testing.TB) *Internet {
	t.Helper()
	ca, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	n := &Internet{ca: ca, CAFile: filepath.Join(t.TempDir(), "ca.PEM"), routes: map[string]http.Handler{}, seen: map[string]int{}, certificates: map[string]tls.Certificate{}}
	if err := os.WriteFile(n.CAFile, ca.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	if n.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n.proxy = &http.Server{Handler: http.HandlerFunc(n.connect), ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = n.proxy.Serve(n.listener) }() // returns when closed
	t.Cleanup(func() { _ = n.proxy.Close() })
	return n
}

// Env is the environment of a program that lives in this internet.
func (n *Internet) Env() []string {
	return []string{"HTTPS_PROXY=http://" + n.listener.Addr().String(), "SSL_CERT_FILE=" + n.CAFile, "NO_PROXY="}
}

// Client is an http.Client that lives in this internet.
func (n *Internet) Client() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.ca.PEM)
	proxy := &url.URL{Scheme: "http", Host: n.listener.Addr().String()}
	return &http.Client{Transport: &http.Transport{
		Proxy:             http.ProxyURL(proxy),
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}}
}

// Route makes a host answer with the handler; nil makes it unreachable.
func (n *Internet) Route(host string, handler http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.routes[host] = handler
}

// Requests counts the connections to a host that the proxy was asked for.
func (n *Internet) Requests(host string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[host]
}

func (n *Internet) route(host string) http.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen[host]++
	return n.routes[host]
}

func (n *Internet) certificate(host string) (tls.Certificate, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if made, ok := n.certificates[host]; ok {
		return made, nil
	}
	made, err := n.ca.Serving(host)
	if err == nil {
		n.certificates[host] = made
	}
	return made, err
}

// connect is the proxy: it ends TLS itself and serves one connection.
func (n *Internet) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	handler := n.route(host)
	if r.Method != http.MethodConnect || err != nil || port != "443" {
		http.Error(w, "only CONNECT to port 443", http.StatusBadRequest)
		return
	}
	if handler == nil {
		http.Error(w, "no such host", http.StatusBadGateway)
		return
	}
	certificate, err := n.certificate(host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
	serveOne(server, handler)
}

// serveOne serves HTTP on a connection until the client closes it.
func serveOne(conn net.Conn, handler http.Handler) {
	listener := &oneConn{conn: conn, done: make(chan struct{})}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			listener.close()
		}
	}
	_ = server.Serve(listener) // ends with the connection
}

// oneConn is a listener that returns one connection that is already open.
type oneConn struct {
	conn net.Conn
	once sync.Once
	end  sync.Once
	done chan struct{}
}

func (l *oneConn) Accept() (conn net.Conn, err error) {
	l.once.Do(func() { conn = l.conn })
	if conn != nil {
		return conn, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) close() { l.end.Do(func() { close(l.done) }) }

func (l *oneConn) Close() error { l.close(); return nil }

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// Website serves a directory as a static file server does.
func Website(dir string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=60")
		files.ServeHTTP(w, r)
	})
}

// Upstream passes requests on to a server on loopback, below a path of it.
func Upstream(base string) http.Handler {
	target, err := url.Parse(base)
	if err != nil {
		panic(err)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = target.Host
		},
		Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
}
