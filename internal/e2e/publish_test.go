package e2e

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

const labIssuer = "https://issuer.example.com/cluster-a"

// routed serves a target's public face below the path of labIssuer.
func routed(public http.Handler) http.Handler { return http.StripPrefix("/cluster-a", public) }

// TestPublishEverywhere is the main job on real servers: one command publishes
// to all three backends, and a token verifies through each public copy.
func TestPublishEverywhere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer})
	_, s3, s3Public := l.s3()
	_, gcs, gcsPublic := l.gcs()
	dir, dirPublic := l.local("public")
	l.internet.Route("issuer.example.com", routed(s3Public))

	result := l.publish("--kubeconfig", kubeconfig, "--to", s3, "--to", gcs, "--to", dir)
	if !result.Changed || result.Verified == nil || !*result.Verified || result.Issuer != labIssuer || len(result.Targets) != 3 {
		t.Errorf("result %+v", result)
	}
	for _, target := range result.Targets {
		wantList(t, target.Target+" written", target.Written, ".oidc-publisher.json", "openid/v1/jwks", ".well-known/openid-configuration")
	}

	token := l.mint(cluster)
	for name, public := range map[string]http.Handler{"s3": s3Public, "gcs": gcsPublic, "dir": dirPublic} {
		t.Run(name, func(t *testing.T) {
			l := *l
			l.t = t
			l.internet.Route("issuer.example.com", routed(public))
			l.accepts(labIssuer, token)
			l.must(cli.ExitDone, "verify", labIssuer, "--kubeconfig", kubeconfig, "--mint", "default/default", "--audience", "relying-party", "--for", "gcp,aws,vault,cloudsmith")
			if again := l.publish("--kubeconfig", kubeconfig, "--to", s3, "--to", gcs, "--to", dir); again.Changed {
				t.Errorf("the second run wrote: %+v", again.Targets)
			}
		})
	}
	checkHeaders(t, l, s3Public, gcsPublic)
}

func checkHeaders(t *testing.T, l *lab, publics ...http.Handler) {
	for _, public := range publics {
		l.internet.Route("issuer.example.com", routed(public))
		for path, want := range map[string][2]string{
			"/openid/v1/jwks":                   {"application/jwk-set+json", "public, max-age=60"},
			"/.well-known/openid-configuration": {"application/json", "public, max-age=300"},
		} {
			resp, err := l.internet.Client().Get(labIssuer + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := [2]string{resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control")}; got != want {
				t.Errorf("%s has %v, want %v", path, got, want)
			}
		}
	}
}

// TestSecondRunTouchesNothing compares the times of the files.
func TestSecondRunTouchesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer})
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", dir)
	before := times(t, dir)
	if len(before) < 3 {
		t.Errorf("files %v", before)
	}
	got := l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", dir)
	if !strings.Contains(got.stdout, "up to date, nothing to write") {
		t.Errorf("it says %q", got.stdout)
	}
	for path, then := range before {
		if now := times(t, dir)[path]; !now.Equal(then) {
			t.Errorf("%s was touched", path)
		}
	}
}

// times are the modification times of all files and folders.
func times(t *testing.T, dir string) map[string]time.Time {
	t.Helper()
	times := map[string]time.Time{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		times[path] = info.ModTime()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return times
}

// TestIssuerNamesTheBucket: where the issuer is a bucket's URL, --to may be
// left out, and another bucket is refused.
func TestIssuerNamesTheBucket(t *testing.T) {
	t.Parallel()
	const issuer = "https://storage.googleapis.com/issuers/cluster-a"
	l := newLab(t)
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: issuer})
	server, _, _ := l.gcs()
	l.internet.Route("storage.googleapis.com", fake.Upstream(server.Endpoint))

	got := l.must(cli.ExitRefused, "publish", "--kubeconfig", kubeconfig, "--to", "gs://issuers/cluster-b")
	if !strings.Contains(got.stderr, "gs://issuers/cluster-a") {
		t.Errorf("the refusal does not name the right target: %s", got.stderr)
	}
	result := l.publish("--kubeconfig", kubeconfig)
	if result.Targets[0].Target != "gs://issuers/cluster-a" || result.Verified == nil || !*result.Verified {
		t.Errorf("result %+v", result)
	}
	l.accepts(issuer, l.mint(cluster))
}

// TestReadOnlyUser: the right to read the documents is enough to publish; without
// it the error names the command that grants it, and the command works.
func TestReadOnlyUser(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	cluster, _ := l.kube(testserver.KubeOptions{Issuer: labIssuer})
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	kubeconfig := cluster.WriteKubeconfig(t, "reader")

	got := l.must(cli.ExitFailed, "publish", "--kubeconfig", kubeconfig, "--to", dir)
	const cure = "kubectl create clusterrolebinding oidc-publisher-discovery --clusterrole=system:service-account-issuer-discovery --user=reader"
	if !strings.Contains(got.stderr, cure) {
		t.Errorf("the error does not say %q:\n%s", cure, got.stderr)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("something was written")
	}
	cluster.Grant(t, "reader")
	result := l.publish("--kubeconfig", kubeconfig, "--to", dir)
	if !result.Changed || !strings.Contains(strings.Join(result.Warnings, " "), "serviceaccounts/token") {
		t.Errorf("result %+v, want a warning that the signing key could not be checked", result)
	}
}

// TestBucketIsNotPublic: the documents are written, and the verification reports
// why they can't be read. Once they are public the next run succeeds.
func TestBucketIsNotPublic(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api := fake.StartAPIServer(t, fake.APIServerOptions{Issuer: labIssuer})
	api.AddServiceAccount("default", "default")
	api.Grant("publisher", fake.RightDiscovery, fake.RightMint, fake.RightNamespaces)
	kubeconfig := filepath.Join(l.dir, "kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, "publisher"); err != nil {
		t.Fatal(err)
	}
	server, _, _ := l.s3()
	server.CreateBucket(t, "private")
	target := strings.Replace(s3Target(server.Endpoint), "issuers", "private", 1)
	l.internet.Route("issuer.example.com", routed(fake.Upstream(server.Endpoint+"/private/cluster-a")))

	got := l.must(cli.ExitFailed, "publish", "--kubeconfig", kubeconfig, "--to", target, "--timeout", "5s")
	if !strings.Contains(got.stdout, "wrote") || !strings.Contains(got.stderr, "answers 403") {
		t.Errorf("it says %s%s", got.stdout, got.stderr)
	}
	server.MakePublic(t, "private")
	if result := l.publish("--kubeconfig", kubeconfig, "--to", target); result.Changed || result.Verified == nil || !*result.Verified {
		t.Errorf("result %+v", result)
	}
}
