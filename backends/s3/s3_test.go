package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/backends/s3"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"
)

const (
	prefix = "clusters/one"
	jwks   = "openid/v1/jwks"
)

func TestBackend(t *testing.T) {
	server := testserver.S3(t)
	secret := server.CreateUser(t, "intruder")
	buckets := 0
	// versitygw keeps objects in files; Amazon accepts long names.
	backendtest.Run(t, backendtest.Harness{ShortNames: true, NewStore: func(t testing.TB) backendtest.Store {
		buckets++
		bucket := fmt.Sprintf("bucket-%d", buckets)
		server.CreateBucket(t, bucket)
		server.Setenv(t)
		return backendtest.Store{
			Open: func(t testing.TB) publish.Backend { return open(t, server.Endpoint, bucket) },
			Place: func(t testing.TB, name string, body []byte) {
				_, err := server.Client().PutObject(t.Context(), &sdk.PutObjectInput{
					Bucket: &bucket, Key: aws.String(prefix + "/" + name), Body: bytes.NewReader(body),
				})
				must(t, err)
			},
			Remove: func(t testing.TB, name string) {
				_, err := server.Client().DeleteObject(t.Context(), &sdk.DeleteObjectInput{
					Bucket: &bucket, Key: aws.String(prefix + "/" + name),
				})
				must(t, err)
			},
			Forbidden: func(t testing.TB) publish.Backend {
				testserver.SetenvAWS(t, "intruder", secret)
				defer server.Setenv(t)
				return open(t, server.Endpoint, bucket)
			},
			ForbiddenCure: "allow s3:PutObject and s3:GetObject on arn:aws:s3:::" + bucket + "/" + prefix + "/*",
			Missing: func(t testing.TB) publish.Backend {
				return open(t, server.Endpoint, "no-such-bucket")
			},
			MissingCure: "bucket no-such-bucket does not exist",
			Strays:      func(t testing.TB) []string { return strays(t, server, bucket) },
		}
	}})
}

func strays(t testing.TB, server *testserver.S3Server, bucket string) []string {
	out, err := server.Client().ListObjectsV2(t.Context(), &sdk.ListObjectsV2Input{Bucket: &bucket})
	must(t, err)
	var keys []string
	for _, o := range out.Contents {
		if !strings.HasPrefix(*o.Key, prefix+"/") {
			keys = append(keys, *o.Key)
		}
	}
	return keys
}

