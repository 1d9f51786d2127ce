package e2e

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

const (
	googlePool     = "projects/123456789/locations/global/workloadIdentityPools/clusters"
	googleProvider = googlePool + "/providers/cluster-a"
	googleAccount  = "puller@acme.iam.gserviceaccount.com"

	cloudAudience  = "https://api.cloudsmith.io"
	googleAudience = "https://iam.googleapis.com/" + googleProvider
	pullerSubject  = "system:serviceaccount:team:puller"
)

// federated is a lab with a real API server and S3, the two services, which
// trust the lab's issuer, and a real registry with an image in it.
type federated struct {
	*lab
	cluster    *testserver.KubeCluster
	key        *testserver.KubeKey
	kubeconfig string
	target     string
	cloudsmith *fake.Cloudsmith
	google     *fake.Google
	registry   *testserver.RegistryServer
	image      string
	skopeo     string
}

func newFederated(t *testing.T) *federated {
	t.Helper()
	f := &federated{lab: newLab(t), skopeo: testserver.Require(t, "skopeo"), key: testserver.NewKubeKey(t, "RS256")}
	f.cluster, f.kubeconfig = f.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: f.key}})
	for _, account := range []string{"puller", "stranger"} {
		f.cluster.CreateServiceAccount(t, "team", account)
	}
	f.cluster.GrantMint(t, "publisher", "team", "puller")
	var public http.Handler
	_, f.target, public = f.s3()
	f.internet.Route("issuer.example.com", routed(public))

	f.cloudsmith, f.google = fake.StartCloudsmith(t, f.internet), fake.StartGoogle(t, f.internet)
	f.cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: labIssuer, Services: []string{"puller"}, Claims: map[string]string{"aud": cloudAudience, "sub": pullerSubject},
	})
	f.google.AddProvider(fake.GoogleProvider{Name: googleProvider, Issuer: labIssuer})
	f.google.Bind(googleAccount, "principal://iam.googleapis.com/"+googlePool+"/subject/"+pullerSubject)
	f.internet.Route("api.cloudsmith.io", f.cloudsmith)
	f.internet.Route("sts.googleapis.com", f.google)
	f.internet.Route("iamcredentials.googleapis.com", f.google)
	f.issued = append(f.issued, f.cloudsmith.Issued, f.google.Issued)

	f.registry = testserver.Registry(t, f.cloudsmith, f.google)
	f.image = f.registry.Push(t, "acme/app", "v1", testserver.Image{Files: map[string][]byte{"/app": []byte("#!/bin/sh\n")}, Entrypoint: []string{"/app"}})
	return f
}

// token mints for a service account of the namespace team, into a file.
func (f *federated) token(account, audience string) (file string) {
	f.t.Helper()
	token := f.cluster.MintToken(f.t, "team", account, audience)
	f.secrets = append(f.secrets, token)
	return f.write(token)
}

func (f *federated) write(content string) (file string) {
	f.t.Helper()
	file = filepath.Join(f.t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return file
}

// expired is a token that the cluster could have signed two hours ago.
func (f *federated) expired(audience string) (file string) {
	f.t.Helper()
	block, _ := pem.Decode(f.key.PrivatePEM(f.t))
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: f.key.ID}}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	then := time.Now().Add(-2 * time.Hour)
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": labIssuer, "sub": pullerSubject, "aud": []string{audience}, "iat": then.Unix(), "nbf": then.Unix(), "exp": then.Add(time.Hour).Unix(),
	}).Serialize()
	if err != nil {
		f.t.Fatal(err)
	}
	f.secrets = append(f.secrets, token)
	return f.write(token)
}

// exchange runs the program, whose stdout may contain a credential.
func (f *federated) exchange(args ...string) outcomeOf {
	f.t.Helper()
	r := f.start(nil, append([]string{"exchange"}, args...)...)
	r.credential = true
	return r.wait()
}

// pull is what a person does with a docker-config: another program's pull.
func (f *federated) pull(authFile string) error {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), f.skopeo, "--insecure-policy", "copy", "--src-tls-verify=false",
		"--authfile", authFile, "docker://"+f.image, "dir:"+f.t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Logf("skopeo: %s", out)
	}
	return err
}

func atCloudsmith(more ...string) []string {
	return append([]string{"cloudsmith", "--org", "acme", "--service-slug", "puller"}, more...)
}

func atGoogle(more ...string) []string {
	return append([]string{"gcp", "--provider", googleProvider, "--service-account", googleAccount}, more...)
}

