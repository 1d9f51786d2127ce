package credentialprovider

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
)

// requestOf asks for an image of acme with a token of an issuer.
func requestOf(issuer, audience string) (request, token string) {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	token = part(`{"alg":"RS256","kid":"k"}`) + "." + part(fmt.Sprintf(`{"iss":%q,"aud":[%q],"sub":"system:serviceaccount:a:b","exp":4000000000}`, issuer, audience)) + "." + part("seal")
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"image":"docker.cloudsmith.io/acme/app","serviceAccountToken":%q}`, apiVersion, requestKind, token), token
}

// asking is the plugin of a service at a URL.
func asking(t *testing.T, url string, budget time.Duration) *Plugin {
	t.Helper()
	s := NewSettings()
	s.Org.Pinned, s.Service.Pinned, s.CloudsmithURL, s.Timeout = "acme", "puller", url, budget
	p, err := s.Plugin(ProviderCloudsmith)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// silent is the URL of a server that accepts connections and never answers.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return "http://" + listener.Addr().String()
}

func TestFailures(t *testing.T) {
	issuer := silent(t)
	_, token := requestOf(issuer, "https://api.cloudsmith.io")
	answering := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	const budget = 3 * time.Second
	for _, c := range []struct{ name, url, want string }{
		{"silence", silent(t), "can't be reached"},
		{"closed", "http://127.0.0.1:1", "connection refused"},
		{"a page", answering(http.StatusOK, "<html>SECRET-OF-THEIRS</html>"), "not the JSON"},
		{"the token back", answering(http.StatusOK, fmt.Sprintf(`{"token":%q}`, token)), "the token that it was given"},
		{"nothing", answering(http.StatusCreated, `{"token":""}`), "without a token"},
		{"overloaded", answering(http.StatusServiceUnavailable, `{"detail":"SECRET-OF-THEIRS"}`), "HTTP 503"},
		{"throttled", answering(http.StatusTooManyRequests, `{"detail":"later"}`), "HTTP 429"},
		{"refused, and the issuer hangs", answering(http.StatusUnauthorized, `{"detail":"no"}`), "likely cause: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			request, _ := requestOf(issuer, "https://api.cloudsmith.io")
			var out bytes.Buffer
			began := time.Now()
			err := asking(t, c.url, budget).Answer(t.Context(), strings.NewReader(request), &out)
			if took := time.Since(began); took > 2*budget {
				t.Errorf("it took %v, and had %v", took, budget)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
				t.Fatalf("error %v, wrote %q", err, &out)
			}
			if strings.Contains(err.Error(), token[:40]) || strings.Contains(err.Error(), "html") || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("it tells too much: %v", err)
			}
		})
	}
}

// TestTokenForTheAPIServer: such a token is not sent, because its receiver could
// act in the cluster with it.
func TestTokenForTheAPIServer(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	request, _ := requestOf("https://issuer.example.com", "https://issuer.example.com")
	err := asking(t, server.URL, time.Second).Answer(t.Context(), strings.NewReader(request), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "serviceAccountTokenAudience") || asked {
		t.Errorf("error %v; it was sent: %t", err, asked)
	}
}

func TestAnswerEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	request, _ := requestOf("https://issuer.example.com", "https://api.cloudsmith.io")
	if err := asking(t, silent(t), time.Minute).Answer(ctx, strings.NewReader(request), &bytes.Buffer{}); err == nil {
		t.Error("no error")
	}
}

func TestTooLarge(t *testing.T) {
	err := asking(t, "", time.Second).Answer(t.Context(), strings.NewReader(strings.Repeat(" ", maxRequest+1)), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
}

func TestParseImage(t *testing.T) {
	for reference, want := range map[string]Image{
		"docker.cloudsmith.io/acme/app:1": {"docker.cloudsmith.io", "acme/app"},
		"localhost/app":                   {"localhost", "app"},
		"127.0.0.1:5000/a/b@sha256:00":    {"127.0.0.1:5000", "a/b"},
		"[::1]:5000/a":                    {"[::1]:5000", "a"},
		"ubuntu:24.04":                    {"docker.io", "ubuntu"},
		"library/ubuntu":                  {"docker.io", "library/ubuntu"},
		"":                                {"docker.io", ""},
		"docker.cloudsmith.io/acme/app:1@sha256:00": {"docker.cloudsmith.io", "acme/app"},
	} {
		if got := ParseImage(reference); got != want {
			t.Errorf("%q: %+v, want %+v", reference, got, want)
		}
	}
	if text := ParseImage("docker.cloudsmith.io/a\nb").String(); strings.Contains(text, "\n") {
		t.Errorf("%q", text)
	}
}

// TestMatchHost: a credential goes to no other host than the administrator's.
func TestMatchHost(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          bool
	}{
		{"docker.cloudsmith.io", "docker.cloudsmith.io", true},
		{"*.pkg.dev", "europe-docker.pkg.dev", true},
		{"docker.cloudsmith.io", "docker.cloudsmith.io.evil.example.com", false},
		{"docker.cloudsmith.io", "evil.docker.cloudsmith.io", false},
		{"*.pkg.dev", "a.b.pkg.dev", false},
		{"*.pkg.dev", "pkg.dev", false},
		{"*.pkg.dev", "europe.pkg.dev.evil", false},
		{"*.pkg.dev", "evilpkg.dev", false},
		{"docker.example.com", "docker.example.com:5000", false},
		{"docker.example.com:5000", "docker.example.com", false},
		{"docker.example.com:5000", "docker.example.com:5000", true},
	} {
		if got := matchHost(c.pattern, c.host); got != c.want {
			t.Errorf("%s matches %s: %t", c.pattern, c.host, got)
		}
	}
}

// slow uses all of its time, and then the service refuses.
type slow struct{ had *time.Duration }

func (s slow) Exchange(ctx context.Context, _ discovery.Token) (exchange.Credential, error) {
	deadline, _ := ctx.Deadline()
	*s.had = time.Until(deadline)
	return exchange.Credential{}, errors.New("no")
}

// TestTimeIsLeftToExplain of a refusal.
func TestTimeIsLeftToExplain(t *testing.T) {
	request, _ := requestOf("https://issuer.example.com", "https://api.cloudsmith.io")
	var had time.Duration
	p := &Plugin{Budget: 10 * time.Second, Now: time.Now, Service: func(Image, map[string]string) (*Access, error) {
		return &Access{Exchanger: slow{&had}, Key: "key"}, nil
	}}
	if err := p.Answer(t.Context(), strings.NewReader(request), &bytes.Buffer{}); err == nil || had > 8*time.Second || had < 7*time.Second {
		t.Errorf("the exchange had %v of 10 s, error %v", had, err)
	}
}

func TestProviderOf(t *testing.T) {
	for program, want := range map[string]string{
		"/usr/local/bin/oidc-publisher-credential-provider-gcp": ProviderGCP,
		"oidc-publisher-credential-provider-cloudsmith":         ProviderCloudsmith,
		"cloudsmith-kubernetes-credential-provider":             ProviderCloudsmith,
		"oidc-publisher-credential-provider":                    "",
		"oidc-publisher-credential-provider-aws":                "",
		"gcp":                                                   "",
	} {
		if got := ProviderOf(program); got != want {
			t.Errorf("%s: %q", program, got)
		}
	}
}
