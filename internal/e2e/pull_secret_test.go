package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

type object = testserver.Object

// puller is a cluster whose published issuer Cloudsmith and Google trust, and a
// private registry that takes what they issue.
type puller struct {
	*lab
	cluster    *testserver.KubeCluster
	cloudsmith *fake.Cloudsmith
	google     *fake.Google
	admin      string // kubeconfig
	tokens     map[string]string
}

const (
	pullerProvider = "projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a"
	pullerAccount  = "puller@acme.iam.gserviceaccount.com"
)

func newPuller(t *testing.T) *puller {
	t.Helper()
	l := newLab(t)
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer})
	public, handler := l.local("public")
	l.internet.Route("issuer.example.com", routed(handler))
	l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", public)
	p := &puller{
		lab: l, cluster: cluster, admin: cluster.WriteKubeconfig(t, "admin"), tokens: map[string]string{},
		cloudsmith: fake.StartCloudsmith(t, l.internet), google: fake.StartGoogle(t, l.internet),
	}
	l.secrets = append(l.secrets, cluster.Servers[0].Kubeconfig("admin").Token)
	l.issued = append(l.issued, p.cloudsmith.Issued, p.google.Issued)
	p.cloudsmith.AddProvider("acme", fake.CloudsmithProvider{
		Issuer: labIssuer, Services: []string{"puller"}, Claims: map[string]string{"aud": "https://api.cloudsmith.io", "sub": "system:serviceaccount:default:default"},
	})
	p.google.AddProvider(fake.GoogleProvider{Name: pullerProvider, Issuer: labIssuer})
	p.google.Bind(pullerAccount, "principal://iam.googleapis.com/"+strings.TrimSuffix(pullerProvider, "/providers/cluster-a")+"/subject/system:serviceaccount:default:default")
	l.internet.Route("api.cloudsmith.io", p.cloudsmith)
	l.internet.Route("sts.googleapis.com", p.google)
	l.internet.Route("iamcredentials.googleapis.com", p.google)
	for name, audience := range map[string]string{"cloudsmith": "https://api.cloudsmith.io", "gcp": "https://iam.googleapis.com/" + pullerProvider} {
		token := cluster.MintToken(t, "default", "default", audience)
		l.secrets = append(l.secrets, token)
		p.tokens[name] = filepath.Join(l.dir, name+".token")
		if err := os.WriteFile(p.tokens[name], []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// cloudsmithArgs and gcpArgs are the flags of a run as admin.
func (p *puller) cloudsmithArgs(more ...string) []string {
	return append([]string{"pull-secret", "cloudsmith", "--kubeconfig", p.admin, "--org", "acme", "--service-slug", "puller",
		"--token-file", p.tokens["cloudsmith"], "--secret-name", "regcred"}, more...)
}

func (p *puller) gcpArgs(more ...string) []string {
	return append([]string{"pull-secret", "gcp", "--kubeconfig", p.admin, "--provider", pullerProvider, "--service-account", pullerAccount,
		"--token-file", p.tokens["gcp"], "--secret-name", "regcred"}, more...)
}

// pullResult is what --output json promises.
type pullResult struct {
	Exchanged  bool
	Expiry     *time.Time
	Namespaces []struct {
		Namespace, Outcome, Error string
		Expiry                    *time.Time
		Accounts                  []string `json:"service_accounts"`
	}
	Error string
}

// pull runs pull-secret with --output json and demands an exit code.
func (p *puller) pull(code int, args ...string) (result pullResult) {
	p.t.Helper()
	got := p.must(code, append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(got.stdout), &result); err != nil {
		p.t.Fatalf("stdout is not one JSON object: %v\n%s", err, got.stdout)
	}
	return result
}

// outcomes are "namespace outcome".
func (r pullResult) outcomes() (all []string) {
	for _, n := range r.Namespaces {
		all = append(all, n.Namespace+" "+n.Outcome)
	}
	return all
}

func (p *puller) namespaces(names ...string) {
	p.t.Helper()
	for _, name := range names {
		p.cluster.Apply(p.t, object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": map[string]any{"images": "private"}}})
	}
}

type pulledSecret struct {
	Metadata struct {
		UID, ResourceVersion, Namespace string
		Labels, Annotations             map[string]string
	}
	Type string
	Data map[string][]byte
}

func (p *puller) secretIn(namespace string) (s pulledSecret) {
	p.t.Helper()
	reread(p.t, p.cluster.Get(p.t, "/api/v1/namespaces/"+namespace+"/secrets/regcred"), &s)
	return s
}

func reread(t *testing.T, object any, into any) {
	t.Helper()
	data, err := json.Marshal(object)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// skopeo asks for an image with a secret's content as its auth file.
func (p *puller) skopeo(s pulledSecret, image string) error {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "auth.json")
	if err := os.WriteFile(file, s.Data[".dockerconfigjson"], 0o600); err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), testserver.Require(p.t, "skopeo"), "copy", "--src-tls-verify=false", "--authfile", file, "--insecure-policy",
		"docker://"+image, "dir:"+filepath.Join(p.t.TempDir(), "image"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("skopeo: %w: %s", err, out)
	}
	return nil
}

// TestPullSecret: with what each service issues a private image can be pulled.
func TestPullSecret(t *testing.T) {
	t.Parallel()
	p := newPuller(t)
	registry := testserver.Registry(t, p.cloudsmith, p.google)
	image := registry.Push(t, "acme/app", "v1", testserver.Image{Files: map[string][]byte{"/app": []byte("x")}, Entrypoint: []string{"/app"}})
	p.namespaces("team-a", "team-b")
	for name, args := range map[string][]string{"cloudsmith": p.cloudsmithArgs(), "gcp": p.gcpArgs()} {
		p := &puller{lab: p.in(t), cluster: p.cluster, cloudsmith: p.cloudsmith, google: p.google}
		t.Run(name, func(t *testing.T) {
			p.t = t
			args = append(args, "--registry", registry.Host, "--take-over")
			before := p.cloudsmith.Requests() + p.google.Requests()
			result := p.pull(cli.ExitDone, append(args, "--namespace-selector", "images=private")...)
			if !result.Exchanged || result.Expiry == nil || len(result.Namespaces) != 2 {
				t.Errorf("%+v", result)
			}
			if n := p.cloudsmith.Requests() + p.google.Requests() - before; n > 2 { // Google's exchange is two
				t.Errorf("%d requests to the service for two namespaces", n)
			}
			for _, namespace := range []string{"team-a", "team-b"} {
				s := p.secretIn(namespace)
				if s.Type != "kubernetes.io/dockerconfigjson" {
					t.Errorf("it is of type %q", s.Type)
				}
				if err := p.skopeo(s, image); err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		p.cloudsmith.Expire()
		p.google.Expire()
		if p.skopeo(p.secretIn("team-a"), image) == nil {
			t.Error("the registry lets anybody in")
		}
	})
}

// TestPullSecretOutput is what users and scripts see, and the exit codes.
func TestPullSecretOutput(t *testing.T) {
	t.Parallel()
	p := newPuller(t)
	p.namespaces("a", "b", "c")
	for _, namespace := range []string{"a", "b"} {
		p.cluster.CreateServiceAccount(t, namespace, "default")
	}
	const each = "--namespace=a,b"
	got := p.must(cli.ExitDone, p.cloudsmithArgs(each, "--namespace", "c", "--attach", "default", "--exclude-namespace", "c")...)
	expires := time.Now().UTC().Format("2006-01-02T")[:8]
	wantLines(t, got.stdout,
		`NAMESPACE  SECRET   OUTCOME  EXPIRES               SERVICE ACCOUNTS`,
		`a          regcred  created  `+expires, `b          regcred  created  `+expires)
	if !strings.HasSuffix(got.stdout, "Z  default\n") || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	if got := p.must(cli.ExitDone, p.cloudsmithArgs(each, "--dry-run")...); !strings.Contains(got.stdout, "updated (dry run)") {
		t.Errorf("%+v", got)
	}
	before := p.cloudsmith.Requests()
	if r := p.pull(cli.ExitDone, p.cloudsmithArgs(each, "--min-remaining", "1h")...); r.Exchanged || r.Expiry != nil || r.Namespaces[0].Expiry == nil || p.cloudsmith.Requests() != before {
		t.Errorf("all is fresh: %+v", r)
	}
	if r := p.pull(cli.ExitDone, p.cloudsmithArgs(each, "--min-remaining", "3h")...); !r.Exchanged || r.Namespaces[1].Outcome != "updated" {
		t.Errorf("not fresh for so long: %+v", r)
	}
	// It is told once that no secret is ever fresh for so long.
	always := regexp.MustCompile(`^oidc-publisher: warning: --min-remaining is at least the credential's whole lifetime, so every run exchanges again: ` +
		`give a little more than the time between two runs life=(2h0m0s|1h59m\S+) min_remaining=2h0m0s\n$`)
	for least, want := range map[string]*regexp.Regexp{"119m": regexp.MustCompile(`^$`), "2h": always} {
		p.cloudsmith.SetLifetime(time.Hour)
		p.must(cli.ExitDone, p.cloudsmithArgs(each)...) // what is there serves for less long
		p.cloudsmith.SetLifetime(2 * time.Hour)
		if got := p.must(cli.ExitDone, p.cloudsmithArgs(each, "--min-remaining", least)...); !strings.Contains(got.stdout, "updated") || !want.MatchString(got.stderr) {
			t.Errorf("%s of two hours: %+v", least, got)
		}
	}

	p.cluster.Apply(t, object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": "c"}, "type": "Opaque"})
	some := p.pull(cli.ExitPartly, p.cloudsmithArgs(each, "--namespace", "c")...)
	wantList(t, "some", some.outcomes(), "a updated", "b updated", "c refused")
	got = p.must(cli.ExitPartly, p.cloudsmithArgs(each, "--namespace", "c", "--namespace", "nowhere")...)
	wantLines(t, got.stderr,
		`oidc-publisher: refused: secret c/regcred is of type "Opaque", which can't be changed: choose another --secret-name, or use --take-over to overwrite it`,
		`oidc-publisher: error: secret nowhere/regcred: the namespace does not exist: namespaces "nowhere" not found`)
	before = p.cloudsmith.Requests()
	if r := p.pull(cli.ExitRefused, p.cloudsmithArgs("--namespace", "c")...); r.Exchanged || p.cloudsmith.Requests() != before {
		t.Errorf("all are refused: %+v", r)
	}
	p.pull(cli.ExitFailed, p.cloudsmithArgs("--namespace", "c,nowhere")...)
	got = p.must(cli.ExitDone, p.cloudsmithArgs("--namespace", "c", "--take-over")...)
	wantLines(t, got.stderr, `oidc-publisher: warning: secret taken over from another owner namespace=c secret=regcred outcome=replaced`)

	// A service account that does not exist: the secret is written for all that.
	got = p.must(cli.ExitPartly, p.cloudsmithArgs(each, "--attach", "default,nobody", "--attach", "nowhere")...)
	wantLines(t, got.stdout, `a          regcred  updated  `+expires)
	wantLines(t, got.stderr,
		`oidc-publisher: error: secret a/regcred is updated, but service account a/nobody does not exist: create it with kubectl create serviceaccount nobody --namespace=a, or leave it out`,
		`oidc-publisher: error: service account a/nowhere does not exist`)
	if !strings.HasSuffix(got.stdout, "Z  nobody (does not exist),nowhere (does not exist)\n") {
		t.Errorf("%+v", got)
	}
	missing := p.pull(cli.ExitPartly, p.cloudsmithArgs("--namespace", "b", "--attach", "nobody")...)
	if n := missing.Namespaces[0]; n.Outcome != "updated" || n.Expiry == nil || !strings.Contains(n.Error, "service account b/nobody does not exist") {
		t.Errorf("%+v", missing)
	}

	gone := p.pull(cli.ExitDone, p.cloudsmithArgs(each, "--detach", "default")...)
	wantList(t, "detached", gone.outcomes(), "a detached", "b detached")
	wantList(t, "detached", gone.Namespaces[0].Accounts, "default")
	if gone.Exchanged {
		t.Error("a token was exchanged to detach")
	}
	got = p.must(cli.ExitDone, p.cloudsmithArgs("--namespace", "a", "--detach", "nobody")...)
	if !strings.Contains(got.stdout, "unchanged") || !strings.HasSuffix(got.stdout, "nobody (does not exist)\n") || got.stderr != "" {
		t.Errorf("detached from nobody: %+v", got)
	}

	// What the service refuses is explained, and the old secret stays.
	old := p.secretIn("a").Metadata.ResourceVersion
	p.cloudsmith.Next(fake.AnswerWith(401, `{"detail": "OIDC token cannot be authenticated."}`))
	refused := p.pull(cli.ExitRefused, p.cloudsmithArgs(each)...)
	if refused.Exchanged || len(refused.Namespaces) == 0 || refused.Error == "" || p.secretIn("a").Metadata.ResourceVersion != old {
		t.Errorf("%+v", refused)
	}
}

// wantLines checks that a text has lines that begin like these, in this order.
func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if len(want) > 0 && strings.HasPrefix(strings.TrimRight(line, "\n"), want[0]) {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		t.Errorf("there is no line %q in\n%s", want[0], text)
	}
}
