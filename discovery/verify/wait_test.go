package verify_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/discovery/verify"
)

// inMemory carries requests to a handler without a network, so that a test's
// clock can run as it pleases. Each answer takes delay.
type inMemory struct {
	handler http.Handler
	delay   time.Duration
}

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	timer := time.NewTimer(m.delay)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-timer.C:
	}
	recorder := httptest.NewRecorder()
	m.handler.ServeHTTP(recorder, r)
	response := recorder.Result()
	if response.Header.Get("Date") == "" {
		response.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	return response, nil
}

// quietSite is a site without a server, for tests with a clock of their own.
func quietSite(t testing.TB, issuer string) *site {
	t.Helper()
	s := &site{signer: newRSA(t, "key-1")}
	s.at(issuer)
	return s
}

func (s *site) waitOptions() verify.Options {
	return verify.Options{Issuer: s.issuer, Transport: inMemory{handler: http.HandlerFunc(s.serve)}}
}

// pageAt returns a page that changes with the time since now.
func pageAt(steps map[time.Duration]*page) *page {
	start := time.Now()
	return &page{serve: func(w http.ResponseWriter, r *http.Request) {
		var latest time.Duration
		for at := range steps {
			if at <= time.Since(start) {
				latest = max(latest, at)
			}
		}
		steps[latest].ServeHTTP(w, r)
	}}
}

func keysPage(cache string, signers ...*signer) *page {
	p := okPage("application/jwk-set+json", jwks(signers...))
	if cache == "" {
		delete(p.header, "Cache-Control")
		return p
	}
	p.set("Cache-Control", cache)
	return p
}

func TestWaitForKey(t *testing.T) {
	old, next := newRSA(t, "key-1"), newRSA(t, "key-2")
	const slack = 30 * time.Second // two polls to see a change, and one too late at the end
	aged := keysPage("max-age=60", old, next)
	aged.set("Age", "500")
	absent := &page{status: 404, header: http.Header{"Cache-Control": {"max-age=240"}}}
	for _, tc := range []struct {
		name   string
		issuer string
		keys   map[time.Duration]*page
		bend   func(*site)
		// after is when the key becomes safe.
		after time.Duration
	}{
		{name: "public from the start", keys: map[time.Duration]*page{0: keysPage("max-age=60", old, next)}, after: 60 * time.Second},
		{name: "not cached at all", keys: map[time.Duration]*page{0: keysPage("no-store", old, next)}, after: 1},
		{name: "appears later", keys: map[time.Duration]*page{
			0: keysPage("max-age=60", old), 100 * time.Second: keysPage("max-age=60", old, next)}, after: 160 * time.Second},
		{name: "the answer without the key lived longer", keys: map[time.Duration]*page{
			0: keysPage("max-age=300", old), 100 * time.Second: keysPage("max-age=60", old, next)}, after: 400 * time.Second},
		{name: "the lifetime grows later", keys: map[time.Duration]*page{
			0: keysPage("max-age=60", old, next), 30 * time.Second: keysPage("max-age=120", old, next)}, after: 120 * time.Second},
		{name: "vanishes and comes back", keys: map[time.Duration]*page{
			0: keysPage("max-age=60", old, next), 30 * time.Second: keysPage("max-age=60", old), 80 * time.Second: keysPage("max-age=60", old, next)}, after: 140 * time.Second},
		{name: "the whole set vanishes", keys: map[time.Duration]*page{
			0: keysPage("max-age=60", old, next), 30 * time.Second: {status: 404, header: http.Header{}}, 80 * time.Second: keysPage("max-age=60", old, next)}, after: 140 * time.Second},
		{name: "absence is cached too", keys: map[time.Duration]*page{
			0: absent, 50 * time.Second: keysPage("max-age=60", next)}, after: 290 * time.Second},
		{name: "trouble in between does not count against it", keys: map[time.Duration]*page{
			0: keysPage("max-age=60", next), 20 * time.Second: {status: 503, header: http.Header{}}, 40 * time.Second: keysPage("max-age=60", next)}, after: 60 * time.Second},
		{name: "trouble at the end delays", keys: map[time.Duration]*page{
			0: keysPage("max-age=60", next), 20 * time.Second: {status: 503, header: http.Header{}}, 100 * time.Second: keysPage("max-age=60", next)}, after: 100 * time.Second},
		{name: "a cache older than it should be", keys: map[time.Duration]*page{0: aged}, after: 500 * time.Second},
		{name: "no lifetime at all", keys: map[time.Duration]*page{0: keysPage("", next)}, after: time.Hour},
		{name: "no lifetime on loopback", issuer: "https://127.0.0.1", keys: map[time.Duration]*page{0: keysPage("", next)}, after: 1},
		{name: "only a cache has it", keys: map[time.Duration]*page{0: {
			status: 200, header: http.Header{"Cache-Control": {"max-age=60"}}, body: jwks(next), fresh: keysPage("max-age=60", old),
		}, 50 * time.Second: keysPage("max-age=60", next)}, after: 110 * time.Second},
		{name: "jwks_uri moves", keys: map[time.Duration]*page{0: keysPage("max-age=60", next)}, bend: func(s *site) {
			moved := okPage("application/json", documentFor(s.issuer, map[string]any{"jwks_uri": "https://example.com/openid/v1/jwks"}))
			moved.set("Cache-Control", "max-age=90")
			s.document = pageAt(map[time.Duration]*page{0: s.document, 30 * time.Second: moved})
		}, after: 120 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.issuer == "" {
					tc.issuer = publicHost
				}
				s := quietSite(t, tc.issuer)
				s.keys = pageAt(tc.keys)
				if tc.bend != nil {
					tc.bend(s)
				}
				start, looks := time.Now(), 0
				last := start
				err := verify.WaitForKey(t.Context(), s.waitOptions(), "key-2", func(p verify.Progress) {
					gap := time.Since(last)
					if last, looks = time.Now(), looks+1; looks > 1 && (gap < 800*time.Millisecond || gap > 18*time.Second) {
						t.Errorf("%v between two looks", gap)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took <= tc.after-1 || took > tc.after+slack {
					t.Errorf("took %v, want a little more than %v", took, tc.after)
				}
				if looks < 2 {
					t.Error("one look proves nothing")
				}
			})
		})
	}
}

