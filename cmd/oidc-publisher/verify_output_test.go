package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"oidc-publisher/discovery/verify"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// verifyReport has every status, and what a hostile server may send.
func verifyReport() verify.Report {
	return verify.Report{
		Issuer:  "https://issuer.example.com",
		Verdict: verify.Fail,
		Checks: []verify.Check{
			{ID: "issuer-url", Title: "issuer is a well-formed https URL", Status: verify.Pass, Evidence: `"https://issuer.example.com"`},
			{ID: "jwks-cache", Title: "key set has a short cache lifetime", Status: verify.Warn, Evidence: "24h0m0s",
				Cause: "a new key may stay hidden for 24h0m0s", Cure: "publish with a short Cache-Control"},
			{ID: "document-content-type", Title: "discovery document has the right content type", Status: verify.Fail, Evidence: "text/\x1b[31m<html>&\"\u202e\x00 ]]>\xff",
				Cause: "the body is a web page", Cure: "let the two documents through\nwithout login"},
			{ID: "document-reachable", Title: "discovery document can be reached", Status: verify.Error, Evidence: "https://issuer.example.com/",
				Cause: "no answer came in time", Cure: "check firewalls"},
			{ID: "jwks-keys", Title: "keys are public, well-formed and unique", Status: verify.Skip, Blocked: true, Evidence: "not fetched: an earlier check says why"},
			{ID: "jwks-algorithms", Title: "discovery document lists the keys' algorithms", Status: verify.Skip, Blocked: true, Evidence: "the key set could not be read"},
			{ID: "document-tls", Title: "discovery document has a valid TLS certificate", Status: verify.Skip, Evidence: "plain http"},
		},
	}
}

func TestRenderVerify(t *testing.T) {
	for _, tc := range []struct {
		golden, format string
		colour         bool
	}{
		{"report.txt", "text", false},
		{"report-colour.txt", "text", true},
		{"report.json", "json", true},
		{"report.xml", "junit", true},
	} {
		t.Run(tc.golden, func(t *testing.T) {
			var out bytes.Buffer
			if err := renderVerify(&out, verifyReport(), tc.format, tc.colour); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "verify", tc.golden)
			if *updateGolden {
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("differs from %s (-want +got), run with -update if it should:\n%s", path, diff)
			}
		})
	}
}

func TestRenderVerifyEscapesControlCharacters(t *testing.T) {
	for _, format := range []string{"text", "json", "junit"} {
		var out bytes.Buffer
		if err := renderVerify(&out, verifyReport(), format, false); err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' || r == '\u202e' && format != "json" }); i >= 0 {
			t.Errorf("%s holds the character %U", format, out.String()[i])
		}
	}
}

func TestRenderVerifyIsWellFormed(t *testing.T) {
	var out bytes.Buffer
	if err := renderVerify(&out, verifyReport(), "json", false); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(out.Bytes()) {
		t.Error("not JSON")
	}
	out.Reset()
	if err := renderVerify(&out, verifyReport(), "junit", false); err != nil {
		t.Fatal(err)
	}
	decoder := xml.NewDecoder(&out)
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRenderVerifyWithoutChecks(t *testing.T) {
	var out bytes.Buffer
	if err := renderVerify(&out, verify.Report{Verdict: verify.Pass}, "json", false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"checks": []`) {
		t.Errorf("no empty list in %s", out.String())
	}
}
