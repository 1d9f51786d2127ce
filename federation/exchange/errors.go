package exchange

import (
	"fmt"
	"net"
	"time"
)

// UnavailableError says that a service neither took nor refused the token,
// however often it was asked: it may do so later.
type UnavailableError struct {
	// Service is who was asked, and Host where.
	Service, Host string
	// Status is the HTTP status code of the last answer, 0 where none came.
	Status int
	// Attempts is how often it was asked.
	Attempts int
	// Reason is what the service gave as its reason, cleaned and bounded, or
	// why no answer came.
	Reason string
	// RetryAfter is for how long the service wants to be left alone, 0 where
	// it did not say.
	RetryAfter time.Duration
	// Err is the end of the context, if that was the end.
	Err error

	final bool
}

// Error says who could not be asked, why, and when to come back.
func (e *UnavailableError) Error() string {
	text := fmt.Sprintf("%s (%s) could not be asked: %s", e.Service, e.Host, e.Reason)
	if e.Status != 0 {
		text = fmt.Sprintf("%s (%s) answered HTTP %d: %s", e.Service, e.Host, e.Status, e.Reason)
	}
	if e.Attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; it asks to be left alone for %v", e.RetryAfter.Round(time.Second))
	}
	return text
}

// Unwrap returns the end of the context, if that was the end.
func (e *UnavailableError) Unwrap() error { return e.Err }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
