package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of the public side. A request is a few hundred bytes and a response a
// few kilobytes, so all are generous.
const (
	readTimeout  = 5 * time.Second // for the header: a body is never read
	writeTimeout = 10 * time.Second
	idleTimeout  = time.Minute
	maxHeader    = 8 << 10          // bytes; net/http adds 4 KiB to it
	maxStreams   = 100              // per HTTP/2 connection
	drainTime    = 10 * time.Second // for requests in progress at the end

	// DefaultRoom is the default of Server.Room.
	DefaultRoom = 1024
)

// Server serves a handler to untrusted clients.
type Server struct {
	Handler http.Handler
	Log     *slog.Logger
	Metrics *Metrics
	// Room is the number of connections that may be open at the same time; 0 is
	// DefaultRoom.
	Room int
}

// Serve serves on the listener until ctx ends, and then waits at most ten seconds
// for requests in progress. It closes the listener. config is nil for plain
// HTTP.
func (s *Server) Serve(ctx context.Context, listener net.Listener, config *tls.Config) error {
	room := s.Room
	if room == 0 {
		room = DefaultRoom
	}
	limited := newLimiter(listener, room, s.Metrics)
	server := &http.Server{
		Handler:        skipBody(s.Handler),
		TLSConfig:      config,
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ConnState:      limited.observe,
		// Clients cause these errors: broken handshakes, mostly.
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() {
		if config != nil {
			ended <- server.ServeTLS(limited, "", "")
		} else {
			ended <- server.Serve(limited)
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return drain(ctx, server)
	}
}

// skipBody keeps net/http from waiting for a request's body before it responds:
// a client that never sends it would count as being served. The part that came
// with the header is skipped. If the rest is missing, the connection is closed
// after the response.
func skipBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // both versions of HTTP support it
		}
		next.ServeHTTP(w, r)
	})
}

func drain(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close() // the time is up
	}
	return err
}
