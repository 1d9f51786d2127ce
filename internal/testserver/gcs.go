package testserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// GCSServer is an emulator of Google Cloud Storage (fake-gcs-server). It
// honours preconditions on uploads and needs no credentials.
type GCSServer struct {
	*Process
	// Host is host:port, the value for STORAGE_EMULATOR_HOST.
	Host string
	// Endpoint is the base URL; an object is public at Endpoint/bucket/name.
	Endpoint string
}

// GCS starts fake-gcs-server with its data in memory: a Restart forgets it.
func GCS(t testing.TB) *GCSServer {
	t.Helper()
	return startGCS(t, "-backend", "memory")
}

// GCSOnDisk starts fake-gcs-server over a temporary folder, so that its data
// survives Restart. Its reads tear while an object is overwritten: the file is
// opened outside the server's lock.
func GCSOnDisk(t testing.TB) *GCSServer {
	t.Helper()
	return startGCS(t, "-backend", "filesystem", "-filesystem-root", t.TempDir())
}

func startGCS(t testing.TB, backend ...string) *GCSServer {
	t.Helper()
	path := Require(t, "fake-gcs-server")
	port := FreePort(t)
	s := &GCSServer{Host: fmt.Sprintf("127.0.0.1:%d", port)}
	s.Endpoint = "http://" + s.Host
	s.Process = Start(t, Command{
		Name: "fake-gcs-server",
		Path: path,
		Args: append([]string{
			"-scheme", "http", "-host", "127.0.0.1", "-port", fmt.Sprint(port), "-public-host", s.Host, "-log-level", "warn",
		}, backend...),
		Ready: HTTPReady(http.DefaultClient, s.Endpoint+"/_internal/healthcheck"),
	})
	return s
}

// Setenv points the Google SDK at the emulator.
func (s *GCSServer) Setenv(t testing.TB) {
	t.Helper()
	t.Setenv("STORAGE_EMULATOR_HOST", s.Host)
}

// CreateBucket makes an empty bucket. Everything in it is public, as always
// with this emulator.
func (s *GCSServer) CreateBucket(t testing.TB, name string) {
	t.Helper()
	resp, err := http.Post(s.Endpoint+"/storage/v1/b?project=test", "application/json", strings.NewReader(fmt.Sprintf(`{"name": %q}`, name)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("create bucket %s: HTTP status %d", name, resp.StatusCode)
	}
}
