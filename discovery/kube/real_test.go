package kube_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"oidc-publisher/discovery/files"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/kubeerr"
	"oidc-publisher/internal/testserver"
)

// One control plane serves all the tests that do not restart it: a cold start
// takes seconds.
func TestRealServer(t *testing.T) {
	t.Parallel()
	signing, old := testserver.NewKubeKey(t, "ES256"), testserver.NewKubeKey(t, "RS256")
	cluster := testserver.Kube(t, testserver.KubeOptions{
		Issuer: "https://storage.googleapis.com/bucket/cluster",
		Keys:   testserver.KubeKeys{Signing: signing, Published: []*testserver.KubeKey{old, signing}},
	})
	server := cluster.Servers[0]

	t.Run("administrator", func(t *testing.T) {
		got := fetch(t, source(t, server.Kubeconfig("admin"), kube.Config{}))
		if got.Document.Issuer() != "https://storage.googleapis.com/bucket/cluster" || !slices.Equal(got.Keys.IDs(), []string{old.ID, signing.ID}) {
			t.Errorf("issuer %q, keys %q", got.Document.Issuer(), got.Keys.IDs())
		}
		if got.Canary == nil || got.Canary.KeyID != signing.ID || got.Canary.Algorithm != "ES256" || got.Canary.Issuer != cluster.Issuer() {
			t.Errorf("canary %+v", got.Canary)
		}
		if apart := time.Since(got.Time); apart < 0 || apart > time.Minute {
			t.Errorf("its clock shows %v, %v ago", got.Time, apart)
		}
		if got.MaxAge != time.Hour || len(got.Warnings) != 0 || len(got.Cluster) != 2 || got.Cluster[0] != "uid:"+cluster.UID(t) {
			t.Errorf("max-age %v, warnings %q, cluster %q", got.MaxAge, got.Warnings, got.Cluster)
		}
	})

	t.Run("RBAC", func(t *testing.T) {
		config := kube.Config{Canary: "default/default"}
		s := source(t, server.Kubeconfig("publisher"), config)
		wantError(t, s, `user "publisher"`, "HTTP 403", bindDiscovery+"--user=publisher")
		if _, err := s.Fetch(t.Context()); !errors.Is(err, kubeerr.ErrForbidden) {
			t.Errorf("got %v", err)
		}
		cluster.Grant(t, "publisher")
		got := fetch(t, s)
		if got.Canary != nil || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "--resource-name=default") {
			t.Errorf("canary %v, warnings %q", got.Canary, got.Warnings)
		}
		if len(got.Cluster) != 1 || !strings.HasPrefix(got.Cluster[0], "ca:") {
			t.Errorf("cluster %q", got.Cluster)
		}
		cluster.GrantMint(t, "publisher", "default", "default")
		if got := fetch(t, source(t, server.Kubeconfig("publisher"), config)); got.Canary == nil || len(got.Warnings) != 0 {
			t.Errorf("canary %v, warnings %q", got.Canary, got.Warnings)
		}
		cluster.Revoke(t, "publisher")
		wantError(t, s, "HTTP 403")
	})

	t.Run("read-only user with a client certificate", func(t *testing.T) {
		cluster.Grant(t, "jane doe")
		s := source(t, server.CertificateKubeconfig(t, "jane doe"), kube.Config{})
		if got := fetch(t, s); got.Keys.Len() != 2 {
			t.Errorf("keys %q", got.Keys.IDs())
		}
		cluster.Revoke(t, "jane doe")
		wantError(t, s, bindDiscovery+"--user='jane doe'")
	})

	t.Run("service account", func(t *testing.T) {
		cluster.CreateServiceAccount(t, "oidc", "publisher")
		k := server.Kubeconfig("")
		k.Token = cluster.MintToken(t, "oidc", "publisher", cluster.Issuer())
		// Service accounts may read the documents without more, but not mint.
		got := fetch(t, source(t, k, kube.Config{}))
		if got.Canary != nil || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "oidc/publisher") ||
			!strings.Contains(got.Warnings[0], "--serviceaccount=oidc:publisher") {
			t.Errorf("canary %v, warnings %q", got.Canary, got.Warnings)
		}
		cluster.GrantMint(t, "system:serviceaccount:oidc:publisher", "oidc", "publisher")
		if got := fetch(t, source(t, k, kube.Config{})); got.Canary == nil || len(got.Warnings) != 0 {
			t.Errorf("canary %v, warnings %q", got.Canary, got.Warnings)
		}
	})

	t.Run("unknown token", func(t *testing.T) {
		k := server.Kubeconfig("admin")
		k.Token = "stale"
		wantError(t, source(t, k, kube.Config{}), "HTTP 401")
	})

	t.Run("minting", func(t *testing.T) {
		s := source(t, server.Kubeconfig("admin"), kube.Config{})
		if _, err := s.MintToken(t.Context(), "default", "default", "aud", 20*time.Minute); err != nil {
			t.Error(err)
		}
		_, err := s.MintToken(t.Context(), "default", "absent", "aud", 20*time.Minute)
		if err == nil || !strings.Contains(err.Error(), "kubectl create serviceaccount absent --namespace=default") {
			t.Errorf("got %v", err)
		}
		_, err = s.MintToken(t.Context(), "absent", "default", "aud", 20*time.Minute)
		if err == nil || !strings.Contains(err.Error(), "kubectl create namespace absent") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("forbidden endpoints", func(t *testing.T) {
		s := source(t, server.Kubeconfig("reader"), kube.Config{AllAPIServers: true})
		cluster.Grant(t, "reader")
		wantError(t, s, "list "+slicesPath, "--role=oidc-publisher-endpoints --user=reader")
		cluster.GrantEndpoints(t, "reader")
		fetch(t, s)
	})
}

// The documents made of public keys alone are those that the server with the
// same key file serves, byte for byte.
func TestRealServerServesWhatPublicKeysPromise(t *testing.T) {
	t.Parallel()
	var keys []*testserver.KubeKey
	for _, algorithm := range []string{"ES512", "RS256", "ES256", "ES384", "RS256"} {
		keys = append(keys, testserver.NewKubeKey(t, algorithm))
	}
	const issuer = "https://issuer.example.com/a/path"
	cluster := testserver.Kube(t, testserver.KubeOptions{Issuer: issuer, Keys: testserver.KubeKeys{Signing: keys[2], Published: keys}})
	live := fetch(t, source(t, cluster.Servers[0].Kubeconfig("admin"), kube.Config{}))

	var paths []string
	for _, key := range keys {
		path := filepath.Join(t.TempDir(), key.ID+".pub")
		writeFile(t, path, key.PublicPEM(t))
		paths = append(paths, path)
	}
	promised, err := files.PublicKeys(paths, issuer).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(live.Keys.Bytes()), string(promised.Keys.Bytes())); diff != "" {
		t.Errorf("JWKS (-live +promised):\n%s", diff)
	}
	document := promised.Document.WithJWKSURI(live.Document.JWKSURI())
	if diff := cmp.Diff(string(live.Document.Bytes()), string(document.Bytes())); diff != "" {
		t.Errorf("document (-live +promised):\n%s", diff)
	}
}

