package testserver_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

func TestS3(t *testing.T) {
	s := testserver.S3(t)
	s.CreateBucket(t, "bucket")
	put(t, s, "bucket", "a", "body")
	if status, _ := get(t, s.Endpoint+"/bucket/a"); status != http.StatusForbidden {
		t.Errorf("anonymous read of a private bucket: HTTP status %d", status)
	}
	s.MakePublic(t, "bucket")
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, s.Endpoint+"/bucket/a"); status != http.StatusOK || body != "body" {
		t.Errorf("anonymous read of a public bucket after a restart: HTTP status %d, %q", status, body)
	}
	if s.CreateUser(t, "user") == "" {
		t.Error("no secret")
	}
}

func put(t *testing.T, s *testserver.S3Server, bucket, key, body string) {
	t.Helper()
	_, err := s.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestS3rver(t *testing.T) {
	s := testserver.S3rver(t)
	s.CreateBucket(t, "bucket")
	put(t, s, "bucket", "a", "body")
}

func TestGCS(t *testing.T) {
	s := testserver.GCSOnDisk(t)
	s.CreateBucket(t, "bucket")
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, s.Endpoint+"/storage/v1/b/bucket"); status != http.StatusOK {
		t.Errorf("the bucket after a restart: HTTP status %d, %s", status, body)
	}
}

func TestFaultProxy(t *testing.T) {
	done := make(chan string, 10)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		done <- r.Method + " " + r.Host + " " + r.URL.EscapedPath() + " " + string(body)
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, strings.Repeat("x", 1000))
	}))
	defer backend.Close()
	p := fake.NewFaultProxy(t, backend.URL)
	p.Inject(1, fake.Method("PUT"), fake.LoseAck)
	p.Inject(1, fake.Method("GET"), fake.CutBody)

	req, _ := http.NewRequest("PUT", p.Endpoint+"/a%2Fb?q=1", strings.NewReader("data"))
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, io.EOF) {
		t.Errorf("lost acknowledgement: %v", err)
	}
	if got, want := <-done, "PUT "+p.Host+" /a%2Fb data"; got != want {
		t.Errorf("the server saw %q, want %q", got, want)
	}
	resp, err := http.Get(p.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil || len(body) != 500 {
		t.Errorf("cut body: %d bytes, error %v", len(body), err)
	}
	if status, body := get(t, p.Endpoint); status != http.StatusOK || len(body) != 1000 {
		t.Errorf("without a fault: HTTP status %d, %d bytes", status, len(body))
	}
	p.Down()
	if _, err := http.Get(p.Endpoint); err == nil {
		t.Error("a connection was accepted while down")
	}
	p.Up(t)
	get(t, p.Endpoint)
}
