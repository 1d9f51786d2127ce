package files_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/files"
)

const issuer = discovery.Issuer("https://issuer.example.com/cluster")

// write makes a folder of files and returns its path.
func write(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// documents are those of an API server with one EC key.
const (
	documentText = `{"issuer":"https://issuer.example.com/cluster","jwks_uri":"https://192.0.2.1:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	keysText     = `{"keys":[{"use":"sig","kty":"EC","kid":"HG9fy5HkBT_YSnJtQHUAIiEI2w71Ts980n-cxVTfi34","crv":"P-256","alg":"ES256","x":"Nky5AuxudCiU0BntKHs1udTqqMRFqrgKssJO0tPPTwo","y":"YTrp2dtsf5gxRoaSfPxiPEtJBTwWKaPbop-8kQvpv5M"}]}`
)

func TestDirNames(t *testing.T) {
	for _, documentName := range []string{".well-known/openid-configuration", "openid-configuration", "openid-configuration.json"} {
		for _, keysName := range []string{"openid/v1/jwks", "jwks", "jwks.json", "keys.json"} {
			t.Run(documentName+" "+keysName, func(t *testing.T) {
				dir := write(t, map[string]string{documentName: documentText, keysName: keysText})
				got, err := files.Dir(dir).Fetch(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if string(got.Document.Bytes()) != documentText || string(got.Keys.Bytes()) != keysText {
					t.Errorf("not the bytes of the files: %s %s", got.Document.Bytes(), got.Keys.Bytes())
				}
				if got.Cluster != nil || got.Canary != nil || got.MaxAge != 0 || len(got.Warnings) != 0 {
					t.Errorf("got %+v", got)
				}
			})
		}
	}
}

func TestDirWarnsAboutLeftOutKeys(t *testing.T) {
	keys := strings.Replace(keysText, "[", `[{"kty":"XYZ","kid":"odd"},`, 1)
	dir := write(t, map[string]string{"openid-configuration": documentText, "jwks.json": keys})
	got, err := files.Dir(dir).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], `"odd"`) || !strings.Contains(got.Warnings[0], filepath.Join(dir, "jwks.json")) {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestDirErrors(t *testing.T) {
	huge := strings.Repeat(" ", discovery.MaxSize+1)
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"empty folder", nil, []string{
			".well-known/openid-configuration, openid-configuration, openid-configuration.json", "openid/v1/jwks, jwks, jwks.json, keys.json",
			"kubectl get --raw /.well-known/openid-configuration >", "kubectl get --raw /openid/v1/jwks >"}},
		{"no keys", map[string]string{"openid-configuration": documentText}, []string{"openid/v1/jwks, jwks"}},
		{"the same document twice", map[string]string{"openid-configuration": documentText, "jwks": keysText, "jwks.json": keysText}, []string{"jwks and ", "the same document twice"}},
		{"both bad", map[string]string{"openid-configuration": "<html>", "jwks": `{"keys":[]}`}, []string{"openid-configuration: ", "not a JSON object", "jwks: ", "no usable key"}},
		{"huge", map[string]string{"openid-configuration": documentText, "jwks": huge}, []string{"larger than 1048576 bytes"}},
		{"folder in place of a file", map[string]string{"openid-configuration": documentText, "jwks/readme": ""}, []string{"jwks is not a regular file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, c.files)
			wantError(t, files.Dir(dir), append(c.want, dir)...)
		})
	}
	file := filepath.Join(write(t, map[string]string{"jwks": keysText}), "jwks")
	wantError(t, files.Dir(file), file+" is a file", "name the folder")
	_, err := files.Dir(filepath.Join(t.TempDir(), "absent")).Fetch(t.Context())
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func wantError(t *testing.T, s files.Source, wants ...string) {
	t.Helper()
	_, err := s.Fetch(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range []files.Source{files.Dir("."), files.PublicKeys(nil, issuer)} {
		if _, err := s.Fetch(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

func generate(t *testing.T, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "RSA1024":
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		curve := map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[kind]
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func public(t *testing.T, key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return encode(t, "PUBLIC KEY", der, err)
}

func private(t *testing.T, key crypto.Signer) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return encode(t, "PRIVATE KEY", der, err)
}

func certificate(t *testing.T, key crypto.Signer) string {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sa"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return encode(t, "CERTIFICATE", der, err)
}

func keyID(t *testing.T, key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestPublicKeys(t *testing.T) {
	rsaKey, p256, p384, p521 := generate(t, "RSA"), generate(t, "P-256"), generate(t, "P-384"), generate(t, "P-521")
	dir := write(t, map[string]string{
		"first.pub":  "a comment\n" + public(t, rsaKey) + public(t, p521) + "\n",
		"second.crt": certificate(t, p384),
		"third.pub":  public(t, p256) + public(t, rsaKey),
	})
	paths := []string{filepath.Join(dir, "first.pub"), filepath.Join(dir, "second.crt"), filepath.Join(dir, "third.pub"), filepath.Join(dir, "first.pub")}
	got, err := files.PublicKeys(paths, issuer).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{keyID(t, rsaKey), keyID(t, p521), keyID(t, p384), keyID(t, p256)}
	if !slices.Equal(got.Keys.IDs(), want) {
		t.Errorf("keys %q, want %q", got.Keys.IDs(), want)
	}
	const document = `{"issuer":"https://issuer.example.com/cluster","jwks_uri":"https://issuer.example.com/cluster/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256","ES384","ES512","RS256"]}`
	if string(got.Document.Bytes()) != document {
		t.Errorf("document %s", got.Document.Bytes())
	}
	for i, key := range []crypto.Signer{rsaKey, p521, p384, p256} {
		have := got.Keys.Keys()[i]
		if equal := key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal; !equal(have.Public()) || have.Use != "sig" {
			t.Errorf("key %d: %s", i, have.Bytes())
		}
	}
	if len(got.Warnings) != 0 || got.Cluster != nil || got.Canary != nil {
		t.Errorf("got %+v", got)
	}
}

func TestPublicKeysPKCS1(t *testing.T) {
	key := generate(t, "RSA").(*rsa.PrivateKey)
	path := filepath.Join(write(t, map[string]string{"sa.pub": encode(t, "RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&key.PublicKey), nil)}), "sa.pub")
	got, err := files.PublicKeys([]string{path}, issuer).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Keys.IDs(), []string{keyID(t, key)}) {
		t.Errorf("keys %q", got.Keys.IDs())
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "openssl rsa -RSAPublicKey_in -in "+path) {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestPublicKeysErrors(t *testing.T) {
	key := generate(t, "P-256")
	good := public(t, key)
	ecDER, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	disguised := encode(t, "PUBLIC KEY", ecDER, err)
	const hint = "openssl pkey -in "
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"private key", private(t, key), []string{"holds a private key", hint}},
		{"private key after a public one", good + private(t, key), []string{"holds a private key", hint}},
		{"damaged private key", "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n", []string{"holds a private key", hint}},
		{"OpenSSH private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n", []string{"holds a private key", hint}},
		{"private key in disguise", disguised, []string{"holds a private key", hint}},
		{"Ed25519", public(t, generate(t, "Ed25519")), []string{"block 1 (PUBLIC KEY)", "Ed25519", "RSA and EC"}},
		{"small curve", public(t, generate(t, "P-224")), []string{"P-224", "P-256, P-384 and P-521"}},
		{"small RSA", public(t, generate(t, "RSA1024")), []string{"1024 bits", "2048"}},
		{"empty", " \n", []string{"is empty"}},
		{"garbage", "c2VjcmV0", []string{"is not PEM", "openssl pkey -pubin -inform DER"}},
		{"JWKS", keysText, []string{"is not PEM"}},
		{"cut off", good[:len(good)-40], []string{"1 PEM blocks begin and 0 can be read", "incomplete"}},
		{"first of two damaged", strings.Replace(good, "M", "!", 1) + good, []string{"2 PEM blocks begin and 1 can be read"}},
		{"bad content", encode(t, "PUBLIC KEY", []byte("secret"), nil), []string{"block 1 (PUBLIC KEY) can't be read"}},
		{"other block", encode(t, "X509 CRL", []byte("secret"), nil), []string{"block 1 (X509 CRL) is not a public key", "CERTIFICATE"}},
		{"huge", strings.Repeat(" ", discovery.MaxSize+1), []string{"larger than 1048576 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(write(t, map[string]string{"sa.pem": c.content}), "sa.pem")
			s := files.PublicKeys([]string{path}, issuer)
			wantError(t, s, c.want...)
			if _, err := s.Fetch(t.Context()); strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("repeats what is in the file: %v", err)
			}
		})
	}
	absent := filepath.Join(t.TempDir(), "absent")
	wantError(t, files.PublicKeys([]string{absent, absent + "2"}, issuer), absent+":", absent+"2:")
	wantError(t, files.PublicKeys(nil, issuer), "no public key file")
	wantError(t, files.PublicKeys(nil, ""), "--issuer", "--service-account-issuer", "empty")
}