func TestRealServerWithoutDiscovery(t *testing.T) {
	t.Parallel()
	cluster := testserver.Kube(t, testserver.KubeOptions{Issuer: "http://issuer.example.com", Keys: testserver.KubeKeys{Signing: testserver.NewKubeKey(t, "ES256")}})
	s := source(t, cluster.Servers[0].Kubeconfig("admin"), kube.Config{})
	wantError(t, s, "HTTP 404", "--service-account-issuer=https://")
}

func TestRealServersOnOneEtcd(t *testing.T) {
	t.Parallel()
	first, second := testserver.NewKubeKey(t, "ES256"), testserver.NewKubeKey(t, "RS256")
	cluster := testserver.Kube(t, testserver.KubeOptions{Servers: 2, Keys: testserver.KubeKeys{Signing: first}})
	a, b := cluster.Servers[0], cluster.Servers[1]
	cluster.Grant(t, "publisher")
	cluster.GrantEndpoints(t, "publisher")
	cluster.GrantMint(t, "publisher", "default", "default")
	s := source(t, a.Kubeconfig("publisher"), kube.Config{AllAPIServers: true})
	byCertificate := source(t, a.CertificateKubeconfig(t, "publisher"), kube.Config{AllAPIServers: true})

	agreed := fetch(t, s)
	if len(agreed.Warnings) != 0 || !slices.Equal(agreed.Keys.IDs(), []string{first.ID}) {
		t.Errorf("keys %q, warnings %q", agreed.Keys.IDs(), agreed.Warnings)
	}

	// The control plane is half rolled: one server has the new key only, and
	// signs with it.
	b.RestartWith(t, testserver.KubeKeys{Signing: second})
	want := []string{first.ID, second.ID}
	slices.Sort(want)
	for name, s := range map[string]*kube.Source{"token": s, "certificate": byCertificate} {
		got := fetch(t, s)
		if !slices.Equal(got.Keys.IDs(), want) {
			t.Errorf("%s: keys %q, want %q", name, got.Keys.IDs(), want)
		}
		missing := "API server " + a.Address() + ` does not publish "` + second.ID + `"`
		if len(got.Warnings) != 2 || !slices.ContainsFunc(got.Warnings, func(w string) bool { return strings.HasPrefix(w, missing) }) {
			t.Errorf("%s: warnings %q lack %q", name, got.Warnings, missing)
		}
	}

	// Now it signs with a key that no server publishes.
	hidden := testserver.NewKubeKey(t, "ES256")
	b.RestartWith(t, testserver.KubeKeys{Signing: hidden, Published: []*testserver.KubeKey{first}})
	got := fetch(t, s)
	if _, published := got.Keys.Lookup(hidden.ID); published || got.Canary == nil || got.Canary.KeyID != hidden.ID {
		t.Errorf("canary %+v, want %q; keys %q", got.Canary, hidden.ID, got.Keys.IDs())
	}

	b.Kill()
	wantError(t, s, "API server "+b.Address(), "can't connect")
	cluster.SetEndpoints(t, a)
	if got := fetch(t, s); !slices.Equal(got.Keys.IDs(), []string{first.ID}) {
		t.Errorf("keys %q", got.Keys.IDs())
	}
}
