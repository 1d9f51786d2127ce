package fake

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// ProxyFault is what a FaultProxy does to a request instead of forwarding it.
type ProxyFault func(w http.ResponseWriter, r *http.Request, server http.Handler)

// LoseAck forwards the whole request and then closes the client's connection:
// the server has acted, and the client gets no response.
func LoseAck(_ http.ResponseWriter, r *http.Request, server http.Handler) {
	server.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// Cut closes the client's connection and forwards nothing.
func Cut(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// CutBody closes the client's connection in the middle of the response body.
func CutBody(w http.ResponseWriter, r *http.Request, server http.Handler) {
	rec := httptest.NewRecorder()
	server.ServeHTTP(rec, r)
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// Answer replies with that status and body and forwards nothing.
func Answer(status int, header http.Header, body string) ProxyFault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

// Delay forwards the request after that time, unless the client gives up first.
func Delay(d time.Duration) ProxyFault {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		select {
		case <-r.Context().Done():
		case <-time.After(d):
			server.ServeHTTP(w, r)
		}
	}
}

// Method matches requests by method.
func Method(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method }
}

// FaultProxy forwards requests to an HTTP server and lets chosen ones fail.
// The Host header stays what the client sent, since S3 signatures cover it.
type FaultProxy struct {
	// Endpoint is the proxy's base URL, Host its host:port.
	Endpoint, Host string

	upstream http.Handler
	mu       sync.Mutex
	faults   []*injected
	server   *http.Server
}

type injected struct {
	times int
	match func(*http.Request) bool
	fault ProxyFault
}

// NewFaultProxy starts a proxy in front of the base URL, without faults.
func NewFaultProxy(t testing.TB, upstream string) *FaultProxy {
	t.Helper()
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	p := &FaultProxy{Host: "127.0.0.1:0", upstream: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
		},
		// The client's Accept-Encoding must be passed on unchanged, even if it is absent.
		Transport: &http.Transport{DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0), // killed clients are expected
	}}
	p.Up(t)
	t.Cleanup(p.Down)
	p.Endpoint = "http://" + p.Host
	return p
}

// Inject applies the fault to the next so many requests that match.
func (p *FaultProxy) Inject(times int, match func(*http.Request) bool, fault ProxyFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &injected{times, match, fault})
}

// Clear forgets all faults.
func (p *FaultProxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Down refuses connections and breaks those that are open.
func (p *FaultProxy) Down() { p.server.Close() }

// Up listens again, on the same port.
func (p *FaultProxy) Up(t testing.TB) {
	t.Helper()
	l, err := listen(p.Host)
	if err != nil {
		t.Fatal(err)
	}
	p.Host = l.Addr().String()
	p.server = &http.Server{Handler: p}
	go p.server.Serve(l)
}

// ServeHTTP implements http.Handler.
func (p *FaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fault := p.next(r); fault != nil {
		fault(w, r, p.upstream)
		return
	}
	p.upstream.ServeHTTP(w, r)
}

func (p *FaultProxy) next(r *http.Request) ProxyFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.times > 0 && f.match(r) {
			f.times--
			return f.fault
		}
	}
	return nil
}
