package exchange

import (
	"fmt"
	"net"
	"time"
)

// UnavailableError means that a service neither accepted nor refused the token.
// It may do so later.
type UnavailableError struct {
	// Service is the name of the service, and Host its address.
	Service, Host string
	// Status is the HTTP status code of the last answer, 0 without an answer.
	Status int
	// Attempts is how often the request was sent.
	Attempts int
	// Reason is the reason of the service, cleaned and bounded, or why there
	// is no answer.
	Reason string
	// RetryAfter is the delay that the service asks for, 0 for none.
	RetryAfter time.Duration
	// Err is the error of the context, if it ended.
	Err error

	final bool
}

// Error names the service, the reason and when to retry.
func (e *UnavailableError) Error() string {
	text := fmt.Sprintf("%s (%s) can't be reached: %s", e.Service, e.Host, e.Reason)
	if e.Status != 0 {
		text = fmt.Sprintf("%s (%s) answered HTTP %d: %s", e.Service, e.Host, e.Status, e.Reason)
	}
	if e.Attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; retry after %v", e.RetryAfter.Round(time.Second))
	}
	return text
}

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
