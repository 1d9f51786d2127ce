package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"oidc-publisher/internal/fake"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"oidc-publisher": main})
}

// TestScripts runs testdata/cli: the command line as users meet it. Each
// script has an API server of its own (see apiserver) and a website that makes
// the directory public/ the issuer $ISSUER.
func TestScripts(t *testing.T) {
	const dir = "../../testdata/cli"
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"apiserver": scriptAPIServer,
			"exits":     scriptExits,
			"swallow":   scriptSwallow,
		},
	})
}

const scriptHost = "issuer.example.com"

type serverKey struct{}

func setupScript(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("no testing.TB")
	}
	public := filepath.Join(env.WorkDir, "public")
	internet := fake.NewInternet(t)
	internet.Route(scriptHost, fake.Website(public))
	routeServices(t, internet)
	for _, pair := range internet.Env() {
		name, value, _ := strings.Cut(pair, "=")
		env.Setenv(name, value)
	}
	api := fake.StartAPIServer(t, fake.APIServerOptions{Issuer: "https://" + scriptHost})
	api.AddServiceAccount("default", "default")
	api.Grant("user", fake.RightDiscovery, fake.RightMint, fake.RightNamespaces, fake.RightEndpoints)
	api.Grant("reader", fake.RightDiscovery, fake.RightNamespaces) // may mint no token
	env.Values[serverKey{}] = api
	env.Setenv("ISSUER", "https://"+scriptHost)
	env.Setenv("PROVIDER", scriptProvider)
	env.Setenv("ACCOUNT", scriptAccount)
	env.Setenv("KID", api.SigningKeyID())
	env.Setenv("UID", api.UID())
	env.Setenv("APISERVER", api.Address())
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("NO_COLOR", "1")
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	return errors.Join(
		writeKeyPair(filepath.Join(env.WorkDir, "sa")),
		api.WriteKubeconfig(filepath.Join(env.WorkDir, "kubeconfig"), "user"),
		api.WriteKubeconfig(filepath.Join(env.WorkDir, "reader"), "reader"),
		api.WriteKubeconfig(filepath.Join(env.WorkDir, "nobody"), "nobody"),
	)
}

// The two services that trust the scripts' issuer, under their own names.
const (
	scriptPool      = "projects/123456789/locations/global/workloadIdentityPools/clusters"
	scriptProvider  = scriptPool + "/providers/cluster-a"
	scriptAccount   = "puller@acme.iam.gserviceaccount.com"
	scriptPrincipal = "principal://iam.googleapis.com/" + scriptPool + "/subject/system:serviceaccount:default:default"
)

func routeServices(t testing.TB, internet *fake.Internet) {
	cloudsmith, google := fake.StartCloudsmith(t, internet), fake.StartGoogle(t, internet)
	cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: "https://" + scriptHost, Services: []string{"puller"},
		Claims: map[string]string{"aud": "https://api.cloudsmith.io", "sub": "system:serviceaccount:default:.*"},
	})
	google.AddProvider(fake.GoogleProvider{Name: scriptProvider, Issuer: "https://" + scriptHost})
	google.Bind(scriptAccount, scriptPrincipal)
	internet.Route("api.cloudsmith.io", cloudsmith)
	internet.Route("sts.googleapis.com", google)
	internet.Route("iamcredentials.googleapis.com", google)
}

// writeKeyPair writes what an administrator gives to an API server: base.key
// and base.pub.
func writeKeyPair(base string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(base+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(base+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644),
	)
}

// scriptAPIServer changes the script's API server:
//
//	apiserver replace        sign with and list only a new key, its ID in $KID, the old one's in $OLD
//	apiserver rotate         list a new key too and sign with it
//	apiserver issuer URL     give it another issuer
//	apiserver token FILE AUD mint a token
//	apiserver stop
func scriptAPIServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: apiserver replace|rotate|issuer URL|token FILE AUDIENCE|stop")
	}
	api, _ := ts.Value(serverKey{}).(*fake.APIServer)
	switch args[0] {
	case "replace", "rotate":
		change := map[string]func(string) (string, error){"replace": api.Replace, "rotate": api.Rotate}[args[0]]
		ts.Setenv("OLD", api.SigningKeyID())
		kid, err := change("ES256")
		ts.Check(err)
		ts.Setenv("KID", kid)
	case "issuer":
		api.SetIssuer(args[1])
	case "token":
		token, err := api.MintToken("default", "default", args[2], time.Hour)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(token), 0o600))
	case "stop":
		api.Stop()
	default:
		ts.Fatalf("unknown: apiserver %s", args[0])
	}
}

// scriptExits runs the program and demands an exit code: exits CODE ARGS...
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARGS...")
	}
	err := ts.Exec("oidc-publisher", args[1:]...)
	code := "0"
	if err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// scriptSwallow fails if a file's content stands in the other files:
// swallow SECRET FILE...
func scriptSwallow(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: swallow SECRET FILE...")
	}
	secret := strings.TrimSpace(ts.ReadFile(args[0]))
	for _, file := range args[1:] {
		if strings.Contains(ts.ReadFile(file), secret) {
			ts.Fatalf("%s holds what is in %s", file, args[0])
		}
	}
}
