package e2e

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

const (
	labConfiguration = "/cluster-a/" + discovery.ConfigurationPath
	labKeys          = "/cluster-a/" + discovery.JWKSPath
)

// TestServeBeforeTheCluster: it starts without a kubeconfig, reports what it
// waits for, and serves what the API server has as soon as there is one.
// Its tokens verify, also after the key was replaced.
func TestServeBeforeTheCluster(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	kubeconfig := filepath.Join(l.dir, "later")
	s := l.serve("--kubeconfig", kubeconfig, "--issuer", labIssuer, "--interval", "1s", "--verify-interval", "0")
	l.route("issuer.example.com", s)
	if got := s.awaitEvent("public_url", 1).URL; got != labIssuer {
		t.Errorf("the public URL is %q", got)
	}
	if reason := s.awaitEvent("waiting", 1).Reason; !strings.Contains(reason, kubeconfig) {
		t.Errorf("it waits for %q", reason)
	}
	resp, body := s.get(labKeys)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("before the cluster: HTTP status %d, %v, %s", resp.StatusCode, resp.Header, body)
	}
	s.adminAnswers("/livez", http.StatusOK)
	s.adminAnswers("/readyz", http.StatusServiceUnavailable)
	if _, err := os.Stat(s.ready); err == nil {
		t.Error("the ready file is there before the documents")
	}

	first, second := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, _ := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	if err := cluster.Servers[0].Kubeconfig("publisher").Write(kubeconfig); err != nil {
		t.Fatal(err)
	}
	wantList(t, "served", s.awaitEvent("serving", 1).Keys, first.ID)
	s.awaitEvent("cluster_found", 1)
	before := l.mint(cluster)
	l.accepts(labIssuer, before)
	s.adminAnswers("/readyz", http.StatusOK)
	if got := readyFile(t, s.ready); got != labIssuer+"\n" {
		t.Errorf("the ready file says %q", got)
	}

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: second})
	changed := s.awaitEvent("keys_changed", 1)
	wantList(t, "added", changed.Added, second.ID)
	if _, retired := changed.GraceEnds[first.ID]; !retired {
		t.Errorf("%s is not reported as retired: %v", first.ID, changed.GraceEnds)
	}
	l.accepts(labIssuer, before, l.mint(cluster))
	if got := len(s.events("waiting")); got > 2 {
		t.Errorf("it reported %d times what it waits for", got)
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/" + discovery.JWKSPath, "/.oidc-publisher.json", "/cluster-a/.oidc-publisher.json"} {
		s.answers(path, http.StatusNotFound)
	}
	if metrics := s.adminAnswers("/metrics", http.StatusOK); !strings.Contains(metrics, `oidc_publisher_http_requests_total{code="503",resource="keys"} 1`) {
		t.Error("the request that came too early was not counted")
	}
}

// TestServeAnotherIssuer: a cluster whose tokens name another issuer is not served.
func TestServeAnotherIssuer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer + "/"})
	s := l.serve("--kubeconfig", kubeconfig, "--issuer", labIssuer, "--interval", "1s", "--verify-interval", "0")
	if reason := s.awaitEvent("refused", 1).Reason; !strings.Contains(reason, "--service-account-issuer="+labIssuer) {
		t.Errorf("the reason does not say what fixes it: %s", reason)
	}
	if !strings.Contains(s.Output(), "error: refused: ") {
		t.Errorf("the log has no error:\n%s", s.Output())
	}
	s.answers(labKeys, http.StatusServiceUnavailable)
	api.SetIssuer(labIssuer)
	s.awaitEvent("serving", 1)
	s.answers(labKeys, http.StatusOK)
}

