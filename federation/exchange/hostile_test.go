package exchange_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/fake"
)

// step is one request of an exchange, which a hostile server can answer.
type step struct {
	name string
	// made is an exchanger whose request goes to the address.
	made func(t *testing.T, w world, address string, calling exchange.Calling) exchange.Exchanger
	// good is an answer of the real service.
	good func(token string) string
	// audience is that of the subject token.
	audience string
}

func steps() []step {
	google := func(config exchange.GCPConfig) exchange.GCPConfig {
		config.Provider, config.ServiceAccount = provider, account
		return config
	}
	gcp := func(t *testing.T, config exchange.GCPConfig) exchange.Exchanger {
		t.Helper()
		e, err := exchange.GCP(config)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	soon := time.Now().Add(time.Hour).UTC()
	return []step{
		{"Cloudsmith", func(t *testing.T, _ world, address string, calling exchange.Calling) exchange.Exchanger {
			e, err := exchange.Cloudsmith(exchange.CloudsmithConfig{Org: "acme", Service: "puller", URL: address, Calling: calling})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}, func(token string) string { return fmt.Sprintf(`{"token": %q}`, token) }, audience},
		{"Google STS", func(t *testing.T, w world, address string, calling exchange.Calling) exchange.Exchanger {
			config := google(exchange.GCPConfig{STSURL: address, IAMURL: w.google.URL, Calling: calling})
			config.ServiceAccount = ""
			return gcp(t, config)
		}, func(token string) string {
			return fmt.Sprintf(`{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, token)
		}, "//iam.googleapis.com/" + provider},
		{"Google IAM", func(t *testing.T, w world, address string, calling exchange.Calling) exchange.Exchanger {
			return gcp(t, google(exchange.GCPConfig{STSURL: w.google.URL, IAMURL: address, Calling: calling}))
		}, func(token string) string {
			return fmt.Sprintf(`{"accessToken": %q, "expireTime": %q}`, token, soon.Format(time.RFC3339))
		}, "//iam.googleapis.com/" + provider},
	}
}

// jwtExpiring is a token of a service, of which only exp matters.
func jwtExpiring(at time.Time) string {
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return part(map[string]string{"alg": "HS256"}) + "." + part(map[string]int64{"exp": at.Unix()}) + "." + strings.Repeat("s", 43)
}

// secretsIn are the tokens that a request carries.
func secretsIn(r *http.Request, body []byte) []string {
	var all []string
	for _, field := range strings.FieldsFunc(string(body)+" "+r.Header.Get("Authorization"), func(c rune) bool { return strings.ContainsRune(` "&=:{},`, c) }) {
		if strings.HasPrefix(field, "eyJ") || strings.HasPrefix(field, "ya29.") {
			all = append(all, field)
		}
	}
	return all
}

type hostile struct {
	name   string
	answer func(s step, attempt int64, secrets []string, w http.ResponseWriter, r *http.Request)
	// wants is in the error; "" is success.
	wants string
	// attempts that are made in all, 0 for any.
	attempts int64
	// status of a *RefusedError, or later for an *UnavailableError.
	refused, later bool
}

func say(status int, body string) func(step, int64, []string, http.ResponseWriter, *http.Request) {
	return func(_ step, _ int64, _ []string, w http.ResponseWriter, r *http.Request) {
		fake.AnswerWith(status, body)(w, r)
	}
}

func token(choose func(secrets []string) string) func(step, int64, []string, http.ResponseWriter, *http.Request) {
	return func(s step, _ int64, secrets []string, w http.ResponseWriter, r *http.Request) {
		fake.AnswerWith(http.StatusOK, s.good(choose(secrets)))(w, r)
	}
}

func fixed(token string) func([]string) string { return func([]string) string { return token } }

func hostiles(elsewhere string) []hostile {
	good := jwtExpiring(time.Now().Add(time.Hour))
	reflect := func(status int, body string) func(step, int64, []string, http.ResponseWriter, *http.Request) {
		return func(_ step, _ int64, secrets []string, w http.ResponseWriter, r *http.Request) {
			secret := strings.Join(secrets, " ")
			fake.AnswerWith(status, strings.ReplaceAll(body, "TOKEN", secret))(w, r)
		}
	}
	return []hostile{
		{name: "slow", answer: func(_ step, _ int64, _ []string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, wants: "no answer in time (4 attempts)", later: true},
		{name: "hangs up", answer: func(step, int64, []string, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, wants: "connection broke", attempts: 4, later: true},
		{name: "hangs up within the answer", answer: func(_ step, _ int64, _ []string, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"token": "`)
		}, wants: "connection broke", attempts: 4, later: true},
		{name: "huge", answer: say(200, `{"token": "`+strings.Repeat("a", 2<<20)+`"}`), wants: "more than 1048576 bytes", attempts: 1},
		{name: "huge refusal", answer: say(400, strings.Repeat("a", 2<<20)), wants: "more than 1048576 bytes", attempts: 1},
		{name: "gzip bomb", answer: bomb(), wants: "more than 1048576 bytes", attempts: 1},
		{name: "HTML", answer: say(200, "<html><body>Please log in</body></html>"), wants: "not the JSON", attempts: 1},
		{name: "HTML refusal", answer: say(403, "<html>Blocked by <b>policy</b></html>"), wants: "without a reason", attempts: 1, refused: true},
		{name: "nothing", answer: say(200, ""), wants: "not the JSON", attempts: 1},
		{name: "no content", answer: say(204, ""), wants: "HTTP 204", attempts: 1},
		{name: "truncated JSON", answer: say(200, `{"token": "ey`), wants: "not the JSON", attempts: 1},
		{name: "a list", answer: say(200, `["token"]`), wants: "not the JSON", attempts: 1},
		{name: "a token of another type", answer: say(200, `{"token": {"a": 1}, "access_token": 5, "accessToken": []}`), wants: "not the JSON", attempts: 1},
		{name: "no token", answer: say(200, `{}`), wants: "without a token", attempts: 1},
		{name: "empty token", answer: token(fixed("")), wants: "without a token", attempts: 1},
		{name: "blank token", answer: token(fixed(" \t")), wants: "without a token", attempts: 1},
		{name: "token with a line break", answer: token(fixed("abc\nexport X=1")), wants: "not a token", attempts: 1},
		{name: "endless token", answer: token(fixed(strings.Repeat("a", 100<<10))), wants: "not a token", attempts: 1},
		{name: "our own token", answer: token(func(secrets []string) string { return secrets[0] }), wants: "sent back the token", attempts: 1},
		{name: "another content type", answer: func(s step, _ int64, _ []string, w http.ResponseWriter, r *http.Request) {
			fake.AnswerWith(200, s.good(good), "Content-Type", "text/plain")(w, r)
		}, attempts: 1},
		{name: "opaque token", answer: token(fixed("opaque-token")), attempts: 1},
		{name: "redirect to another host", answer: redirect(elsewhere, 307), wants: "to the configured address only", attempts: 1},
		{name: "redirect to another host as GET", answer: redirect(elsewhere, 302), wants: "to the configured address only", attempts: 1},
		{name: "redirect loop", answer: redirect("", 308), wants: "to the configured address only", attempts: 1},
		{name: "500, then good", answer: first(500, `{}`, "", good), attempts: 2},
		{name: "429, then good", answer: first(429, `{}`, "1", good), attempts: 2},
		{name: "500 for ever", answer: say(500, `{"detail": "no"}`), wants: "HTTP 500", attempts: 4, later: true},
		{name: "429 for an hour", answer: first(429, `{"detail": "Request was throttled.", "error": "throttled"}`, "3304", good), wants: "retry after 55m4s", attempts: 1, later: true},
		{name: "429 for ages", answer: first(429, `{}`, "99999999999999999", good), wants: "retry after 720h", attempts: 1, later: true},
		{name: "503 until a date", answer: first(503, `{}`, time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), good), wants: "retry after", attempts: 1, later: true},
		{name: "401", answer: say(401, `{"detail": "No.", "error": "invalid_client", "error_description": "No."}`), wants: "No.", attempts: 1, refused: true},
		{name: "422", answer: say(422, `{"detail": "Bad.", "fields": {"service_slug": ["Unknown."]}, "error": {"message": "service_slug: Unknown.", "status": "INVALID_ARGUMENT"}}`), wants: "service_slug: Unknown.", attempts: 1, refused: true},
		{name: "control characters", answer: say(400, `{"detail": "a\u001b[31m\u202eb\nc", "error": "a\u001b[31m\u202eb\nc"}`), wants: "a [31m b c", attempts: 1, refused: true},
		{name: "endless reason", answer: say(400, `{"detail": "`+strings.Repeat("long ", 10000)+`", "error": "`+strings.Repeat("long ", 10000)+`"}`), wants: "…", attempts: 1, refused: true},
		{name: "reflects the token", answer: reflect(400, `{"detail": "bad token TOKEN", "error": "invalid_grant", "error_description": "bad token TOKEN"}`), wants: "bad token [masked]", attempts: 1, refused: true},
		{name: "reflects it in an error code", answer: reflect(400, `{"error": "TOKEN", "detail": "TOKEN"}`), wants: "[masked]", attempts: 1, refused: true},
		{name: "reflects it in a status", answer: reflect(403, `{"detail": "TOKEN", "error": {"message": "TOKEN", "status": "TOKEN", "details": [{"reason": "TOKEN", "metadata": {"permission": "TOKEN"}}]}}`), wants: "[masked]", attempts: 1, refused: true},
		{name: "reflects it raw", answer: reflect(400, `TOKEN`), wants: "without a reason", attempts: 1, refused: true},
		{name: "reflects it in bad JSON", answer: reflect(200, `{"token": TOKEN}`), wants: "not the JSON", attempts: 1},
		{name: "reflects it in a redirect", answer: func(_ step, _ int64, secrets []string, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://"+secrets[0][:60]+".example.com/"+secrets[0])
			w.WriteHeader(302)
		}, wants: "to the configured address only", attempts: 1},
		{name: "reflects a piece of it in a redirect", answer: func(_ step, _ int64, secrets []string, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://"+secrets[0][len(secrets[0])-20:]+".example.com/")
			w.WriteHeader(302)
		}, wants: "[masked]", attempts: 1},
	}
}

// bomb is small when compressed, and decompresses to eight times the limit.
func bomb() func(step, int64, []string, http.ResponseWriter, *http.Request) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(make([]byte, 8<<20))
	_ = z.Close()
	return func(_ step, _ int64, _ []string, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}
}

func redirect(to string, status int) func(step, int64, []string, http.ResponseWriter, *http.Request) {
	return func(_ step, _ int64, _ []string, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to+r.URL.Path, status)
	}
}

// first answers the first request with a fault and the next ones well.
func first(status int, body, retryAfter, good string) func(step, int64, []string, http.ResponseWriter, *http.Request) {
	return func(s step, attempt int64, _ []string, w http.ResponseWriter, r *http.Request) {
		if attempt > 1 {
			fake.AnswerWith(http.StatusOK, s.good(good))(w, r)
			return
		}
		var header []string
		if retryAfter != "" {
			header = []string{"Retry-After", retryAfter}
		}
		fake.AnswerWith(status, body, header...)(w, r)
	}
}

// TestHostileServers: whatever a server does, the exchange ends in time with
// an error that says what happened, and a token goes nowhere else.
func TestHostileServers(t *testing.T) {
	w := newWorld(t)
	var leaked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Add(1) }))
	t.Cleanup(elsewhere.Close)
	for _, s := range steps() {
		for _, h := range hostiles(elsewhere.URL) {
			t.Run(s.name+"/"+h.name, func(t *testing.T) {
				var attempts atomic.Int64
				server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					n := attempts.Add(1)
					body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
					h.answer(s, n, secretsIn(r, body), rw, r)
				}))
				t.Cleanup(server.Close)
				calling := quick()
				if h.name == "slow" {
					calling.Timeout = 50 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				subject := w.token(t, s.audience, time.Hour)
				credential, err := s.made(t, w, server.URL, calling).Exchange(ctx, subject)
				h.check(t, credential, err, subject)
				if got := attempts.Load(); h.attempts != 0 && got != h.attempts {
					t.Errorf("%d attempts, want %d", got, h.attempts)
				}
				if ctx.Err() != nil {
					t.Error("it took as long as it was given")
				}
			})
		}
	}
	if leaked.Load() > 0 {
		t.Error("a redirect was followed")
	}
}

