package testserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// S3Region is the region that the S3 servers sign for.
const S3Region = "us-east-1"

// S3Server is an S3 server that checks signatures, policies and preconditions
// (versitygw) or one that checks none of them (S3rver). Its data survives Restart.
type S3Server struct {
	*Process
	// Endpoint is the base URL, for path-style requests.
	Endpoint string
	// AccessKey and SecretKey are the owner's credentials.
	AccessKey, SecretKey string
	// Dir holds the data.
	Dir string
}

// S3 starts versitygw over a temporary folder, with random credentials.
func S3(t testing.TB) *S3Server {
	t.Helper()
	path := Require(t, "versitygw")
	base := t.TempDir()
	s := &S3Server{AccessKey: "owner", SecretKey: rand.Text(), Dir: filepath.Join(base, "data")}
	iam := filepath.Join(base, "iam")
	for _, dir := range []string{s.Dir, iam} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	address := s.listen(t)
	s.Process = Start(t, Command{
		Name: "versitygw",
		Path: path,
		Args: []string{"--port", address, "--region", S3Region, "--health", "/health", "--iam-dir", iam, "--iam-cache-disable", "posix", s.Dir},
		// Its own variables keep the credentials off the command line.
		Env:   []string{"ROOT_ACCESS_KEY=" + s.AccessKey, "ROOT_SECRET_KEY=" + s.SecretKey},
		Ready: HTTPReady(http.DefaultClient, s.Endpoint+"/health"),
	})
	return s
}

// S3rver starts the npm package s3rver, an S3 clone that ignores conditions:
// every conditional write succeeds.
func S3rver(t testing.TB) *S3Server {
	t.Helper()
	path := Require(t, "s3rver")
	s := &S3Server{AccessKey: "S3RVER", SecretKey: "S3RVER", Dir: t.TempDir()}
	address := s.listen(t)
	s.Process = Start(t, Command{
		Name:  "s3rver",
		Path:  path,
		Args:  []string{"--directory", s.Dir, "--address", "127.0.0.1", "--port", address[len("127.0.0.1:"):], "--no-vhost-buckets"},
		Ready: HTTPReady(http.DefaultClient, s.Endpoint),
	})
	return s
}

func (s *S3Server) listen(t testing.TB) (address string) {
	address = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	s.Endpoint = "http://" + address
	return address
}

// Setenv makes the owner's credentials those of the AWS SDK's chain, and keeps
// everything of the developer's own out of it.
func (s *S3Server) Setenv(t testing.TB) { SetenvAWS(t, s.AccessKey, s.SecretKey) }

// SetenvAWS makes these credentials the only ones in the AWS SDK's chain; if
// empty there are none.
func SetenvAWS(t testing.TB, accessKey, secretKey string) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_SESSION_TOKEN": "",
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_ROLE_ARN": "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "",
	} {
		t.Setenv(name, value)
	}
}

// Client returns an SDK client with the owner's credentials, to look behind
// the back of what is tested.
func (s *S3Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &s.Endpoint,
		UsePathStyle: true,
		Region:       S3Region,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return s.credentials(), nil
		}),
	})
}

func (s *S3Server) credentials() aws.Credentials {
	return aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}
}

// CreateBucket makes an empty bucket that only the owner may use.
func (s *S3Server) CreateBucket(t testing.TB, name string) {
	t.Helper()
	if _, err := s.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
}

// MakePublic lets everyone read the bucket's objects, and nothing else.
func (s *S3Server) MakePublic(t testing.TB, bucket string) {
	t.Helper()
	s.Allow(t, bucket, "*", "s3:GetObject")
}

// Allow sets the bucket's policy: the user (or * for everyone) may do these
// things to its objects.
func (s *S3Server) Allow(t testing.TB, bucket, user string, actions ...string) {
	t.Helper()
	policy := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": [%q]}, "Action": %s, "Resource": "arn:aws:s3:::%s/*"}]}`,
		user, quoteAll(actions), bucket)
	_, err := s.Client().PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &bucket, Policy: &policy})
	if err != nil {
		t.Fatal(err)
	}
}

func quoteAll(list []string) string {
	var b bytes.Buffer
	for i, s := range list {
		fmt.Fprintf(&b, "%c%q", "[,"[min(i, 1)], s)
	}
	return b.String() + "]"
}

// CreateUser adds a user without any right and returns its secret key; the
// access key is the name.
func (s *S3Server) CreateUser(t testing.TB, name string) (secretKey string) {
	t.Helper()
	secretKey = rand.Text()
	body, err := xml.Marshal(struct {
		XMLName              xml.Name `xml:"Account"`
		Access, Secret, Role string
	}{Access: name, Secret: secretKey, Role: "user"})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, s.Endpoint+"/create-user", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	s.send(t, req, body, http.StatusCreated)
	return secretKey
}

// send signs a request for versitygw's own administration.
func (s *S3Server) send(t testing.TB, req *http.Request, body []byte, wantStatus int) {
	t.Helper()
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	req.Header.Set("X-Amz-Content-Sha256", hash)
	if err := v4.NewSigner().SignHTTP(req.Context(), s.credentials(), req, hash, "s3", S3Region, time.Now()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != wantStatus {
		t.Fatalf("%s %s: HTTP status %d, want %d", req.Method, req.URL.Path, resp.StatusCode, wantStatus)
	}
}