// TestServeDir serves what publish left, and follows it.
func TestServeDir(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer})
	dir, _ := l.local("public")
	s := l.serve("--dir", dir)
	s.awaitEvent("waiting", 1)
	s.answers(labKeys, http.StatusServiceUnavailable)
	l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", dir, "--no-verify")
	wantList(t, "served", s.awaitEvent("serving", 1).Keys, api.KeyIDs()...)
	resp, _ := s.get(labConfiguration)
	if got := resp.Header.Get("Cache-Control"); got != "public, max-age=300" {
		t.Errorf("Cache-Control: %q", got)
	}

	id, err := api.Rotate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	l.must(cli.ExitDone, "publish", "--kubeconfig", kubeconfig, "--to", dir, "--no-verify")
	wantList(t, "added", s.awaitEvent("keys_changed", 1).Added, id)

	// What can't be served is logged once, and changes nothing.
	_, before := s.get(labKeys)
	if err := os.WriteFile(filepath.Join(dir, discovery.JWKSPath), []byte(before[:len(before)/2]), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "complaint", func() error {
		if !strings.Contains(s.Output(), "load of the directory failed") {
			return os.ErrNotExist
		}
		return nil
	})
	if _, after := s.get(labKeys); after != before {
		t.Errorf("half a file is served: %s", after)
	}
	s.adminAnswers("/livez", http.StatusOK)
	if metrics := s.adminAnswers("/metrics", http.StatusOK); !regexp.MustCompile(`oidc_publisher_dir_polls_total{result="failed"} [1-9]`).MatchString(metrics) {
		t.Error("the polls that failed are not counted")
	}
}

// TestServeStateDir: a restart forgets no retired key, and needs no cluster.
func TestServeStateDir(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer})
	args := []string{"--kubeconfig", kubeconfig, "--state-dir", filepath.Join(l.dir, "state"), "--interval", "1s", "--verify-interval", "0"}
	s := l.serve(args...)
	s.awaitEvent("serving", 1)
	first := api.KeyIDs()
	second, err := api.Replace("ES256")
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, "added", s.awaitEvent("keys_changed", 1).Added, second)
	_, before := s.get(labKeys)
	s.Stop()
	api.Stop()
	again := l.serve(args...)
	wantList(t, "served after a restart", sorted(again.awaitEvent("serving", 1).Keys...), sorted(append(first, second)...)...)
	if _, after := again.get(labKeys); after != before {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", after, before)
	}
	if err := api.Start(); err != nil {
		t.Fatal(err)
	}
	again.awaitEvent("cluster_found", 1)
	if _, after := again.get(labKeys); after != before {
		t.Errorf("after the cluster came back:\n%s\nbefore:\n%s", after, before)
	}
}

// TestServeAllAPIServers serves the keys of every server, where one alone does
// not know all.
func TestServeAllAPIServers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	old, next := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: old}, Servers: 2})
	cluster.Servers[1].RestartWith(t, testserver.KubeKeys{Signing: old, Published: []*testserver.KubeKey{old, next}})
	cluster.SetEndpoints(t, cluster.Servers...)
	cluster.GrantEndpoints(t, "publisher")
	for _, c := range []struct{ args, keys []string }{
		{nil, []string{old.ID}},
		{[]string{"--all-api-servers"}, []string{old.ID, next.ID}},
	} {
		s := l.serve(append(c.args, "--kubeconfig", kubeconfig, "--verify-interval", "0")...)
		wantList(t, strings.Join(c.args, " "), sorted(s.awaitEvent("serving", 1).Keys...), sorted(c.keys...)...)
		s.Stop()
	}
}

// TestServeEnds: what can't pass ends it, with the usual codes.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	l.ends("serve", []ending{
		{"busy port", cli.ExitFailed, []string{"--listen", busy.Addr().String()}, "--listen: listen tcp " + busy.Addr().String() + ": bind: address already in use"},
		{"busy admin port", cli.ExitFailed, []string{"--admin-listen", busy.Addr().String()}, "--admin-listen: listen tcp " + busy.Addr().String()},
		{"half a certificate", cli.ExitUsage, []string{"--tls-cert", "tls.crt"}, "--tls-cert and --tls-key go together"},
		{"no certificate", cli.ExitFailed, []string{"--tls-cert", "tls.crt", "--tls-key", "tls.key"}, "tls.crt"},
		{"short interval", cli.ExitUsage, []string{"--interval", "1ms"}, "--interval must be at least 1s"},
		{"dir and source", cli.ExitUsage, []string{"--dir", "public", "--from", "x"}, "--from has no effect"},
		{"keys without issuer", cli.ExitUsage, []string{"--public-key", "sa.pub"}, "--public-key needs --issuer"},
		{"no issuer", cli.ExitUsage, []string{"--issuer", "http://issuer.example.com"}, "--issuer"},
		{"a target", cli.ExitUsage, []string{"--to", "public"}, "no flag --to"},
		{"an argument", cli.ExitUsage, []string{"public"}, "unexpected argument"},
	})
}
