package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

// watched are the settings of an embedded API server; its keys are quickly made.
func watched(issuer string) fake.APIServerOptions {
	return fake.APIServerOptions{Issuer: issuer, Algorithm: "ES256"}
}

// TestWatchRotations: both kinds of rotation reach the public issuer by
// themselves, soon after the API server is up again. The bound is generous: how
// soon it is, is measured elsewhere.
func TestWatchRotations(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, second, third := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256"), testserver.NewKubeKey(t, "RS256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	_, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", target)
	w.ready()
	oldest := l.mint(cluster)
	l.accepts(labIssuer, oldest)

	rotate := func(what string, keys testserver.KubeKeys, want ...string) {
		t.Helper()
		cluster.Servers[0].RestartWith(t, keys)
		took := eventually(t, 30*time.Second, what, l.shows(labIssuer, want...))
		t.Logf("%s: public %v after the API server was ready", what, took.Round(time.Millisecond))
	}
	rotate("official: published beside the old one", testserver.KubeKeys{Signing: first, Published: []*testserver.KubeKey{first, second}}, first.ID, second.ID)
	rotate("official: signs", testserver.KubeKeys{Signing: second, Published: []*testserver.KubeKey{first, second}}, first.ID, second.ID)
	middle := l.mint(cluster)
	rotate("official: the old one is retired", testserver.KubeKeys{Signing: second}, first.ID, second.ID)
	rotate("blunt", testserver.KubeKeys{Signing: third}, first.ID, second.ID, third.ID)
	l.accepts(labIssuer, oldest, middle, l.mint(cluster))

	eventually(t, 30*time.Second, "rotations that were seen", func() error {
		if got := w.metric("oidc_publisher_rotations_total"); got != 3 {
			return fmt.Errorf("%v, want 3", got)
		}
		return nil
	})
	if got := w.metric("oidc_publisher_published_keys", "state=retired"); got != 2 {
		t.Errorf("%v retired keys, want 2", got)
	}
	if got := w.metric("oidc_publisher_key_publication_seconds_count"); got != 2 {
		t.Errorf("%v publications were measured, want 2", got)
	}
	if got := len(w.log("published")); got > 4 {
		t.Errorf("%d lines say that something was published, want at most 4:\n%s", got, w.Output())
	}
	w.alive()
}

