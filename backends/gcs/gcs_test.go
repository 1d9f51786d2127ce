package gcs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/backends/gcs"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"
)

const (
	prefix = "clusters/one"
	jwks   = "openid/v1/jwks"
)

func TestBackend(t *testing.T) {
	server := testserver.GCS(t)
	buckets := 0
	backendtest.Run(t, backendtest.Harness{ForbidsNothing: true, NewStore: func(t testing.TB) backendtest.Store {
		buckets++
		bucket := fmt.Sprintf("bucket-%d", buckets)
		server.CreateBucket(t, bucket)
		server.Setenv(t)
		return backendtest.Store{
			Open: func(t testing.TB) publish.Backend { return open(t, bucket) },
			Place: func(t testing.TB, name string, body []byte) {
				request(t, http.MethodPost, server.Endpoint+"/upload/storage/v1/b/"+bucket+"/o?uploadType=media&name="+
					url.QueryEscape(prefix+"/"+name), body)
			},
			Remove: func(t testing.TB, name string) {
				request(t, http.MethodDelete, server.Endpoint+"/storage/v1/b/"+bucket+"/o/"+url.PathEscape(prefix+"/"+name), nil)
			},
			// The emulator requires no credentials. TestErrors has the answers
			// of the real service.
			Forbidden:   func(t testing.TB) publish.Backend { return open(t, bucket) },
			Missing:     func(t testing.TB) publish.Backend { return open(t, "no-such-bucket") },
			MissingCure: "bucket no-such-bucket does not exist",
			Strays:      func(t testing.TB) []string { return strays(t, server, bucket) },
		}
	}})
}

func strays(t testing.TB, server *testserver.GCSServer, bucket string) []string {
	var list struct{ Items []struct{ Name string } }
	must(t, json.Unmarshal(request(t, http.MethodGet, server.Endpoint+"/storage/v1/b/"+bucket+"/o", nil), &list))
	var names []string
	for _, item := range list.Items {
		if !strings.HasPrefix(item.Name, prefix+"/") {
			names = append(names, item.Name)
		}
	}
	return names
}

func request(t testing.TB, method, url string, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: HTTP status %d", method, url, resp.StatusCode)
	}
	return answer
}

func open(t testing.TB, bucket string) publish.Backend {
	t.Helper()
	b, err := gcs.Config{Bucket: bucket, Prefix: prefix}.Open(t.Context())
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func object(body string) publish.Object {
	return publish.Object{Name: jwks, Body: []byte(body), ContentType: "application/json", CacheControl: "public, max-age=60"}
}

// TestPublicObject reads as a relying party would, and opens the backend with
// both spellings of STORAGE_EMULATOR_HOST.
func TestPublicObject(t *testing.T) {
	server := testserver.GCS(t)
	server.CreateBucket(t, "bucket")
	for host, p := range map[string]string{server.Host: "", server.Endpoint: prefix} {
		t.Setenv("STORAGE_EMULATOR_HOST", host)
		b, err := gcs.Config{Bucket: "bucket", Prefix: p}.Open(t.Context())
		must(t, err)
		must(t, b.Put(t.Context(), object("keys"), publish.IfAbsent()))
		must(t, b.Close())
		resp, err := http.Get(strings.TrimSuffix(server.Endpoint+"/bucket/"+p, "/") + "/" + jwks)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != http.StatusOK || string(body) != "keys" ||
			resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "public, max-age=60" {
			t.Errorf("prefix %q: HTTP status %d, body %q, header %v", p, resp.StatusCode, body, resp.Header)
		}
	}
}

// TestLostAcknowledgement: whatever the SDK makes of it, the bytes are there
// and the error isn't that of an absent object.
func TestLostAcknowledgement(t *testing.T) {
	server := testserver.GCS(t)
	server.CreateBucket(t, "bucket")
	proxy := fake.NewFaultProxy(t, server.Endpoint)
	t.Setenv("STORAGE_EMULATOR_HOST", proxy.Host)
	b := open(t, "bucket")
	proxy.Inject(1, fake.Method(http.MethodPost), fake.LoseAck)
	err := b.Put(t.Context(), object("keys"), publish.IfAbsent())
	t.Logf("Put: %v", err)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Put: %v", err)
	}
	got, err := b.Get(t.Context(), jwks)
	must(t, err)
	if !got.Same(object("keys")) {
		t.Errorf("stored: %q", got.Body)
	}
}

func TestBadConnections(t *testing.T) {
	server := testserver.GCS(t)
	server.CreateBucket(t, "bucket")
	proxy := fake.NewFaultProxy(t, server.Endpoint)
	t.Setenv("STORAGE_EMULATOR_HOST", proxy.Host)
	b := open(t, "bucket")
	body := strings.Repeat("k", 10_000)
	must(t, b.Put(t.Context(), object(body), publish.IfAbsent()))

	// The SDK resumes a cut body by itself, from the same generation.
	proxy.Inject(1, fake.Method(http.MethodGet), fake.CutBody)
	if got, err := b.Get(t.Context(), jwks); err != nil || string(got.Body) != body {
		t.Errorf("cut body: %d bytes, error %v", len(got.Body), err)
	}

	put := func(ctx context.Context) error { return b.Put(ctx, object("late"), publish.IfVersion("1")) }
	get := func(ctx context.Context) error { _, err := b.Get(ctx, jwks); return err }
	all := func(*http.Request) bool { return true }

	proxy.Inject(100, all, fake.Delay(time.Minute))
	plain(t, "silent endpoint", briefly(t, put), "no answer in time: context deadline exceeded")
	plain(t, "silent endpoint", briefly(t, get), "no answer in time: context deadline exceeded")
	proxy.Clear()

	proxy.Inject(100, all, fake.Answer(http.StatusTooManyRequests, nil, remote))
	plain(t, "slow down", briefly(t, put), "context deadline exceeded") // the SDK forgets why it tried again
	plain(t, "slow down", briefly(t, get), "slow down (HTTP status 429; it allows one write per second to an object): try again later: context deadline exceeded")

	proxy.Down()
	plain(t, "refused", briefly(t, put), "context deadline exceeded")
	plain(t, "refused", briefly(t, get), "context deadline exceeded")
}

