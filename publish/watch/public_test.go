package watch

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// site is the public side of a world: its store behind TLS, a cache, and faults.
type site struct {
	*world
	mu sync.Mutex
	// fault, if not nil, answers instead.
	fault func(*http.Request) (*http.Response, error)
	// until is when the certificate expires.
	until time.Time
	// cacheFor is how long a copy is kept, and cached the copies.
	cacheFor time.Duration
	cached   map[string]copied
	// heeds makes the cache revalidate if readers ask for it.
	heeds bool
}

type copied struct {
	body []byte
	at   time.Time
}

func newSite(t *testing.T) *site {
	s := &site{until: time.Now().Add(90 * 24 * time.Hour), cached: map[string]copied{}}
	s.world = newWorld(t, func(c *Config) { c.VerifyInterval, c.Transport = time.Minute, s })
	return s
}

func (s *site) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// RoundTrip implements http.RoundTripper.
func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return s.fault(r)
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	c, ok := s.cached[name]
	if !ok || time.Since(c.at) > s.cacheFor || s.heeds && strings.Contains(r.Header.Get("Cache-Control"), "no-cache") {
		object, err := s.store.Open().Get(r.Context(), name)
		if err != nil {
			return answered(r, http.StatusNotFound, nil, s.until), nil
		}
		passed := ok && time.Since(c.at) <= s.cacheFor
		c = copied{object.Body, time.Now()}
		if !passed {
			s.cached[name] = c
		}
	}
	resp := answered(r, http.StatusOK, c.body, s.until)
	resp.Header.Set("Cache-Control", "public, max-age=60")
	if s.cacheFor > 0 {
		resp.Header.Set("Age", strconv.Itoa(int(time.Since(c.at).Seconds())))
	}
	return resp, nil
}

func answered(r *http.Request, status int, body []byte, until time.Time) *http.Response {
	kind := "application/json"
	if strings.HasSuffix(r.URL.Path, "jwks") {
		kind = "application/jwk-set+json"
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {kind}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body:   io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{NotAfter: until, DNSNames: []string{r.URL.Hostname()}}}},
	}
}

func (s *site) status(code int) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) { return answered(r, code, nil, s.until), nil }
}

func TestPublicSideIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		defer s.begin()()
		after(4 * time.Second)
		s.want(`oidc_publisher_public_checks_total{verdict="pass"}`, 0)
		after(2 * time.Second)
		s.want(`oidc_publisher_public_checks_total{verdict="pass"}`, 1) // soon after the first publication
		after(10 * time.Minute)
		s.want(`oidc_publisher_public_checks_total{verdict="pass"}`, 11)
		s.want(`oidc_publisher_public_checks_total{verdict="fail"}`, 0)
		s.want("oidc_publisher_public_certificate_expiry_timestamp_seconds", seconds(s.until))
		s.wantLog("level=", 1)
	})
}

// TestPublicSideFailures: each gives one line when it starts and one when it
// ends, and is counted.
func TestPublicSideFailures(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, tc := range []struct {
		name, says, verdict string
		fault               func(s *site) func(*http.Request) (*http.Response, error)
	}{
		{"private", "403", "fail", func(s *site) func(*http.Request) (*http.Response, error) { return s.status(http.StatusForbidden) }},
		{"deleted", "404", "fail", func(s *site) func(*http.Request) (*http.Response, error) { return s.status(http.StatusNotFound) }},
		{"unreachable", "connection", "error", func(*site) func(*http.Request) (*http.Response, error) {
			return func(*http.Request) (*http.Response, error) { return nil, refused }
		}},
		{"a certificate that has expired", "expired", "fail", func(s *site) func(*http.Request) (*http.Response, error) {
			return func(*http.Request) (*http.Response, error) {
				return nil, &tls.CertificateVerificationError{
					UnverifiedCertificates: []*x509.Certificate{{NotAfter: time.Now().Add(-time.Hour)}},
					Err:                    x509.CertificateInvalidError{Cert: &x509.Certificate{NotAfter: time.Now().Add(-time.Hour)}, Reason: x509.Expired},
				}
			}
		}},
		{"a stranger's key", "stranger", "fail", (*site).withStranger},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				defer s.begin()()
				after(time.Minute)
				fault := tc.fault(s)
				s.set(func() { s.fault = fault })
				after(10*time.Minute + time.Second)
				s.want(`oidc_publisher_public_checks_total{verdict="`+tc.verdict+`"}`, 10)
				s.wantLog(`msg="public check failed"`, 1)
				if !strings.Contains(s.log.String(), tc.says) {
					t.Errorf("the log does not say %q:\n%s", tc.says, s.log.String())
				}
				s.wantHealth(200, 200)
				s.set(func() { s.fault = nil })
				after(2 * time.Minute)
				s.wantLog(`msg="public check recovered"`, 1)
				s.wantLog("level=", 3)
			})
		})
	}
}

