package httpx_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/httpx"
)

func TestFreshness(t *testing.T) {
	const date = "Mon, 02 Jan 2006 15:04:05 GMT"
	for _, tc := range []struct {
		header string
		known  bool
		life   time.Duration
		age    time.Duration
	}{
		{"", false, 0, 0},
		{"Cache-Control: public", false, 0, 0},
		{"Cache-Control: public, max-age=60", true, time.Minute, 0},
		{"Cache-Control: MAX-AGE=60", true, time.Minute, 0},
		{`Cache-Control: max-age="60"`, true, time.Minute, 0},
		{"Cache-Control: max-age=60|Cache-Control: s-maxage=120", true, 2 * time.Minute, 0},
		{"Cache-Control: max-age=60|Age: 20", true, time.Minute, 20 * time.Second},
		{"Cache-Control: max-age=60, no-store", true, 0, 0},
		{"Cache-Control: no-cache|Age: 5", true, 0, 5 * time.Second},
		{"Cache-Control: max-age=-1", true, 0, 0},
		{"Cache-Control: max-age=soon", true, 0, 0},
		{"Cache-Control: max-age=99999999999", true, httpx.MaxLifetime, 0},
		{"Cache-Control: max-age=9999999999999999999999", true, httpx.MaxLifetime, 0},
		{"Expires: Mon, 02 Jan 2006 15:06:05 GMT|Date: " + date, true, 2 * time.Minute, 0},
		{"Expires: Mon, 02 Jan 2006 15:03:05 GMT|Date: " + date, true, 0, 0},
		{"Expires: 0|Date: " + date, true, 0, 0},
		{"Cache-Control: max-age=60|Expires: Mon, 02 Jan 2006 15:06:05 GMT|Date: " + date, true, time.Minute, 0},
	} {
		h := http.Header{}
		for line := range strings.SplitSeq(tc.header, "|") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h.Add(name, value)
			}
		}
		if f := httpx.FreshnessOf(h); f.Known != tc.known || f.Lifetime != tc.life || f.Age != tc.age {
			t.Errorf("%q: %+v", tc.header, f)
		}
	}
}
