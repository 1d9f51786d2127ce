// Package e2e tests the program as it is built, against real servers.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

// built is the program as users run it, made once by TestMain.
var built string

// TestMain builds the program before the tests run. With -race it has the race
// detector too.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	if testing.Short() {
		return testserver.Main(m)
	}
	dir, err := os.MkdirTemp("", "oidc-publisher-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if built, err = testserver.Build(dir, "oidc-publisher"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return testserver.Main(m)
}

// lab is an internet, a place for files, and whatever servers a test starts.
type lab struct {
	t        *testing.T
	internet *fake.Internet
	dir      string
	env      []string
	// secrets must stand in no output of the program.
	secrets []string
	// issued lists credentials that may stand in the standard output of
	// runs by exchange, and nowhere else.
	issued []func() []string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	testserver.Require(t, "go") // and skip in -short, where nothing was built
	l := &lab{t: t, internet: fake.NewInternet(t), dir: t.TempDir()}
	l.env = append(l.internet.Env(), "PATH="+os.Getenv("PATH"), "HOME="+l.dir, "AWS_EC2_METADATA_DISABLED=true", "GCE_METADATA_HOST=127.0.0.1:1", "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return l
}

// in is the same lab for a subtest.
func (l *lab) in(t *testing.T) *lab {
	sub := *l
	sub.t, sub.env, sub.secrets = t, slices.Clip(l.env), slices.Clip(l.secrets)
	return &sub
}

// outcomeOf is what one run of the program left behind.
type outcomeOf struct {
	code           int
	stdout, stderr string
}

// run runs the program and checks that its output contains no secret.
func (l *lab) run(args ...string) outcomeOf {
	l.t.Helper()
	return l.runWith(nil, args...)
}

func (l *lab) runWith(env []string, args ...string) outcomeOf {
	l.t.Helper()
	return l.start(env, args...).wait()
}

// running is a run of the program that has not been waited for.
type running struct {
	lab            *lab
	cmd            *exec.Cmd
	cancel         context.CancelFunc
	stdout, stderr bytes.Buffer
	// credential is set where stdout is the place for an issued credential.
	credential bool
}

func (l *lab) start(env []string, args ...string) *running {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	r := &running{lab: l, cmd: exec.CommandContext(ctx, built, args...), cancel: cancel}
	r.cmd.Env, r.cmd.Dir = append(slices.Clone(l.env), env...), l.dir
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return r
}

// jwtHeader begins every token whose header begins with its algorithm, as the
// API server's do: it finds those that the program mints itself.
const jwtHeader = "eyJhbGciOi"

// wait waits for the end and checks that the output contains no secret.
func (r *running) wait() outcomeOf {
	l := r.lab
	l.t.Helper()
	defer r.cancel()
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		l.t.Errorf("%v: %v", r.cmd.Args, err)
	}
	got := outcomeOf{r.cmd.ProcessState.ExitCode(), r.stdout.String(), r.stderr.String()}
	issued := []string{jwtHeader}
	for _, list := range l.issued {
		issued = append(issued, list()...)
	}
	for _, secret := range slices.Concat(l.secrets, issued) {
		may := r.credential && slices.Contains(issued, secret)
		if strings.Contains(got.stderr, secret) || !may && strings.Contains(got.stdout, secret) {
			l.t.Errorf("the output of %v contains a secret", r.cmd.Args)
		}
	}
	if strings.Contains(got.stderr, "DATA RACE") {
		l.t.Errorf("%v: %s", r.cmd.Args, got.stderr)
	}
	return got
}

// background starts a command that goes on until the end of the test, and
// returns when it answers there. It looks for secrets and data races in what the
// command said.
func (l *lab) background(livez string, env []string, args ...string) *testserver.Process {
	l.t.Helper()
	p := testserver.Start(l.t, testserver.Command{
		Name:  "oidc-publisher " + args[0],
		Path:  built,
		Args:  args,
		Env:   append(slices.Clone(l.env), env...),
		Dir:   l.dir,
		Ready: testserver.HTTPReady(http.DefaultClient, livez),
	})
	l.t.Cleanup(func() {
		p.Stop()
		bad := append([]string{"DATA RACE", "panic:"}, l.secrets...)
		for _, list := range l.issued {
			bad = append(bad, list()...)
		}
		for _, text := range bad {
			if strings.Contains(p.Output(), text) {
				l.t.Errorf("the output of %s contains %q", args[0], text)
			}
		}
	})
	return p
}

// must runs the program and demands an exit code.
func (l *lab) must(code int, args ...string) outcomeOf {
	l.t.Helper()
	got := l.run(args...)
	if got.code != code {
		l.t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got.code, code, got.stdout, got.stderr)
	}
	return got
}

// ending is a run that ends by itself, with nothing on standard output.
type ending struct {
	name string
	code int
	args []string
	says string // on standard error
}

// ends demands that each run of a command that would go on ends so.
func (l *lab) ends(command string, endings []ending) {
	for _, e := range endings {
		l.t.Run(e.name, func(t *testing.T) {
			got := l.in(t).run(append([]string{command, map[string]string{"watch": "--admin-listen", "serve": "--listen"}[command], "127.0.0.1:0"}, e.args...)...)
			if got.code != e.code || !strings.Contains(got.stderr, e.says) || got.stdout != "" {
				t.Errorf("exit code %d, want %d, and %q:\n%s%s", got.code, e.code, e.says, got.stdout, got.stderr)
			}
		})
	}
}

