package exchange

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// FuzzReasons: whatever a service writes, an error contains only a short part,
// without tokens and without terminal control characters.
func FuzzReasons(f *testing.F) {
	const secret = "eyJhbGciOiJSUzI1NiIsImtpZCI6IkFCQyJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLmNvbSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
	for _, seed := range []string{
		"", "null", "[]", `{"detail": "no"}`, `{"detail": 5, "fields": {"a": ["b"]}}`, `{"detail": "x", "fields": {"a": "b"}}`,
		`{"error": "invalid_grant", "error_description": "` + secret + `"}`, `{"error": {"message": "m", "status": "S", "details": [{"reason": "R", "metadata": {"permission": "p"}}]}}`,
		`{"detail": "` + secret[10:24] + " " + secret[24:40] + " " + secret[40:55] + `"}`, // too short to look like a token
		`{"detail": "` + secret[:30] + " " + secret[30:] + `"}`, "{\"detail\": \"\x1b[31m\u202e\xff" + secret[5:40] + "\"}", "keyed-references survey monkeypatching", secret + secret,
	} {
		f.Add([]byte(seed), 3)
	}
	jwt := regexp.MustCompile(`ey[A-Z][A-Za-z0-9_-]{9}`)
	f.Fuzz(func(t *testing.T, body []byte, cut int) {
		for name, parse := range map[string]func([]byte) (string, string){"Cloudsmith": cloudsmithReason, "Google": googleReason, "raw": func(b []byte) (string, string) { return string(b), secret[:max(min(cut, len(secret)), 0)] + string(b) }} {
			code, text := parse(body)
			for _, got := range []string{httpx.MaskForeign(code, secret), httpx.MaskForeign(text, secret)} {
				if len(got) > 400+len("…") || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%s: %q", name, got)
				}
				if jwt.MatchString(got) {
					t.Errorf("%s: like a JWT: %q", name, got)
				}
				const piece = 12 // not a coincidence
				for i := 0; i+piece <= len(got); i++ {
					if strings.Contains(secret, got[i:i+piece]) {
						t.Errorf("%s: a piece of the secret: %q", name, got)
					}
				}
			}
		}
	})
}

// TestCleanKeepsWords: what a person needs of a reason stays.
func TestCleanKeepsWords(t *testing.T) {
	for _, text := range []string{
		"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
		"The audience in ID Token [https://iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a] does not match the expected audience.",
		"puller-of-images-for-everyone-else@acme-production-1234.iam.gserviceaccount.com",
		"keycloak-production and survey-monkeypatching are names, 3f0c7f6e-98d3-41f1-a7a0-0d4d8e4f4b0c is one too",
	} {
		if got := httpx.MaskForeign(text, "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}

// FuzzRefuseAPIToken: no token file crashes the check, and its refusal quotes no
// part of the token.
func FuzzRefuseAPIToken(f *testing.F) {
	for _, seed := range []string{"", "a.b.c", "e30.e30.", "eyJraWQiOiJhIn0.eyJhdWQiOiJhIiwiZXhwIjoxfQ.x", "eyJhbGciOiJhIn0.eyJhdWQiOlsiYXBpIiwiYiJdfQ.eA", "eyJhbGciOiJhIn0.e30.eA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		err := RefuseAPIToken(discovery.NewToken(raw), "")
		for part := range strings.SplitSeq(strings.TrimSpace(raw), ".") {
			if err != nil && len(part) > 16 && strings.Contains(err.Error(), part) {
				t.Errorf("quotes the token: %v", err)
			}
		}
	})
}

// FuzzCredentialConfig: an accepted file names only Google's hosts, gives an
// exchanger, and keeps its meaning when it is written and read again.
func FuzzCredentialConfig(f *testing.F) {
	const good = `{"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url": "https://sts.googleapis.com/v1/token", "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@b.c:generateAccessToken",
		"service_account_impersonation": {"token_lifetime_seconds": 600}, "credential_source": {"file": "/token", "format": {"type": "json", "subject_token_field_name": "t"}}}`
	for _, pair := range [][2]string{
		{"", ""}, {"sts.googleapis.com", "sts.evil.com"}, {"sts.googleapis.com", "sts.us-east4.rep.googleapis.com"}, {"https://sts", "http://sts"}, {"sts.googleapis.com", "sts.googleapis.com:8443"},
		{"sts.googleapis.com", "sts.googleapis.com@evil.com"}, {"sts.googleapis.com", "evil.com/sts.googleapis.com"}, {`"file"`, `"url"`}, {`"file": "/token"`, `"file": "/token", "executable": {}`}, {"600", "-1"}, {"a@b.c", "a@b.c/../x"},
	} {
		f.Add([]byte(strings.Replace(good, pair[0], pair[1], 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		config, source, err := ReadCredentialConfig(data, "", "")
		if err != nil {
			return
		}
		if source.Path == "" {
			t.Error("no file")
		}
		for service, base := range map[string]string{"sts": config.STSURL, "iamcredentials": config.IAMURL} {
			u, err := url.Parse(base)
			if base != "" && (err != nil || u.Scheme != "https" || u.User != nil || !strings.HasPrefix(u.Host, service+".") || !strings.HasSuffix(u.Host, ".googleapis.com")) {
				t.Errorf("it leads to %q", base)
			}
		}
		if _, err := GCP(config); err != nil {
			t.Errorf("it was taken and does not work: %v", err)
		}
		written, err := config.CredentialConfig(source.Path)
		if err != nil {
			t.Fatal(err)
		}
		again, file, err := ReadCredentialConfig(written, "", "")
		normal, _ := config.normal()
		normal.Scopes = nil
		if again.IAMURL == "" {
			again.IAMURL = IAMURL
		}
		if err != nil || file.Path != source.Path || !sameJSON(t, again, normal) {
			t.Errorf("written and read again: %+v, was %+v, error %v", again, normal, err)
		}
	})
}

func sameJSON(t *testing.T, a, b GCPConfig) bool {
	t.Helper()
	texts := [2]string{}
	for i, config := range []GCPConfig{a, b} {
		text, err := json.Marshal([]any{config.Provider, config.ServiceAccount, config.Lifetime, config.STSURL, config.IAMURL})
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return texts[0] == texts[1]
}
