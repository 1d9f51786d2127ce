package verify

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxLifetime bounds the lifetime in a header.
const maxLifetime = 10 * 365 * 24 * time.Hour

// freshness is the cache lifetime of an answer.
type freshness struct {
	// known is false where the answer has no such header and every cache decides
	// for itself (RFC 9111 section 4.2.2).
	known bool
	// lifetime is the longest that a cache may keep the answer.
	lifetime time.Duration
	// age is how long it has been in a shared cache already.
	age time.Duration
}

// freshnessOf reads Cache-Control, Expires and Age (RFC 9111). It takes
// the longer of max-age and s-maxage, since it treats relying parties and shared
// caches alike.
func freshnessOf(h http.Header) freshness {
	f := freshness{age: seconds(h.Get("Age"))}
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return freshness{known: true, age: f.age}
		case "max-age", "s-maxage":
			f.known = true
			f.lifetime = max(f.lifetime, seconds(strings.Trim(value, `"`)))
		}
	}
	if !f.known && h.Get("Expires") != "" {
		f.known, f.lifetime = true, untilExpires(h)
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
	return min(max(0, expires.Sub(date)), maxLifetime)
}

// seconds reads a number of seconds; one that is too large counts as the largest
// (RFC 9111 section 1.2.2).
func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange), n > uint64(maxLifetime/time.Second):
		return maxLifetime
	case err != nil:
		return 0
	}
	return time.Duration(n) * time.Second
}

// remaining is how long a cache may still hand out this very copy.
func (f freshness) remaining() time.Duration { return max(0, f.lifetime-f.age) }