func TestWaitForKeyGivesUp(t *testing.T) {
	old, next := newRSA(t, "key-1"), newRSA(t, "key-2")
	for _, tc := range []struct {
		name string
		bend func(*site)
		text string
	}{
		{"key never comes", func(s *site) { s.keys = keysPage("max-age=60", old) }, `not in the set, which has "key-1"`},
		{"lifetime is too long", func(s *site) { s.keys = keysPage("max-age=3600", next) }, "had not been public for 1h0m0s"},
		{"not there", func(s *site) { s.keys = &page{status: 404, header: http.Header{}} }, "404"},
		{"server broken", func(s *site) { s.document = &page{status: 500, header: http.Header{}} }, "500"},
		{"redirect", func(s *site) { s.keys = &page{status: 302, header: http.Header{}} }, "redirects"},
		{"private keys", func(s *site) { s.keys.body = jwksOf(next.with("d", secretBody)) }, "is a private key"},
		{"garbage", func(s *site) { s.document.body = []byte(secretBody) }, "not a JSON object"},
		{"another issuer", func(s *site) { s.document.body = documentFor(publicHost+"/", nil) }, "trailing slash"},
		{"private jwks_uri", func(s *site) {
			s.document.body = documentFor(publicHost, map[string]any{"jwks_uri": "https://10.0.0.1/jwks"})
		}, "private address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := quietSite(t, publicHost)
				tc.bend(s)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				start := time.Now()
				err := verify.WaitForKey(ctx, s.waitOptions(), "key-2", nil)
				var wait *verify.WaitError
				if !errors.As(err, &wait) || !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("got %v", err)
				}
				if time.Since(start) != 5*time.Minute {
					t.Errorf("gave up after %v", time.Since(start))
				}
				for _, text := range []string{tc.text, "do not sign with it yet", `"key-2"`} {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%q is not in %v", text, err)
					}
				}
				if strings.Contains(err.Error(), secretBody) {
					t.Errorf("the error echoes the remote body: %v", err)
				}
			})
		})
	}
}

func TestWaitForKeyReportsProgress(t *testing.T) {
	next := newRSA(t, "key-2")
	synctest.Test(t, func(t *testing.T) {
		s := quietSite(t, publicHost)
		s.keys = pageAt(map[time.Duration]*page{0: s.keys, 20 * time.Second: keysPage("max-age=60", next)})
		var seen []verify.Progress
		if err := verify.WaitForKey(t.Context(), s.waitOptions(), "key-2", func(p verify.Progress) { seen = append(seen, p) }); err != nil {
			t.Fatal(err)
		}
		first, last := seen[0], seen[len(seen)-1]
		if first.Public || !strings.Contains(first.Seen, `"key-1"`) || first.Lifetime != time.Minute {
			t.Errorf("first %+v", first)
		}
		if !last.Public || last.Remaining != 0 || last.Since.IsZero() || last.KeyID != "key-2" {
			t.Errorf("last %+v", last)
		}
	})
}

func TestWaitForKeyRefusesInvalidOptions(t *testing.T) {
	for _, tc := range []struct{ issuer, kid string }{{"http://issuer.example.com", "a"}, {publicHost, ""}} {
		if err := verify.WaitForKey(t.Context(), verify.Options{Issuer: tc.issuer, Transport: failing{http.ErrNotSupported}}, tc.kid, nil); err == nil {
			t.Errorf("%+v was accepted", tc)
		}
	}
}

func TestAnswerTime(t *testing.T) {
	for _, tc := range []struct {
		delay  time.Duration
		id     string
		status verify.Status
	}{
		{time.Second, "", verify.Pass},
		{3 * time.Second, "-answer-time", verify.Warn},
		{6 * time.Second, "-answer-time", verify.Fail},
		{11 * time.Second, "document-reachable", verify.Error},
	} {
		t.Run(tc.delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := quietSite(t, publicHost)
				opts := s.waitOptions()
				opts.Transport = inMemory{handler: http.HandlerFunc(s.serve), delay: tc.delay}
				r, err := verify.Run(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range r.Checks {
					want := verify.Pass
					if tc.id != "" && strings.HasSuffix(c.ID, tc.id) {
						want = tc.status
					}
					if c.Status != want && c.Status != verify.Skip {
						t.Errorf("%s is %s: %s", c.ID, c.Status, c.Cause)
					}
				}
			})
		})
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := quietSite(t, publicHost)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		opts := s.waitOptions()
		opts.Transport = inMemory{handler: http.HandlerFunc(s.serve), delay: time.Minute}
		report, err := verify.Run(ctx, opts)
		if err != nil || report.Verdict != verify.Error {
			t.Errorf("got %v, %v, want a report of what time ran out at", report.Verdict, err)
		}
		gone, end := context.WithCancel(t.Context())
		end()
		if _, err := verify.Run(gone, opts); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
