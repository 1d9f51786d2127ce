package kube_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/testserver"
)

// embedded starts a server with a quick key and a user who may do everything
// that the source ever asks for.
func embedded(t *testing.T, options testserver.EmbeddedOptions) *testserver.Embedded {
	t.Helper()
	if options.Algorithm == "" {
		options.Algorithm = "ES256"
	}
	e := testserver.StartEmbedded(t, options)
	e.Grant("publisher", testserver.RightDiscovery, testserver.RightMint, testserver.RightNamespaces, testserver.RightEndpoints)
	return e
}

// source connects to a server as a kubeconfig says.
func source(t *testing.T, k testserver.Kubeconfig, config kube.Config) *kube.Source {
	t.Helper()
	config.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := k.Write(config.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	s, err := kube.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fetch(t *testing.T, s *kube.Source) discovery.Snapshot {
	t.Helper()
	snapshot, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func TestFetch(t *testing.T) {
	e := embedded(t, testserver.EmbeddedOptions{Issuer: "https://storage.googleapis.com/bucket/cluster"})
	got := fetch(t, source(t, e.Kubeconfig("publisher"), kube.Config{}))
	if got.Document.Issuer() != "https://storage.googleapis.com/bucket/cluster" {
		t.Errorf("issuer %q", got.Document.Issuer())
	}
	if !slices.Equal(got.Keys.IDs(), e.KeyIDs()) {
		t.Errorf("keys %v, want %v", got.Keys.IDs(), e.KeyIDs())
	}
	want := discovery.Canary{KeyID: e.SigningKeyID(), Algorithm: "ES256", Issuer: e.Issuer()}
	if got.Canary == nil || *got.Canary != want {
		t.Errorf("canary %+v, want %+v", got.Canary, want)
	}
	if got.MaxAge != time.Hour {
		t.Errorf("max-age %v", got.MaxAge)
	}
	if len(got.Cluster) != 2 || got.Cluster[0] != "uid:"+e.UID() || !strings.HasPrefix(got.Cluster[1], "ca:") || len(got.Cluster[1]) != len("ca:")+64 {
		t.Errorf("cluster %q", got.Cluster)
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings %q", got.Warnings)
	}
}