func (h hostile) check(t *testing.T, credential exchange.Credential, err error, subject discovery.Token) {
	t.Helper()
	if h.wants == "" {
		if err != nil || !credential.Password.Given() {
			t.Errorf("error %v", err)
		}
		return
	}
	if err == nil {
		t.Fatal("no error")
	}
	text := fmt.Sprintf("%v %+v %q", err, err, err)
	if !strings.Contains(err.Error(), h.wants) {
		t.Errorf("error %q, want %q", err, h.wants)
	}
	var refused *exchange.RefusedError
	var later *exchange.UnavailableError
	if errors.As(err, &refused) != h.refused || errors.As(err, &later) != h.later {
		t.Errorf("error of type %T", err)
	}
	if refused != nil {
		text += refused.Code + refused.Reason
	}
	for _, part := range strings.Split(subject.Reveal(), ".") {
		if strings.Contains(text, part[:12]) || strings.Contains(text, part[len(part)-12:]) {
			t.Error("the error has a piece of the token")
		}
	}
	if strings.Contains(text, "ya29.d.b0Aaek") {
		t.Error("the error has a piece of the federated token")
	}
	if len(err.Error()) > 1000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("error %q", err)
	}
}

// TestOpaqueTokenHasNoExpiry: its lifetime is unknown.
func TestOpaqueTokenHasNoExpiry(t *testing.T) {
	w := newWorld(t)
	for token, want := range map[string]string{
		"opaque": "", "a.b.c": "", "e30.e30.e30": "",
		jwtExpiring(time.Now().Add(-time.Minute)): "expired",
		jwtExpiring(time.Unix(0, 0)):              "",
	} {
		w.cloudsmith.Next(fake.AnswerWith(http.StatusOK, fmt.Sprintf(`{"token": %q}`, token)))
		got, err := w.atCloudsmith(t).Exchange(t.Context(), w.token(t, audience, time.Hour))
		switch {
		case want == "" && (err != nil || !got.Expiry.IsZero()):
			t.Errorf("%s: error %v, expiry %v", token, err, got.Expiry)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want %q", token, err, want)
		}
	}
}

