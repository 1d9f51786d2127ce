package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/backends"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"

	"oidc-publisher/internal/cli"
)

// TestOfficialRotation: the new key is added, then signs, then the old one is
// dropped.
func TestOfficialRotation(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, second := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	publish := func() publishResult { return l.publish("--kubeconfig", kubeconfig, "--to", dir) }

	publish()
	before := l.mint(cluster)

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: first, Published: []*testserver.KubeKey{first, second}})
	wantList(t, "added", publish().Targets[0].Keys.Added, second.ID)

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: second, Published: []*testserver.KubeKey{first, second}})
	if publish().Changed {
		t.Error("signing with a key that is public changes what is public")
	}
	between := l.mint(cluster)
	l.accepts(labIssuer, before, between)

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: second})
	result := publish()
	wantList(t, "retired", result.Targets[0].Keys.Retired, first.ID)
	l.accepts(labIssuer, before, between, l.mint(cluster))

	result = l.publish("--kubeconfig", kubeconfig, "--to", dir, "--grace", "0")
	wantList(t, "dropped", result.Targets[0].Keys.Dropped, first.ID)
	l.refuses(labIssuer, before)
	l.accepts(labIssuer, between)
}

// TestImmediateRotation: the key is replaced, as most people do. The grace is short
// so that its end can be seen.
func TestImmediateRotation(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, second := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "RS256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	_, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))

	l.publish("--kubeconfig", kubeconfig, "--to", target)
	before := l.mint(cluster)
	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: second})
	after := l.mint(cluster)
	l.refuses(labIssuer, after)

	result := l.publish("--kubeconfig", kubeconfig, "--to", target)
	wantList(t, "published", result.Targets[0].Keys.Published, sorted(first.ID, second.ID)...)
	l.accepts(labIssuer, before, after)

	// The API server's Date, by which a grace period ends, has whole seconds.
	eventually(t, 30*time.Second, "the end of the grace period", func() error {
		result = l.publish("--kubeconfig", kubeconfig, "--to", target, "--grace", "1ns")
		if got := result.Targets[0].Keys.Published; !slices.Equal(got, []string{second.ID}) {
			return fmt.Errorf("published: %v, want %s", got, second.ID)
		}
		return nil
	})
	l.refuses(labIssuer, before)
	l.accepts(labIssuer, after)
}

// TestAMachineWhoseClockIsADayAhead believes the API server's: what was retired
// just now stays.
func TestAMachineWhoseClockIsADayAhead(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, second := testserver.NewKubeKey(t, "ES256"), testserver.NewKubeKey(t, "ES256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	dir, _ := l.local("public")
	l.publish("--kubeconfig", kubeconfig, "--to", dir, "--no-verify")
	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: second})
	l.publish("--kubeconfig", kubeconfig, "--to", dir, "--no-verify")

	source, err := kube.New(kube.Config{Kubeconfig: kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	target, err := backends.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Backend.Close()
	ahead := publish.Publisher{
		Source: source, Targets: []publish.Target{target}, Policy: publish.Policy{Grace: publish.DefaultGrace},
		Timeout: time.Minute, NoVerify: true, Now: func() time.Time { return time.Now().Add(25 * time.Hour) },
	}
	report, err := ahead.Publish(t.Context())
	if err != nil || report.Targets[0].Err != nil {
		t.Fatal(err, report.Targets[0].Err)
	}
	plan := report.Targets[0].Plan
	wantList(t, "published", plan.Changes.Published, sorted(first.ID, second.ID)...)
	if !strings.Contains(strings.Join(plan.Warnings, "\n"), "clock is ahead") {
		t.Errorf("warnings %q", plan.Warnings)
	}
}

// TestRevoke: a leaked key goes at once and stays away, though the API server
// lists it again.
func TestRevoke(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	leaked, fresh := testserver.NewKubeKey(t, "ES256"), testserver.NewKubeKey(t, "ES384")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: leaked}})
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	l.publish("--kubeconfig", kubeconfig, "--to", dir)
	forged := l.mint(cluster)
	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: fresh, Published: []*testserver.KubeKey{leaked, fresh}})

	l.publish("--kubeconfig", kubeconfig, "--to", dir, "--revoke", leaked.ID)
	wantList(t, "public", publicKeys(t, dir), fresh.ID)
	l.refuses(labIssuer, forged)
	result := l.publish("--kubeconfig", kubeconfig, "--to", dir)
	wantList(t, "public", publicKeys(t, dir), fresh.ID)
	if !strings.Contains(strings.Join(result.Warnings, " "), leaked.ID) {
		t.Errorf("warnings %q do not name the revoked key that is still listed", result.Warnings)
	}
	l.accepts(labIssuer, l.mint(cluster))
}