func open(t testing.TB, endpoint, bucket string) publish.Backend {
	t.Helper()
	b, err := s3.Config{Bucket: bucket, Prefix: prefix, Endpoint: endpoint, PathStyle: true}.Open(t.Context())
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

// TestPublicObject reads as a relying party would: what was put is what HTTP
// serves, under the prefix.
func TestPublicObject(t *testing.T) {
	server := testserver.S3(t)
	server.CreateBucket(t, "public")
	server.MakePublic(t, "public")
	server.Setenv(t)
	for _, p := range []string{"", prefix} {
		b, err := s3.Config{Bucket: "public", Prefix: p, Endpoint: server.Endpoint, PathStyle: true}.Open(t.Context())
		must(t, err)
		must(t, b.Put(t.Context(), object("keys"), publish.IfAbsent()))
		resp, err := http.Get(strings.TrimSuffix(server.Endpoint+"/public/"+p, "/") + "/" + jwks)
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

// TestLostAcknowledgement: the SDK retries and finds its own write.
func TestLostAcknowledgement(t *testing.T) {
	server := testserver.S3(t)
	server.CreateBucket(t, "bucket")
	server.Setenv(t)
	proxy := fake.NewFaultProxy(t, server.Endpoint)
	b := open(t, proxy.Endpoint, "bucket")
	proxy.Inject(1, fake.Method(http.MethodPut), fake.LoseAck)
	if err := b.Put(t.Context(), object("keys"), publish.IfAbsent()); !errors.Is(err, publish.ErrPrecondition) {
		t.Errorf("Put: %v", err)
	}
	got, err := b.Get(t.Context(), jwks)
	must(t, err)
	if !got.Same(object("keys")) {
		t.Errorf("stored: %q", got.Body)
	}
}

func TestBadConnections(t *testing.T) {
	server := testserver.S3(t)
	server.CreateBucket(t, "bucket")
	server.Setenv(t)
	proxy := fake.NewFaultProxy(t, server.Endpoint)
	b := open(t, proxy.Endpoint, "bucket")
	must(t, b.Put(t.Context(), object(strings.Repeat("k", 10_000)), publish.IfAbsent()))

	proxy.Inject(1, fake.Method(http.MethodGet), fake.CutBody)
	_, err := b.Get(t.Context(), jwks)
	plain(t, "cut body", err, "unexpected EOF")

	proxy.Inject(100, fake.Method(http.MethodPut), fake.Delay(time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = b.Put(ctx, object("late"), publish.IfAbsent())
	plain(t, "silent endpoint", err, "no answer in time")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent endpoint: %v", err)
	}

	proxy.Down()
	_, err = b.Get(t.Context(), jwks)
	plain(t, "refused", err, "no answer from the store: dial tcp")
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
	if !strings.Contains(err.Error(), text) || !strings.HasPrefix(err.Error(), "s3://bucket") {
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
	testserver.SetenvAWS(t, "key", "secret")
	t.Setenv("AWS_MAX_ATTEMPTS", "1") // each retry waits for seconds
	for _, test := range []struct {
		status   int
		code     string
		header   string // X-Amz-Bucket-Region
		get, put string // what the error says; empty where it is a sentinel
	}{
		{status: 403, code: "AccessDenied", get: "allow s3:GetObject on arn:aws:s3:::bucket/clusters/one/* and s3:ListBucket on arn:aws:s3:::bucket", put: "allow s3:PutObject"},
		{status: 403, code: "", get: "s3:ListBucket", put: "s3:PutObject"},
		{status: 403, code: "InvalidAccessKeyId", get: "refused (InvalidAccessKeyId): renew", put: "renew"},
		{status: 403, code: "SignatureDoesNotMatch", get: "renew them", put: "renew them"},
		{status: 400, code: "ExpiredToken", get: "renew them", put: "renew them"},
		{status: 403, code: "RequestTimeTooSkewed", get: "clock", put: "clock"},
		{status: 404, code: "NoSuchBucket", get: "bucket bucket does not exist", put: "create it first"},
		{status: 301, code: "PermanentRedirect", header: "eu-west-1", get: "in region eu-west-1, not us-east-1: use ?region=eu-west-1", put: "?region=eu-west-1"},
		{status: 301, code: "PermanentRedirect", get: "not in region us-east-1: give its own", put: "?region=REGION"},
		{status: 400, code: "AuthorizationHeaderMalformed", header: "eu-west-1", get: "?region=eu-west-1", put: "?region=eu-west-1"},
		{status: 400, code: "AccessControlListNotSupported", get: "no ACL", put: "no ACL"},
		{status: 501, code: "NotImplemented", get: "use another store", put: "can't do a conditional write"},
		{status: 503, code: "SlowDown", get: "slow down (SlowDown)", put: "try again later"},
		{status: 418, code: "", get: "HTTP status 418", put: "HTTP status 418"},
		{status: 400, code: "<script>", get: "HTTP status 400", put: "HTTP status 400"},
	} {
		t.Run(fmt.Sprintf("%d %s", test.status, test.code), func(t *testing.T) {
			server := httptest.NewServer(answer(test.status, test.code, test.header))
			defer server.Close()
			b := open(t, server.URL, "bucket")
			_, err := b.Get(t.Context(), jwks)
			plain(t, "Get", err, test.get)
			plain(t, "Put", b.Put(t.Context(), object("x"), publish.IfAbsent()), test.put)
		})
	}
}

func answer(status int, code, region string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if region != "" {
			w.Header().Set("X-Amz-Bucket-Region", region)
		}
		w.WriteHeader(status)
		if code != "" {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", strings.ReplaceAll(code, "<", "&lt;"), remote)
		} else {
			fmt.Fprintf(w, "<html>%s</html>", remote)
		}
	}
}

// TestPublicAccessBlocked: this refusal has the code of any other, and is known
// by its message alone.
func TestPublicAccessBlocked(t *testing.T) {
	testserver.SetenvAWS(t, "key", "secret")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>prevented by the BlockPublicPolicy setting in S3 Block Public Access. "+remote+"</Message></Error>")
	}))
	defer server.Close()
	err := open(t, server.URL, "bucket").Put(t.Context(), object("x"), publish.IfAbsent())
	plain(t, "Put", err, "S3 Block Public Access forbids this write")
}

func TestLostRaces(t *testing.T) {
	testserver.SetenvAWS(t, "key", "secret")
	for code, status := range map[string]int{"PreconditionFailed": 412, "ConditionalRequestConflict": 409, "NoSuchKey": 404} {
		server := httptest.NewServer(answer(status, code, ""))
		defer server.Close()
		err := open(t, server.URL, "bucket").Put(t.Context(), object("x"), publish.IfVersion(`"etag"`))
		if !errors.Is(err, publish.ErrPrecondition) || !strings.HasPrefix(err.Error(), "s3://bucket/clusters/one/openid/v1/jwks: ") {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestNoETag(t *testing.T) {
	testserver.SetenvAWS(t, "key", "secret")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "body") }))
	defer server.Close()
	_, err := open(t, server.URL, "bucket").Get(t.Context(), jwks)
	plain(t, "Get", err, "no ETag")
}

