package verify_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
)

// publicHost is a name that the tests' transport leads to the test server.
const publicHost = "https://issuer.example.com"

// run verifies the site with options modified by the test.
func (s *site) run(t testing.TB, bend func(*verify.Options)) verify.Report {
	t.Helper()
	opts := verify.Options{Issuer: s.issuer, Transport: s.transport()}
	if bend != nil {
		bend(&opts)
	}
	report, err := verify.Run(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	// A busy machine is slow to answer; the tests of that have a clock of their own.
	report.Checks = slices.DeleteFunc(report.Checks, func(c verify.Check) bool {
		return c.Status == verify.Warn && strings.HasSuffix(c.ID, "-answer-time")
	})
	return report
}

// with lists the IDs of the checks with one of the statuses.
func with(r verify.Report, statuses ...verify.Status) []string {
	ids := []string{}
	for _, c := range r.Checks {
		if slices.Contains(statuses, c.Status) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func find(t testing.TB, r verify.Report, id string) verify.Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no check %s", id)
	return verify.Check{}
}

// only asserts that one check alone has a status above pass, and that cause.
func only(t testing.TB, r verify.Report, id string, status verify.Status, cause string) {
	t.Helper()
	for _, c := range r.Checks {
		switch {
		case c.ID == id && (c.Status != status || !strings.Contains(c.Cause+c.Evidence, cause)):
			t.Errorf("%s: %s %q %q, want %s with %q", c.ID, c.Status, c.Evidence, c.Cause, status, cause)
		case c.ID == id && (c.Cause == "" || c.Cure == "" || c.Evidence == ""):
			t.Errorf("%s lacks evidence, cause or cure: %+v", id, c)
		case c.ID != id && c.Status != verify.Pass && c.Status != verify.Skip:
			t.Errorf("%s: %s %q %q, and only %s should say anything", c.ID, c.Status, c.Evidence, c.Cause, id)
		}
	}
	if !slices.ContainsFunc(r.Checks, func(c verify.Check) bool { return c.ID == id }) {
		t.Errorf("there is no check %s", id)
	}
	if shown := string(marshal(r)); strings.Contains(shown, secretBody) {
		t.Error("the report echoes a remote body")
	}
}

func TestRunOfAValidIssuer(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	r := s.run(t, nil)
	if bad := with(r, verify.Warn, verify.Fail, verify.Error, verify.Skip); len(bad) != 0 || r.Verdict != verify.Pass {
		t.Errorf("verdict %s, not passed: %v", r.Verdict, bad)
	}
	seen := map[string]bool{}
	for _, c := range r.Checks {
		if seen[c.ID] || c.Title == "" || c.Evidence == "" {
			t.Errorf("check is not complete or not unique: %+v", c)
		}
		seen[c.ID] = true
	}
}

func TestRunFindsFailures(t *testing.T) {
	document := func(change map[string]any) func(*site) {
		return func(s *site) { s.document.body = documentFor(s.issuer, change) }
	}
	header := func(p func(*site) *page, name, value string) func(*site) {
		return func(s *site) { p(s).set(name, value) }
	}
	doc := func(s *site) *page { return s.document }
	keys := func(s *site) *page { return s.keys }
	for _, tc := range []struct {
		name   string
		bend   func(*site)
		id     string
		status verify.Status
		cause  string
	}{
		{"document forbidden", func(s *site) { s.document.status = 403 }, "document-status", verify.Fail, "not public"},
		{"document absent", func(s *site) { s.document.status = 404 }, "document-status", verify.Fail, "nothing is published"},
		{"server broken", func(s *site) { s.document.status = 502 }, "document-status", verify.Fail, "store behind it failed"},
		{"keys forbidden", func(s *site) { s.keys.status = 401 }, "jwks-status", verify.Fail, "not public"},
		{"keys absent", func(s *site) { s.keys.status = 404 }, "jwks-status", verify.Fail, "nothing is published"},
		{"throttled", func(s *site) { s.keys.status = 429 }, "jwks-status", verify.Fail, "limits the request rate"},
		{"no content", func(s *site) { s.keys.status = 204; s.keys.body = nil }, "jwks-status", verify.Fail, "204"},
		{"redirected document", func(s *site) {
			s.document.status = 302
			s.document.set("Location", "https://login.example.org/sso")
		}, "document-redirect", verify.Fail, "login.example.org"},
		{"redirected keys", func(s *site) {
			s.keys.status = 308
			s.keys.set("Location", "//bucket.s3.eu-west-1.amazonaws.com/jwks")
		}, "jwks-redirect", verify.Fail, "bucket.s3.eu-west-1.amazonaws.com"},
		{"redirect to nowhere", func(s *site) { s.document.status = 301 }, "document-redirect", verify.Fail, "nowhere"},
		{"login page", func(s *site) {
			s.document.body = []byte("<!DOCTYPE html><title>" + secretBody + "</title>")
			s.document.set("Content-Type", "text/html; charset=utf-8")
		}, "document-content-type", verify.Fail, "login page"},
		{"keys are a web page", func(s *site) {
			s.keys.body = []byte("\n <html>" + secretBody)
			s.keys.set("Content-Type", "text/html")
		}, "jwks-content-type", verify.Fail, "login page"},
		{"document has another type", header(doc, "Content-Type", "application/octet-stream"), "document-content-type", verify.Fail, "refuse"},
		{"document has the keys' type", header(doc, "Content-Type", "application/jwk-set+json"), "document-content-type", verify.Fail, "refuse"},
		{"document has no type", func(s *site) { s.document.header["Content-Type"] = nil }, "document-content-type", verify.Fail, "no Content-Type"},
		{"keys have another type", header(keys, "Content-Type", "text/plain"), "jwks-content-type", verify.Fail, "refuse"},
		{"no cache lifetime", func(s *site) { s.keys.header.Del("Cache-Control") }, "jwks-cache", verify.Warn, "one hour"},
		{"long cache lifetime", header(keys, "Cache-Control", "max-age=86400"), "jwks-cache", verify.Warn, "24h0m0s"},
		{"long shared lifetime", header(doc, "Cache-Control", "max-age=1, s-maxage=7200"), "document-cache", verify.Warn, "2h0m0s"},
		{"disobedient cache", header(keys, "Age", "4000"), "jwks-cache", verify.Warn, "older than its lifetime"},
		{"stale copy", func(s *site) {
			fresh := *s.keys
			s.keys.fresh = &fresh
			s.keys.body = append(jwks(s.signer), ' ')
			s.keys.set("Age", "45")
		}, "jwks-cached-copy", verify.Warn, "15s"},
		{"cached copy only", func(s *site) {
			s.document.fresh = &page{status: 403, header: http.Header{}}
		}, "document-cached-copy", verify.Fail, "only a cached copy"},
		{"second request fails", func(s *site) {
			s.document.fresh = &page{status: 503, header: http.Header{}}
		}, "document-cached-copy", verify.Error, "failed"},
		{"second request breaks", func(s *site) {
			s.keys.fresh = &page{serve: hijack(secretBody)}
		}, "jwks-cached-copy", verify.Error, "between two requests"},
		{"huge document", func(s *site) { s.document.body = make([]byte, discovery.MaxSize+1) }, "document-size", verify.Fail, "too large for one of the two documents"},
		{"huge keys", func(s *site) { s.keys.body = make([]byte, discovery.MaxSize+1) }, "jwks-size", verify.Fail, "too large for one of the two documents"},
		{"compressed bomb", func(s *site) { s.keys.serve = gzipped(make([]byte, 8<<20)) }, "jwks-size", verify.Fail, "1048576"},
		{"document is not JSON", func(s *site) { s.document.body = []byte(secretBody) }, "document-syntax", verify.Fail, "not a JSON object"},
		{"document is cut", func(s *site) { s.document.body = s.document.body[:40] }, "document-syntax", verify.Fail, "not valid JSON"},
		{"document has two issuers", func(s *site) {
			s.document.body = append([]byte(`{"issuer":"https://evil.example.com",`), s.document.body[1:]...)
		}, "document-syntax", verify.Fail, `two members named "issuer"`},
		{"document lacks jwks_uri", document(map[string]any{"jwks_uri": nil}), "document-syntax", verify.Fail, `no member "jwks_uri"`},
		{"document holds a private key", document(map[string]any{"note": "-----BEGIN PRIVATE KEY-----" + secretBody}), "document-syntax", verify.Fail, "private key"},
		{"issuer with a slash", document(map[string]any{"issuer": publicHost + "/"}), "document-issuer", verify.Fail, "trailing slash"},
		{"issuer in upper case", document(map[string]any{"issuer": "https://Issuer.example.com"}), "document-issuer", verify.Fail, "case"},
		{"issuer with a port", document(map[string]any{"issuer": publicHost + ":443"}), "document-issuer", verify.Fail, "port"},
		{"another issuer", document(map[string]any{"issuer": "https://kubernetes.default.svc"}), "document-issuer", verify.Fail, "another issuer"},
		{"no response types", document(map[string]any{"response_types_supported": nil}), "document-members", verify.Warn, "response_types_supported"},
		{"no subject types", document(map[string]any{"subject_types_supported": []string{}}), "document-members", verify.Warn, "subject_types_supported"},
		{"no algorithms", document(map[string]any{"id_token_signing_alg_values_supported": "RS256"}), "document-members", verify.Warn, "id_token_signing_alg_values_supported"},
		{"jwks_uri over http", document(map[string]any{"jwks_uri": "http://issuer.example.com/openid/v1/jwks"}), "jwks-uri", verify.Fail, "not https"},
		{"jwks_uri with credentials", document(map[string]any{"jwks_uri": "https://u:" + secretBody + "@issuer.example.com/openid/v1/jwks"}), "jwks-uri", verify.Fail, "credentials"},
		{"jwks_uri of the API server", document(map[string]any{"jwks_uri": "https://10.9.8.7:16443/openid/v1/jwks"}), "jwks-uri", verify.Fail, "private address"},
		{"jwks_uri on loopback", document(map[string]any{"jwks_uri": "https://127.0.0.1/openid/v1/jwks"}), "jwks-uri", verify.Fail, "leads to loopback"},
		{"jwks_uri on IPv6 loopback", document(map[string]any{"jwks_uri": "https://[::1]/openid/v1/jwks"}), "jwks-uri", verify.Fail, "leads to loopback"},
		{"jwks_uri in the cluster", document(map[string]any{"jwks_uri": "https://kubernetes.default.svc.cluster.local/openid/v1/jwks"}), "jwks-uri", verify.Fail, "internal name"},
		{"jwks_uri on a node", document(map[string]any{"jwks_uri": "https://master-0:6443/openid/v1/jwks"}), "jwks-uri", verify.Fail, "internal name"},
		{"jwks_uri at a cloud's metadata", document(map[string]any{"jwks_uri": "https://169.254.169.254/openid/v1/jwks"}), "jwks-uri", verify.Fail, "private address"},
		{"jwks_uri is relative", document(map[string]any{"jwks_uri": "/openid/v1/jwks"}), "jwks-uri", verify.Fail, "absolute"},
		{"jwks_uri with a fragment", document(map[string]any{"jwks_uri": publicHost + "/openid/v1/jwks#a"}), "jwks-uri", verify.Fail, "fragment"},
		{"jwks_uri elsewhere", document(map[string]any{"jwks_uri": "https://example.com/openid/v1/jwks"}), "jwks-uri-origin", verify.Warn, "example.com"},
		{"keys are not JSON", func(s *site) { s.keys.body = []byte(secretBody) }, "jwks-keys", verify.Fail, "not a JSON object"},
		{"no keys", func(s *site) { s.keys.body = jwksOf() }, "jwks-keys", verify.Fail, "no usable key"},
		{"private key", func(s *site) { s.keys.body = jwksOf(s.signer.with("d", secretBody)) }, "jwks-keys", verify.Fail, "is a private key"},
		{"symmetric key", func(s *site) {
			s.keys.body = jwksOf(map[string]any{"kty": "oct", "kid": "a", "k": secretBody})
		}, "jwks-keys", verify.Fail, "symmetric"},
		{"duplicate key ID", func(s *site) { s.keys.body = jwks(s.signer, newEC(t, "key-1")) }, "jwks-keys", verify.Fail, "twice"},
		{"second copy of a key", func(s *site) { s.keys.body = jwks(s.signer, s.signer) }, "jwks-keys", verify.Warn, "twice"},
		{"key without ID", func(s *site) { s.keys.body = jwksOf(s.signer.with("kid", "")) }, "jwks-keys", verify.Fail, "kid"},
		{"two faults", func(s *site) {
			s.keys.body = jwksOf(s.signer.with("n", "AQAB"), s.signer.with("alg", "HS256"))
		}, "jwks-keys", verify.Fail, "17 bits, and at least 2048 are needed; "},
		{"unknown key type", func(s *site) {
			s.keys.body = jwksOf(s.signer.jwk, map[string]any{"kty": "XYZ", "kid": "later"})
		}, "jwks-keys", verify.Warn, `"later"`},
		{"algorithm not listed", func(s *site) { s.keys.body = jwks(s.signer, newEC(t, "key-ec")) }, "jwks-algorithms", verify.Fail, `"key-ec"`},
		{"clock of the server", header(doc, "Date", time.Now().Add(5*time.Minute).UTC().Format(http.TimeFormat)), "clock-skew", verify.Warn, "ahead of this machine's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			s.at(publicHost)
			tc.bend(s)
			r := s.run(t, nil)
			only(t, r, tc.id, tc.status, tc.cause)
			want := map[verify.Status]verify.Status{verify.Fail: verify.Fail, verify.Error: verify.Error, verify.Warn: verify.Pass}[tc.status]
			if r.Verdict != want {
				t.Errorf("verdict %s, want %s", r.Verdict, want)
			}
		})
	}
}

func TestRunIssuer(t *testing.T) {
	for _, tc := range []struct {
		issuer string
		id     string
		status verify.Status
		cause  string
	}{
		{"", "issuer-url", verify.Fail, "empty"},
		{"issuer.example.com", "issuer-url", verify.Fail, "no host"},
		{"http://issuer.example.com", "issuer-url", verify.Fail, "https"},
		{"https://issuer.example.com?tenant=1", "issuer-url", verify.Fail, "query"},
		{"https://issuer.example.com#a", "issuer-url", verify.Fail, "fragment"},
		{"https://user:" + secretBody + "@issuer.example.com", "issuer-url", verify.Fail, "password"},
		{"https://kubernetes.default.svc.cluster.local", "issuer-host", verify.Fail, "inside the cluster only"},
		{"https://10.1.2.3", "issuer-host", verify.Warn, "private address"},
		{"https://oidc.corp.internal", "issuer-host", verify.Warn, "internal name"},
		{"https://localhost", "issuer-host", verify.Warn, "this machine only"},
	} {
		t.Run(tc.issuer, func(t *testing.T) {
			s := newSite(t)
			s.at(tc.issuer)
			r := s.run(t, nil)
			c := find(t, r, tc.id)
			if c.Status != tc.status || !strings.Contains(c.Cause, tc.cause) || c.Cure == "" {
				t.Errorf("%+v, want %s with %q", c, tc.status, tc.cause)
			}
			if bad := with(r, verify.Fail, verify.Error, verify.Warn); !slices.Equal(bad, []string{tc.id}) {
				t.Errorf("also not passed: %v", bad)
			}
			if tc.id == "issuer-url" && len(s.requests) != 0 {
				t.Error("an unusable issuer was asked")
			}
		})
	}
}

func TestRunPlainHTTPOnLoopback(t *testing.T) {
	s := newPlainSite(t)
	r := s.run(t, nil)
	if got := with(r, verify.Warn); !slices.Equal(got, []string{"issuer-url", "issuer-host"}) || r.Verdict != verify.Pass {
		t.Errorf("warnings %v, verdict %s", got, r.Verdict)
	}
}

func TestRunSendsNothingToPrivateAddresses(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	s.document.body = documentFor(publicHost, map[string]any{"jwks_uri": "https://10.0.0.1/openid/v1/jwks"})
	s.run(t, nil)
	if len(s.requests) == 0 {
		t.Error("no request was sent at all")
	}
	for _, r := range s.requests {
		if r.Host != "issuer.example.com" {
			t.Errorf("%s was asked", r.Host)
		}
	}
}

func TestRunCompressed(t *testing.T) {
	s := newSite(t)
	s.at(publicHost)
	s.keys.serve = gzipped(s.keys.body)
	if r := s.run(t, nil); r.Verdict != verify.Pass || len(with(r, verify.Warn)) != 1 {
		t.Errorf("verdict %s, warnings %v", r.Verdict, with(r, verify.Warn))
	}
}

func TestRunUnknownRelyingParty(t *testing.T) {
	_, err := verify.Run(t.Context(), verify.Options{Issuer: publicHost, For: []verify.RelyingParty{"gpc"}})
	if err == nil || !strings.Contains(err.Error(), "gcp, aws, azure, vault, cloudsmith") {
		t.Errorf("got %v", err)
	}
}

func TestReportIsStableJSON(t *testing.T) {
	s := newSite(t)
	var back verify.Report
	if err := json.Unmarshal(marshal(s.run(t, nil)), &back); err != nil || len(back.Checks) == 0 {
		t.Errorf("%v, %d checks", err, len(back.Checks))
	}
}