// TestExchangeChain: a token of a real API server, verified through what was
// published to S3, becomes a credential with which skopeo pulls.
func TestExchangeChain(t *testing.T) {
	t.Parallel()
	f := newFederated(t)
	cloud, google := f.token("puller", cloudAudience), f.token("puller", googleAudience)

	// Nothing is published yet.
	for _, args := range [][]string{atCloudsmith("--token-file", cloud), atGoogle("--token-file", google)} {
		got := f.exchange(args...)
		if got.code != cli.ExitRefused || got.stdout != "" || !strings.Contains(got.stderr, "likely cause: the issuer "+labIssuer+": nothing is published at this address") {
			t.Errorf("%v: exit code %d: %s%s", args, got.code, got.stdout, got.stderr)
		}
	}
	f.publish("--kubeconfig", f.kubeconfig, "--to", f.target)

	for name, args := range map[string][]string{
		"Cloudsmith":                   atCloudsmith("--token-file", cloud),
		"Cloudsmith by mint":           atCloudsmith("--kubeconfig", f.kubeconfig, "--mint", "team/puller", "--audience", cloudAudience),
		"Google":                       atGoogle("--token-file", google),
		"Google by mint":               atGoogle("--kubeconfig", f.kubeconfig, "--mint", "team/puller", "--audience", googleAudience),
		"Google, the federated itself": {"gcp", "--provider", googleProvider, "--token-file", google},
	} {
		got := f.exchange(append(args, "--output", "docker-config", "--registry", f.registry.Host)...)
		if got.code != cli.ExitDone || got.stderr != "" {
			t.Errorf("%s: exit code %d: %s", name, got.code, got.stderr)
			continue
		}
		auth := f.write(got.stdout)
		if err := f.pull(auth); err != nil {
			t.Errorf("%s: the pull: %v", name, err)
		}
	}
	if f.pull(f.write(`{"auths": {}}`)) == nil {
		t.Error("the image is not private")
	}
	checkExpiry(t, f.exchange(atCloudsmith("--token-file", cloud, "--output", "json")...), 2*time.Hour)
	checkExpiry(t, f.exchange(atGoogle("--token-file", google, "--lifetime", "10m", "--output", "json")...), 10*time.Minute)
}

func checkExpiry(t *testing.T, got outcomeOf, want time.Duration) {
	t.Helper()
	var result struct {
		Expiry time.Time
	}
	if err := json.Unmarshal([]byte(got.stdout), &result); err != nil {
		t.Fatal(err)
	}
	if life := time.Until(result.Expiry); life > want || life < want-time.Minute {
		t.Errorf("it lives for %v, want %v", life, want)
	}
}

// TestRefusedExchanges: each names its cause, and none the token.
func TestRefusedExchanges(t *testing.T) {
	t.Parallel()
	f := newFederated(t)
	f.publish("--kubeconfig", f.kubeconfig, "--to", f.target)
	cloud, google := f.token("puller", cloudAudience), f.token("puller", googleAudience)
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"Cloudsmith: audience", atCloudsmith("--token-file", f.token("puller", "vault")), `likely cause: the token is for the audience "vault"`},
		{"Cloudsmith: slug", atCloudsmith("--token-file", cloud, "--service-slug", "admin"), `likely cause: there is no service account "admin"`},
		{"Cloudsmith: organisation", atCloudsmith("--token-file", cloud, "--org", "nobody"), `likely cause: issuer and token are valid`},
		{"Cloudsmith: account", atCloudsmith("--token-file", f.token("stranger", cloudAudience)), `"sub":"system:serviceaccount:team:stranger"`},
		{"Cloudsmith: expired", atCloudsmith("--token-file", f.expired(cloudAudience)), "likely cause: the token has expired"},
		{"Google: audience", atGoogle("--token-file", f.token("puller", "vault")), `likely cause: the token is for the audience "vault"`},
		{"Google: provider", atGoogle("--token-file", google, "--provider", googleProvider+"2"), "likely cause: the provider does not exist"},
		{"Google: account", atGoogle("--token-file", f.token("stranger", googleAudience)),
			"--member=principal://iam.googleapis.com/" + googlePool + "/subject/system:serviceaccount:team:stranger"},
		{"Google: expired", atGoogle("--token-file", f.expired(googleAudience)), "likely cause: the token has expired"},
		{"Google: lifetime", atGoogle("--token-file", google, "--lifetime", "2h"), "likely cause: the lifetime or a scope"},
		{"the API server's own", atCloudsmith("--token-file", f.token("puller", labIssuer)), "the token is for the API server itself"},
	} {
		got := f.exchange(c.args...)
		if got.code != cli.ExitRefused || got.stdout != "" || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%s: exit code %d, want %q: %s%s", c.name, got.code, c.want, got.stdout, got.stderr)
		}
	}
}