func TestCredentials(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	must(t, err)
	defer silent.Close()
	for _, test := range []struct {
		name    string
		timeout time.Duration
		env     map[string]string
		want    string
	}{
		{"none", time.Minute, nil, "no AWS credentials: set AWS_ACCESS_KEY_ID"},
		{"missing token file", time.Minute, map[string]string{
			"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r", "AWS_REGION": "us-east-1",
		}, "/no/such/token"},
		{"metadata server hangs", 200 * time.Millisecond, map[string]string{
			"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://" + silent.Addr().String(),
		}, "context deadline exceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			testserver.SetenvAWS(t, "", "")
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
			defer cancel()
			begin := time.Now()
			b := open(t, "http://127.0.0.1:1", "bucket")
			_, err := b.Get(ctx, jwks)
			plain(t, "Get", err, test.want)
			if took := time.Since(begin); took > test.timeout+3*time.Second {
				t.Errorf("took %v in spite of the deadline", took)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	testserver.SetenvAWS(t, "key", "secret")
	_, err := s3.Config{Bucket: "bucket"}.Open(t.Context())
	plain(t, "no region", err, "add ?region=REGION to the target or set AWS_REGION")
	t.Setenv("AWS_REGION", "eu-west-1")
	_, err = s3.Config{Bucket: "bucket"}.Open(t.Context())
	must(t, err)
	t.Setenv("AWS_PROFILE", "nobody")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "config"))
	_, err = s3.Config{Bucket: "bucket"}.Open(t.Context())
	plain(t, "no such profile", err, "nobody")
}

// TestStoreThatIgnoresConditions records why the publisher probes a store.
func TestStoreThatIgnoresConditions(t *testing.T) {
	server := testserver.S3rver(t)
	server.CreateBucket(t, "bucket")
	server.Setenv(t)
	b := open(t, server.Endpoint, "bucket")
	must(t, b.Put(t.Context(), object("first"), publish.IfAbsent()))
	must(t, b.Put(t.Context(), object("second"), publish.IfAbsent()))
}