// TestWatchIsQuiet: one line for each change of the world and none else.
func TestWatchIsQuiet(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", dir, "--interval", "1s", "--verify-interval", "1s")
	w.ready()
	w.fetches(3)
	quiet := 2
	if lines := w.log(""); len(lines) != quiet {
		t.Errorf("%d lines, want that it watches and that it published:\n%s", quiet, w.Output())
	}
	kid, err := api.Rotate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "rotation", func() error { return holds(dir, api.KeyIDs()...)() })
	eventually(t, 30*time.Second, "check of the public side", func() error {
		if n := w.metric("oidc_publisher_public_checks_total", "verdict=pass"); n < 2 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	lines := w.log("")[quiet:]
	if len(lines) != 2 || lines[0].Msg != "published" || lines[0].Added != kid || lines[1].Msg != "public certificate check failed" {
		t.Errorf("%d more lines, want one of the key and one of the certificate, which lasts for an hour:\n%s", len(lines), w.Output())
	}
	if got := w.metric("oidc_publisher_public_checks_total", "verdict=fail") + w.metric("oidc_publisher_public_checks_total", "verdict=error"); got != 0 {
		t.Errorf("%v looks found a fault", got)
	}
	if got := w.metric("oidc_publisher_public_certificate_expiry_timestamp_seconds"); got < float64(time.Now().Unix()) {
		t.Errorf("the certificate expires at %v", got)
	}
}

// TestWatchEnds: what can't pass ends it, with the usual codes.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(watched(labIssuer))
	_, stranger := l.embedded(watched(labIssuer))
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", dir)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	l.ends("watch", []ending{
		{"short interval", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", dir, "--interval", "999ms"}, "--interval must be at least 1s"},
		{"no grace and one API server", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", dir, "--grace", "0s"}, "--grace of less than 5m0s needs --all-api-servers"},
		{"short grace and one API server", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", dir, "--grace", "4m59s"}, "--grace of less than 5m0s needs --all-api-servers"},
		{"taking over", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", dir, "--take-over"}, "no flag --take-over"},
		{"one look", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", dir, "--dry-run"}, "no flag --dry-run"},
		{"no target", cli.ExitUsage, []string{"--kubeconfig", kubeconfig}, "--to is missing"},
		{"wrong target", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", "ftp://x"}, "--to"},
		{"wrong canary", cli.ExitUsage, []string{"--kubeconfig", kubeconfig, "--to", dir, "--canary", "default"}, "NAMESPACE/SERVICEACCOUNT"},
		{"busy port", cli.ExitFailed, []string{"--kubeconfig", kubeconfig, "--to", dir, "--admin-listen", busy.Addr().String()}, "--admin-listen: listen tcp " + busy.Addr().String() + ": bind: address already in use"},
		{"no kubeconfig", cli.ExitFailed, []string{"--kubeconfig", "missing", "--to", dir}, "missing"},
		{"somebody else's target", cli.ExitRefused, []string{"--kubeconfig", stranger, "--to", dir}, "target belongs to another cluster"},
	})
}

// TestWatchFindsItsTarget: without --to the API server has to be asked for the
// issuer first. It need not be up yet.
func TestWatchFindsItsTarget(t *testing.T) {
	t.Parallel()
	const issuer = "https://storage.googleapis.com/issuers/cluster-a"
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(issuer))
	server, _, _ := l.gcs()
	l.internet.Route("storage.googleapis.com", fake.Upstream(server.Endpoint))
	api.Stop()
	w := l.watch("--kubeconfig", kubeconfig)
	w.says("fetch of the issuer failed", "")
	if err := w.answers("/readyz", http.StatusServiceUnavailable); err != nil {
		t.Error(err)
	}
	w.alive()
	if err := api.Start(); err != nil {
		t.Fatal(err)
	}
	w.ready()
	if err := l.shows(issuer, api.KeyIDs()...)(); err != nil {
		t.Error(err)
	}
	if lines := w.log("fetch of the issuer failed"); len(lines) != 1 {
		t.Errorf("it complained %d times", len(lines))
	}
}

// TestWatchIsNudged: with an interval of an hour, only nudges can be why it looks.
func TestWatchIsNudged(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	dir, _ := l.local("public")
	w := l.watch("--kubeconfig", kubeconfig, "--to", dir, "--interval", "1h", "--verify-interval", "0")
	w.ready()

	if _, err := api.Rotate("ES256"); err != nil {
		t.Fatal(err)
	}
	w.signal(syscall.SIGHUP)
	eventually(t, 30*time.Second, "after SIGHUP", holds(dir, api.KeyIDs()...))

	if _, err := api.Rotate("ES384"); err != nil {
		t.Fatal(err)
	}
	api.Stop()
	if err := api.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "after the connection ended", holds(dir, api.KeyIDs()...))
}

// TestWatchTerminates: SIGTERM ends it in an orderly way, with exit code 0 and
// the write in hand done.
func TestWatchTerminates(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(watched(labIssuer))
	server, _, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	proxy := fake.NewFaultProxy(t, server.Endpoint)
	writing := make(chan struct{})
	proxy.Inject(1, func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/jwks")
	},
		func(w http.ResponseWriter, r *http.Request, server http.Handler) {
			close(writing)
			fake.Delay(time.Second)(w, r, server)
		})
	cmd := exec.CommandContext(t.Context(), built, "watch", "--kubeconfig", kubeconfig, "--to", s3Target(proxy.Endpoint), "--admin-listen", "127.0.0.1:0")
	cmd.Env, cmd.Dir = l.env, l.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-writing
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	for _, path := range []string{"/openid/v1/jwks", "/.well-known/openid-configuration"} {
		resp, err := l.internet.Client().Get(labIssuer + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s was not written: HTTP status %d", path, resp.StatusCode)
		}
	}
}
