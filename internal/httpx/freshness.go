package httpx

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxLifetime bounds the lifetime in a header.
const MaxLifetime = 10 * 365 * 24 * time.Hour

// Freshness is the cache lifetime of an answer.
type Freshness struct {
	// Known is false where the answer has no such header and every cache decides
	// for itself (RFC 9111 section 4.2.2).
	Known bool
	// Lifetime is the longest that a cache may keep the answer.
	Lifetime time.Duration
	// Age is how long it has been in a shared cache already.
	Age time.Duration
}

// FreshnessOf reads Cache-Control, Expires and Age (RFC 9111). It takes
// the longer of max-age and s-maxage, since it treats relying parties and shared
// caches alike.
func FreshnessOf(h http.Header) Freshness {
	f := Freshness{Age: seconds(h.Get("Age"))}
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return Freshness{Known: true, Age: f.Age}
		case "max-age", "s-maxage":
			f.Known = true
			f.Lifetime = max(f.Lifetime, seconds(strings.Trim(value, `"`)))
		}
	}
	if !f.Known && h.Get("Expires") != "" {
		f.Known, f.Lifetime = true, untilExpires(h)
	}
	return f
}

// untilExpires is the lifetime by Expires; an invalid date is in the past
// (RFC 9111 section 5.3).
func untilExpires(h http.Header) time.Duration {
	expires, err := http.ParseTime(h.Get("Expires"))
	date, dateErr := http.ParseTime(h.Get("Date"))
	if err != nil || dateErr != nil {
		return 0
	}
	return min(max(0, expires.Sub(date)), MaxLifetime)
}

// seconds reads a number of seconds; one that is too large counts as the largest
// (RFC 9111 section 1.2.2).
func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange), n > uint64(MaxLifetime/time.Second):
		return MaxLifetime
	case err != nil:
		return 0
	}
	return time.Duration(n) * time.Second
}

// Remaining is how long a cache may still serve this copy.
func (f Freshness) Remaining() time.Duration { return max(0, f.Lifetime-f.Age) }

// RetryAfter parses the header (RFC 9110 section 10.2.3); 0 if it is missing or
// invalid.
func RetryAfter(header http.Header, now time.Time) time.Duration {
	const most = 30 * 24 * time.Hour
	value := strings.TrimSpace(header.Get("Retry-After"))
	wait := time.Duration(0)
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		wait = time.Duration(min(max(seconds, 0), int64(most/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), most)
}
