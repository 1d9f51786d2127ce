package fake

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// Fault turns the handler of the correct response into one that fails.
type Fault func(next http.Handler) http.Handler

// Break applies a fault to requests for that path, or for every path if it is
// empty, until Repair.
func (e *APIServer) Break(path string, fault Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults[path] = fault
}

// Repair ends all faults.
func (e *APIServer) Repair() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.faults)
}

func (e *APIServer) faulty(path string, next http.Handler) http.Handler {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, at := range []string{path, ""} {
		if fault, broken := e.faults[at]; broken {
			return fault(next)
		}
	}
	return next
}

// FaultStatus answers with the API server's error object of that HTTP status.
func FaultStatus(code int) Fault {
	return answerWith(func(w http.ResponseWriter, _ *http.Request) {
		if code == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "7")
		}
		writeStatus(w, code, http.StatusText(code), map[string]any{})
	})
}

// FaultBody answers with HTTP status, media type and body.
func FaultBody(code int, mediaType, body string) Fault {
	return answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.WriteHeader(code)
		io.WriteString(w, body)
	})
}

// FaultHTML answers with a login page and status 200, as single sign-on
// gateways do.
func FaultHTML() Fault {
	return FaultBody(http.StatusOK, "text/html; charset=utf-8", "<!DOCTYPE html><title>Sign in</title><form>secret-of-the-page</form>")
}

// FaultHuge answers with 8 MiB.
func FaultHuge() Fault {
	return answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for range 8 {
			w.Write(bytes.Repeat([]byte(" "), 1<<20))
		}
	})
}

// FaultTruncated breaks the connection in the middle of the answer.
func FaultTruncated() Fault {
	return answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"issuer":`)
		panic(http.ErrAbortHandler)
	})
}

// FaultRedirect redirects to a location.
func FaultRedirect(location string) Fault {
	return answerWith(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, location, http.StatusFound)
	})
}

// FaultHang does not answer until the client gives up.
func FaultHang() Fault {
	return answerWith(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// FaultSlow delays the correct response.
func FaultSlow(delay time.Duration) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			timer := time.NewTimer(delay)
			defer timer.Stop()
			select {
			case <-timer.C:
				next.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		})
	}
}

// FaultBefore runs do before each correct response.
func FaultBefore(do func()) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			do()
			next.ServeHTTP(w, r)
		})
	}
}

func answerWith(answer http.HandlerFunc) Fault {
	return func(http.Handler) http.Handler { return answer }
}