// publishResult is what the program's --output json promises.
type publishResult struct {
	Issuer   string
	Changed  bool
	Verified *bool
	Targets  []struct {
		Target  string
		Written []string
		Keys    struct{ Published, Added, Retired, Dropped []string }
		Error   string
		Refused bool
	}
	Warnings []string
}

// publish runs publish with --output json and demands success.
func (l *lab) publish(args ...string) publishResult {
	l.t.Helper()
	got := l.must(cli.ExitDone, append([]string{"publish", "--output", "json"}, args...)...)
	var result publishResult
	var raw json.RawMessage
	if err := json.Unmarshal([]byte(got.stdout), &raw); err != nil {
		l.t.Fatalf("stdout is not one JSON object: %v\n%s", err, got.stdout)
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		l.t.Fatal(err)
	}
	return result
}

// s3 starts an S3 server, with its owner's credentials in the program's
// environment, and returns the target and the public face of a new bucket.
func (l *lab) s3() (server *testserver.S3Server, target string, public http.Handler) {
	l.t.Helper()
	server = testserver.S3(l.t)
	server.CreateBucket(l.t, "issuers")
	server.MakePublic(l.t, "issuers")
	l.env = append(l.env, "AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey)
	l.secrets = append(l.secrets, server.SecretKey)
	return server, s3Target(server.Endpoint), fake.Upstream(server.Endpoint + "/issuers/cluster-a")
}

func s3Target(endpoint string) string {
	return "s3://issuers/cluster-a?region=" + testserver.S3Region + "&endpoint=" + endpoint + "&path-style=true"
}

func (l *lab) gcs() (server *testserver.GCSServer, target string, public http.Handler) {
	l.t.Helper()
	server = testserver.GCS(l.t)
	server.CreateBucket(l.t, "issuers")
	l.env = append(l.env, "STORAGE_EMULATOR_HOST="+server.Host)
	return server, "gs://issuers/cluster-a", fake.Upstream(server.Endpoint + "/issuers/cluster-a")
}

func (l *lab) local(name string) (target string, public http.Handler) {
	target = filepath.Join(l.dir, name)
	return target, fake.Website(target)
}

// kube starts API servers with a user that may read the documents and mint
// tokens for default/default, and returns that user's kubeconfig.
func (l *lab) kube(options testserver.KubeOptions) (cluster *testserver.KubeCluster, kubeconfig string) {
	l.t.Helper()
	cluster = testserver.Kube(l.t, options)
	cluster.CreateServiceAccount(l.t, "default", "default")
	cluster.Grant(l.t, "publisher")
	cluster.GrantMint(l.t, "publisher", "default", "default")
	l.secrets = append(l.secrets, cluster.Servers[0].Kubeconfig("publisher").Token)
	return cluster, cluster.WriteKubeconfig(l.t, "publisher")
}

// embedded starts an API server inside this process, with the same user and
// the same rights.
func (l *lab) embedded(options fake.APIServerOptions) (api *fake.APIServer, kubeconfig string) {
	l.t.Helper()
	api = fake.StartAPIServer(l.t, options)
	api.Grant("publisher", fake.RightDiscovery, fake.RightMint, fake.RightNamespaces)
	l.secrets = append(l.secrets, api.Token("publisher"))
	kubeconfig = filepath.Join(l.t.TempDir(), "kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, "publisher"); err != nil {
		l.t.Fatal(err)
	}
	return api, kubeconfig
}

func (l *lab) mint(cluster *testserver.KubeCluster) string {
	l.t.Helper()
	token := cluster.MintToken(l.t, "default", "default", "relying-party")
	l.secrets = append(l.secrets, token)
	return token
}

// relyingParty verifies a token as an independent implementation does, by what
// is public at the issuer.
func (l *lab) relyingParty(issuer, token string) error {
	return l.relyingPartyOf(issuer, func(verify func(token string) error) error { return verify(token) })
}

// relyingPartyOf fetches the issuer's documents for each call, and its keys once
// for all tokens that are verified in it.
func (l *lab) relyingPartyOf(issuer string, use func(verify func(token string) error) error) error {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(l.t.Context(), l.internet.Client()), 20*time.Second)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return err
	}
	verifier := provider.VerifierContext(ctx, &oidc.Config{ClientID: "relying-party"})
	return use(func(token string) error {
		_, err := verifier.Verify(ctx, token)
		return err
	})
}

func (l *lab) accepts(issuer string, tokens ...string) {
	l.t.Helper()
	for i, token := range tokens {
		if err := l.relyingParty(issuer, token); err != nil {
			l.t.Errorf("token %d is refused: %v", i, err)
		}
	}
}

func (l *lab) refuses(issuer, token string) {
	l.t.Helper()
	if l.relyingParty(issuer, token) == nil {
		l.t.Error("the token is accepted")
	}
}

// publicKeys are the IDs in a published directory.
func publicKeys(t *testing.T, dir string) []string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(dir, discovery.JWKSPath))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := discovery.ParseKeySet(body)
	if err != nil {
		t.Fatal(err)
	}
	return keys.IDs()
}

func sorted(ids ...string) []string { slices.Sort(ids); return ids }

func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
