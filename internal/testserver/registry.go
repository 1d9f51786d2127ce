package testserver

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/fake"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Accounts authenticates the users of a registry: Cloudsmith and Google do.
type Accounts interface {
	Authenticates(user, password string) bool
}

// RegistryServer is a real registry whose token service is in this process.
type RegistryServer struct {
	*Process
	// Host is what images begin with, an address and port on loopback; the
	// registry speaks plain HTTP.
	Host string

	accounts []Accounts
	signer   jose.Signer
}

const registryService = "registry.example.com"

// Registry starts Debian's docker-registry. A user of the accounts may pull
// everything; only Push writes.
func Registry(t testing.TB, accounts ...Accounts) *RegistryServer {
	t.Helper()
	path := Require(t, "docker-registry")
	dir := t.TempDir()
	r := &RegistryServer{Host: fmt.Sprintf("127.0.0.1:%d", FreePort(t)), accounts: accounts}
	bundle := filepath.Join(dir, "token.pem")
	r.newSigner(t, bundle)
	tokens := httptest.NewServer(http.HandlerFunc(r.serveToken))
	t.Cleanup(tokens.Close)
	config := filepath.Join(dir, "config.yml")
	settings := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n"+
		"auth: {token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}}\n",
		filepath.Join(dir, "data"), r.Host, tokens.URL+"/token", registryService, "testserver", bundle)
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Process = Start(t, Command{
		Name: "docker-registry", Path: path, Args: []string{"serve", config},
		Ready: HTTPReady(http.DefaultClient, "http://"+r.Host+"/v2/"),
	})
	return r
}

// newSigner makes the key of the token service and writes its certificate,
// by which the registry knows the tokens.
func (r *RegistryServer) newSigner(t testing.TB, bundle string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: fake.NewSerial(), Subject: pkix.Name{CommonName: "registry tokens"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("x5c", []string{base64.StdEncoding.EncodeToString(der)})
	if r.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: crypto.Signer(key)}, options); err != nil {
		t.Fatal(err)
	}
}

// serveToken is the registry's token service (distribution's token
// authentication, GET with Basic credentials).
func (r *RegistryServer) serveToken(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed) // clients then ask with GET
		return
	}
	user, password, _ := req.BasicAuth()
	if !slices.ContainsFunc(r.accounts, func(a Accounts) bool { return a.Authenticates(user, password) }) {
		w.Header().Set("WWW-Authenticate", `Basic realm="tokens"`)
		fake.AnswerJSON(w, http.StatusUnauthorized, map[string]string{"details": "incorrect username or password"})
		return
	}
	var rights []access
	for _, scope := range req.URL.Query()["scope"] { // repository:NAME:ACTIONS, several with spaces between
		for one := range strings.FieldsSeq(scope) {
			name, found := strings.CutPrefix(one, "repository:")
			if end := strings.LastIndexByte(name, ':'); found && end > 0 {
				rights = append(rights, rightsTo(name[:end], "pull"))
			}
		}
	}
	token, err := r.token(user, rights)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	fake.AnswerJSON(w, http.StatusOK, map[string]any{"token": token, "access_token": token, "expires_in": 60, "issued_at": time.Now().UTC().Format(time.RFC3339)})
}

// access is one right in a registry token.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func rightsTo(repository string, actions ...string) access {
	return access{"repository", repository, actions}
}

func (r *RegistryServer) token(subject string, rights []access) (string, error) {
	now := time.Now()
	return jwt.Signed(r.signer).Claims(map[string]any{
		"iss": "testserver", "sub": subject, "aud": registryService, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Minute).Unix(), "access": rights,
	}).Serialize()
}

// Image is one that Push makes: a single layer.
type Image struct {
	// Files are the contents by absolute path; all are executable.
	Files map[string][]byte
	// Entrypoint is what runs.
	Entrypoint []string
}

// Push stores an image as repository:tag and returns the reference by which it
// is pulled.
func (r *RegistryServer) Push(t testing.TB, repository, tag string, image Image) (reference string) {
	t.Helper()
	layer := image.layer(t)
	sum := sha256.Sum256(layer)
	config := mustJSON(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": image.Entrypoint},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sum)}},
	})
	const kind = "application/vnd.docker.distribution.manifest.v2+json"
	manifest := mustJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": kind,
		"config": r.pushBlob(t, repository, "application/vnd.docker.container.image.v1+json", config),
		"layers": []any{r.pushBlob(t, repository, "application/vnd.docker.image.rootfs.diff.tar", layer)},
	})
	r.push(t, http.MethodPut, "http://"+r.Host+"/v2/"+repository+"/manifests/"+tag, repository, kind, manifest, http.StatusCreated)
	return r.Host + "/" + repository + ":" + tag
}

func (i Image) layer(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		header := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(i.Files[path]))}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(i.Files[path]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (r *RegistryServer) pushBlob(t testing.TB, repository, kind string, blob []byte) map[string]any {
	t.Helper()
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(blob))
	at := r.push(t, http.MethodPost, "http://"+r.Host+"/v2/"+repository+"/blobs/uploads/", repository, "", nil, http.StatusAccepted)
	joint := "?"
	if strings.Contains(at, "?") {
		joint = "&"
	}
	r.push(t, http.MethodPut, at+joint+"digest="+digest, repository, "application/octet-stream", blob, http.StatusCreated)
	return map[string]any{"mediaType": kind, "size": len(blob), "digest": digest}
}

func (r *RegistryServer) push(t testing.TB, method, url, repository, kind string, body []byte, want int) (location string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	token, err := r.token("pusher", []access{rightsTo(repository, "pull", "push")})
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		t.Fatalf("%s %s: HTTP status %d, want %d: %s", method, req.URL.Path, resp.StatusCode, want, answer)
	}
	return resp.Header.Get("Location")
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