// TestInvalidLifetimes: Google says how long a token lives, or there is none.
func TestInvalidLifetimes(t *testing.T) {
	w := newWorld(t)
	for name, answer := range map[string]string{
		"sts none": `{"access_token": "abc"}`, "sts zero": `{"access_token": "abc", "expires_in": 0}`, "sts negative": `{"access_token": "abc", "expires_in": -5}`,
		"sts endless": `{"access_token": "abc", "expires_in": 9223372036854775807}`, "sts text": `{"access_token": "abc", "expires_in": "soon"}`,
		"iam none": `{"accessToken": "abc"}`, "iam bad": `{"accessToken": "abc", "expireTime": "tomorrow"}`, "iam past": `{"accessToken": "abc", "expireTime": "2001-01-01T00:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			bad := httptest.NewServer(fake.AnswerWith(http.StatusOK, answer))
			t.Cleanup(bad.Close)
			e := w.atGoogle(t, func(c *exchange.GCPConfig) {
				if strings.HasPrefix(name, "sts") {
					c.STSURL, c.ServiceAccount = bad.URL, ""
				} else {
					c.IAMURL = bad.URL
				}
			})
			got, err := e.Exchange(t.Context(), w.token(t, "//iam.googleapis.com/"+provider, time.Hour))
			if err == nil || strings.Contains(err.Error(), answer) {
				t.Errorf("error %v, credential until %v", err, got.Expiry)
			}
		})
	}
}

// TestNoAnswer: no answer at all, and a certificate of an unknown authority.
func TestNoAnswer(t *testing.T) {
	w := newWorld(t)
	strange := httptest.NewUnstartedServer(http.NotFoundHandler())
	strange.Config.ErrorLog = log.New(io.Discard, "", 0)
	strange.StartTLS()
	t.Cleanup(strange.Close)
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, s := range steps() {
		for address, want := range map[string]string{closed.URL: "connection refused (4 attempts)", strange.URL: "not trusted: if it is your own, name the authority's certificate in SSL_CERT_FILE, or the directory that holds it in SSL_CERT_DIR"} {
			_, err := s.made(t, w, address, quick()).Exchange(t.Context(), w.token(t, s.audience, time.Hour))
			var later *exchange.UnavailableError
			if !errors.As(err, &later) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", s.name, err, want)
			}
		}
	}
}

// TestEndOfContext: the errors of a deadline and of a cancellation differ.
func TestEndOfContext(t *testing.T) {
	w := newWorld(t)
	for _, s := range steps() {
		silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // without it the server does not notice that the client left
			<-r.Context().Done()
		}))
		short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for want, ctx := range map[error]context.Context{context.DeadlineExceeded: short, context.Canceled: ended} {
			start := time.Now()
			_, err := s.made(t, w, silent.URL, quick()).Exchange(ctx, w.token(t, s.audience, time.Hour))
			if !errors.Is(err, want) || time.Since(start) > 5*time.Second {
				t.Errorf("%s: error %v after %v, want %v", s.name, err, time.Since(start), want)
			}
		}
		cancelShort()
		silent.Close()
	}
}