// briefly calls with a short deadline, and fails if the call does not honour
// it.
func briefly(t *testing.T, call func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := call(ctx)
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("took %v in spite of the deadline", took)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline error", err)
	}
	return err
}

// plain fails unless the error contains that text and wraps none of the errors
// that the publisher handles.
func plain(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	t.Logf("%s: %v", what, err)
	if !strings.Contains(err.Error(), text) || !strings.HasPrefix(err.Error(), "gs://bucket") {
		t.Errorf("%s: %q doesn't say %q", what, err, text)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, publish.ErrPrecondition) {
		t.Errorf("%s: %q passes for absent or lost", what, err)
	}
	if strings.Contains(err.Error(), remote) {
		t.Errorf("%s: the error carries the remote's text: %v", what, err)
	}
}

// remote stands for what a server may write into its answers.
const remote = "REMOTE TEXT WITH A SECRET"

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		status int
		reason string
		want   string
	}{
		{401, "authError", "gcloud auth application-default login"},
		{403, "forbidden", "grant roles/storage.objectUser on bucket bucket"},
		{403, "", "storage.objects.create, get and delete"},
		{404, "notFound", "bucket bucket does not exist: create it first"},
		{400, "invalid", "HTTP status 400"},
		{400, "<script>", "HTTP status 400"},
		{418, "", "HTTP status 418"},
	} {
		t.Run(fmt.Sprintf("%d %s", test.status, test.reason), func(t *testing.T) {
			server := httptest.NewServer(answer(test.status, test.reason))
			defer server.Close()
			t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
			b := open(t, "bucket")
			_, err := b.Get(t.Context(), jwks)
			plain(t, "Get", err, test.want)
			plain(t, "Put", b.Put(t.Context(), object("x"), publish.IfAbsent()), test.want)
		})
	}
}

// TestUntrusted: Cloud Storage with a certificate of an unknown authority.
func TestUntrusted(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
	b := open(t, "bucket")
	for what, err := range map[string]error{"Get": getting(t.Context(), b), "Put": b.Put(t.Context(), object("x"), publish.IfAbsent())} {
		plain(t, what, err, "unknown authority: if it is your own, name the authority's certificate in SSL_CERT_FILE, or the directory that holds it in SSL_CERT_DIR")
	}
}

func getting(ctx context.Context, b publish.Backend) error {
	_, err := b.Get(ctx, jwks)
	return err
}

func answer(status int, reason string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		if reason == "" {
			fmt.Fprintf(w, "<html>%s</html>", remote)
			return
		}
		fmt.Fprintf(w, `{"error": {"code": %d, "message": %q, "errors": [{"reason": %q, "message": %q}]}}`, status, remote, reason, remote)
	}
}

// TestAbsentWithoutListing: if listing is forbidden, a 404 is treated as an
// absent object.
func TestAbsentWithoutListing(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusNotFound
		if strings.HasSuffix(r.URL.Path, "/o") {
			status = http.StatusForbidden
		}
		answer(status, "r")(w, r)
	}))
	defer server.Close()
	t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
	if _, err := open(t, "bucket").Get(t.Context(), jwks); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
}

// TestWrongChecksum: bytes that changed on the way are an error.
func TestWrongChecksum(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Goog-Hash", "crc32c=AAAAAA==")
		w.Header().Set("X-Goog-Generation", "1")
		io.WriteString(w, "body")
	}))
	defer server.Close()
	t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
	_, err := open(t, "bucket").Get(t.Context(), jwks)
	plain(t, "Get", err, "bad CRC")
}

func TestCredentials(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("HOME", t.TempDir())
	missing := filepath.Join(t.TempDir(), "missing.json")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", missing)
	_, err := gcs.Config{Bucket: "bucket"}.Open(t.Context())
	plain(t, "missing file", err, "gcloud auth application-default login")
	plain(t, "missing file", err, missing)
}

// TestTokenRefused: the token service's text stays out of the error, and a
// missing subject token doesn't look like an absent object.
func TestTokenRefused(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	server := httptest.NewServer(answer(http.StatusBadRequest, "invalid_grant"))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	file := filepath.Join(t.TempDir(), "credentials.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{
		"type": "external_account",
		"audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url": %q,
		"credential_source": {"file": %q}
	}`, server.URL, token), 0o600))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	_, err := open(t, "bucket").Get(ctx, jwks)
	plain(t, "no subject token", err, "no usable Google credentials")
	must(t, os.WriteFile(token, []byte("subject"), 0o600))
	_, err = open(t, "bucket").Get(ctx, jwks)
	plain(t, "token refused", err, "no usable Google credentials")
}
