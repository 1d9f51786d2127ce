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

// Limits of the public side. A request is a few hundred bytes and an answer a
// few kilobytes, so all are generous.
const (
	readTimeout  = 5 * time.Second // of the header: a body is never read
	writeTimeout = 10 * time.Second
	idleTimeout  = time.Minute
	maxHeader    = 8 << 10 // bytes; net/http adds 4 KiB to it
	maxStreams   = 100     // of one HTTP/2 connection
	drainTime    = 10 * time.Second

	// DefaultRoom is how many connections may be open at a time.
	DefaultRoom = 1024
)

// Server serves a handler to the world.
type Server struct {
	Handler http.Handler
	Log     *slog.Logger
	Metrics *Metrics
	// Room is how many connections may be open at a time; 0 is DefaultRoom.
	Room int
}

// Serve answers on the listener until ctx ends and then lets the requests in
// hand finish, for ten seconds at most. It closes the listener. config is nil for
// plain HTTP.
func (s *Server) Serve(ctx context.Context, listener net.Listener, config *tls.Config) error {
	room := s.Room
	if room == 0 {
		room = DefaultRoom
	}
	limited := newLimiter(listener, room, s.Metrics)
	server := &http.Server{
		Handler:        readNoFurther(s.Handler),
		TLSConfig:      config,
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ConnState:      limited.observe,
		// What strangers do wrong is no news: broken handshakes, mostly.
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

// readNoFurther keeps net/http from waiting for the rest of a body that nobody
// wants before it answers: a client that never sends it would count as one that
// is being served. What came with the header is passed over, and anything
// missing ends the connection after the answer.
func readNoFurther(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // both versions of HTTP can
		}
		next.ServeHTTP(w, r)
	})
}

func drain(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close() // they had their time
	}
	return err
}