// TestSigningKeyIsNotPublished: kube-apiserver starts with a signing key that
// it does not list. The last good set stays.
func TestSigningKeyIsNotPublished(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	listed, signing := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "RS256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: listed}})
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	l.publish("--kubeconfig", kubeconfig, "--to", dir)
	token := l.mint(cluster)

	cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: signing, Published: []*testserver.KubeKey{listed}})
	got := l.must(cli.ExitRefused, "publish", "--kubeconfig", kubeconfig, "--to", dir)
	for _, want := range []string{signing.ID, "--service-account-key-file"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("the error does not say %q:\n%s", want, got.stderr)
		}
	}
	l.accepts(labIssuer, token)
	l.refuses(labIssuer, l.mint(cluster))
	l.must(cli.ExitRefused, "verify", labIssuer, "--kubeconfig", kubeconfig, "--mint", "default/default", "--audience", "relying-party")
}

// TestTwoAPIServers on one etcd have different key lists, as in the middle of
// a rotation.
func TestTwoAPIServers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, second := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, _ := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}, Servers: 2})
	cluster.Servers[1].RestartWith(t, testserver.KubeKeys{Signing: second})
	cluster.SetEndpoints(t, cluster.Servers...)
	cluster.GrantEndpoints(t, "publisher")
	configs := []string{l.dir + "/one", l.dir + "/two"}
	for i, server := range cluster.Servers {
		if err := server.Kubeconfig("publisher").Write(configs[i]); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("whichever answers, no key is lost", func(t *testing.T) {
		l := *l
		l.t = t
		dir, public := l.local("in-turns")
		l.internet.Route("issuer.example.com", routed(public))
		l.publish("--kubeconfig", configs[0], "--to", dir)
		wantList(t, "after the first", publicKeys(t, dir), first.ID)
		for _, config := range []string{configs[1], configs[0], configs[1]} {
			l.publish("--kubeconfig", config, "--to", dir)
			wantList(t, "in turns", publicKeys(t, dir), sorted(first.ID, second.ID)...)
		}
	})
	t.Run("all are asked at once", func(t *testing.T) {
		l := *l
		l.t = t
		dir, public := l.local("union")
		l.internet.Route("issuer.example.com", routed(public))
		result := l.publish("--kubeconfig", configs[0], "--all-api-servers", "--to", dir)
		wantList(t, "union", publicKeys(t, dir), sorted(first.ID, second.ID)...)
		if len(result.Targets[0].Keys.Retired) > 0 || !strings.Contains(strings.Join(result.Warnings, " "), cluster.Servers[1].Address()) {
			t.Errorf("result %+v, want a warning that names the server that differs", result)
		}
		l.accepts(labIssuer, l.mint(cluster))
	})
	t.Run("one does not answer", func(t *testing.T) {
		l := *l
		l.t = t
		cluster.Servers[1].Kill()
		dir, _ := l.local("one-down")
		got := l.must(cli.ExitFailed, "publish", "--kubeconfig", configs[0], "--all-api-servers", "--to", dir)
		if !strings.Contains(got.stderr, cluster.Servers[1].Address()) {
			t.Errorf("the error does not name the server: %s", got.stderr)
		}
		cluster.SetEndpoints(t, cluster.Servers[0])
		result := l.publish("--kubeconfig", configs[0], "--all-api-servers", "--to", dir, "--no-verify")
		wantList(t, "what is left", result.Targets[0].Keys.Published, first.ID)
	})
}