// withStranger is a site that shows one key more than the store holds.
func (s *site) withStranger() func(*http.Request) (*http.Response, error) {
	other := newWorld(s.t, nil)
	other.lists("a", "stranger")
	stranger, _ := other.snapshot.Keys.Lookup("stranger")
	return func(r *http.Request) (*http.Response, error) {
		object, err := s.store.Open().Get(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			return nil, err
		}
		if object.Name == discovery.JWKSPath {
			object.Body = bytes.Replace(object.Body, []byte(`"keys":[`), []byte(`"keys":[`+string(stranger.Bytes())+`,`), 1)
		}
		return answered(r, http.StatusOK, object.Body, s.until), nil
	}
}

// TestACacheInFront: a copy within its lifetime is not a failure, one past its
// lifetime is.
func TestACacheInFront(t *testing.T) {
	for name, tc := range map[string]struct {
		cacheFor time.Duration
		heeds    bool
		faults   int
	}{
		"within its lifetime":                     {55 * time.Second, false, 0},
		"past its lifetime":                       {time.Hour, false, 1},
		"within its lifetime, and lets one by it": {55 * time.Second, true, 0},
		"past its lifetime, and lets one by it":   {time.Hour, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				defer s.begin()()
				after(2 * time.Minute)
				s.set(func() { s.cacheFor, s.heeds = tc.cacheFor, tc.heeds })
				after(2 * time.Minute)
				for _, ids := range [][]string{{"a", "b"}, {"b"}} {
					s.lists(ids...)
					after(5 * time.Minute)
				}
				s.wantLog(`msg="public check failed"`, tc.faults)
			})
		})
	}
}

// TestStopDuringACheck: stopping during a check is not a failure of the
// public side.
func TestStopDuringACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		end := s.begin()
		after(50 * time.Second)
		looking := false
		s.set(func() {
			s.fault = func(r *http.Request) (*http.Response, error) {
				looking = true
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
		})
		after(17 * time.Second) // 65 s after the start it checks again, until 80 s at least
		end()
		if !looking {
			t.Error("it did not look")
		}
		s.wantLog("level=", 1)
		s.want(`oidc_publisher_public_checks_total{verdict="error"}`, 0)
	})
}

func TestCertificateNearItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.until = time.Now().Add(14*24*time.Hour + 30*time.Minute)
		defer s.begin()()
		after(20 * time.Minute)
		s.wantLog("level=", 1)
		after(time.Hour)
		s.wantLog(`msg="public certificate check failed"`, 1)
		s.set(func() { s.until = time.Now().Add(90 * 24 * time.Hour) })
		after(2 * time.Minute)
		s.wantLog(`msg="public certificate check recovered"`, 1)
		s.wantLog("level=", 3)
	})
}

// TestPublishedAheadOfTheIssuersChange passes although the cluster has
// something else.
func TestPublishedAheadOfTheIssuersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.Publisher.Policy.Issuer, s.Publisher.Policy.AheadOfIssuerChange = "https://new.example.com", true
		defer s.begin()()
		after(10 * time.Minute)
		s.want(`oidc_publisher_public_checks_total{verdict="pass"}`, 10)
		s.wantLog("level=", 1)
	})
}

// TestOneTargetOfTwoFails: the target that the issuer leads to is still
// checked, and the failure of the other is logged.
func TestOneTargetOfTwoFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		broken := newWorld(t, nil)
		broken.store.BeforePut = func(publish.Object) error { return errors.New("denied") }
		s.Publisher.Targets = append(s.Publisher.Targets, publish.Target{Name: "broken", Backend: broken.store.Open()})
		defer s.begin()()
		after(5 * time.Minute)
		s.wantLog(`msg="publish failed" target=broken`, 1)
		s.want(`oidc_publisher_public_checks_total{verdict="pass"}`, 5)
		s.wantHealth(200, 503)
	})
}

// settings is a gauge that remembers what it was set to.
type settings struct {
	prometheus.Gauge
	mu  sync.Mutex
	all []float64
}

func (s *settings) Set(v float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, v)
}

// TestCertificateGaugeIsSetOnce a check: a scrape must not find it at 0, which
// means that there is none.
func TestCertificateGaugeIsSetOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		gauge := &settings{Gauge: s.metrics.certificate}
		s.metrics.certificate = gauge
		end := s.begin()
		after(2*time.Minute + 10*time.Second)
		end()
		if want := slices.Repeat([]float64{seconds(s.until)}, 3); !slices.Equal(gauge.all, want) {
			t.Errorf("it was set to %v, want %v", gauge.all, want)
		}
	})
}
