package e2e

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"oidc-publisher/internal/testserver"
)

// client is a typed client of one API server.
func client(t *testing.T, server *testserver.KubeServer, user string) *kubernetes.Clientset {
	t.Helper()
	config := server.Kubeconfig(user)
	clients, err := kubernetes.NewForConfig(&rest.Config{
		Host: config.Server, BearerToken: config.Token, TLSClientConfig: rest.TLSClientConfig{CAData: config.CA},
		QPS: -1, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// minted is what is known of all tokens of one key.
type minted struct {
	// token is the first one: whether it verifies depends on the key alone.
	token           string
	first, verified time.Time
	count           int
}

// mint is a client that asks one server for tokens, again and again.
func (m *mints) mint(ctx context.Context, clients *kubernetes.Clientset) {
	expiry := int64(600)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answer, err := clients.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authentication.TokenRequest{
			Spec: authentication.TokenRequestSpec{Audiences: []string{"relying-party"}, ExpirationSeconds: &expiry},
		}, metav1.CreateOptions{})
		if err == nil { // else it restarts
			m.add(answer.Status.Token)
		}
	}
}

// mints are all tokens that were ever minted, by key.
type mints struct {
	t    *testing.T
	mu   sync.Mutex
	keys map[string]*minted
	all  []string
}

func (m *mints) add(token string) {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		m.t.Error(err)
		return
	}
	kid := parsed.Signatures[0].Header.KeyID
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, token)
	if m.keys[kid] == nil {
		m.keys[kid] = &minted{token: token, first: time.Now()}
	}
	m.keys[kid].count++
}

// check verifies, through the public copy and from scratch, a token of each key.
func (m *mints) check(l *lab) {
	m.mu.Lock()
	var waiting []*minted
	for _, k := range m.keys {
		waiting = append(waiting, k)
	}
	m.mu.Unlock()
	results := make([]error, len(waiting))
	err := l.relyingPartyOf(labIssuer, func(verify func(token string) error) error {
		for i, k := range waiting {
			results[i] = verify(k.token)
		}
		return nil
	})
	for i, k := range waiting {
		err := cmp.Or(err, results[i])
		m.mu.Lock()
		switch {
		case err == nil && k.verified.IsZero():
			k.verified = time.Now()
		case err != nil && !k.verified.IsZero():
			m.t.Errorf("a token that verified before does no more: %v", err)
		}
		m.mu.Unlock()
	}
}

// TestWatchARollingRotation: three API servers on one etcd get a new key one
// after the other, bluntly, while clients mint tokens through all of them all
// the time. It is not parallel, since it judges a duration.
func TestWatchARollingRotation(t *testing.T) {
	l := newLab(t)
	old, fresh := testserver.NewKubeKey(t, "RS256"), testserver.NewKubeKey(t, "ES256")
	cluster, _ := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: old}, Servers: 3})
	cluster.GrantEndpoints(t, "publisher")
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	kubeconfig := filepath.Join(l.dir, "kubeconfig")
	if err := cluster.Servers[2].Kubeconfig("publisher").Write(kubeconfig); err != nil {
		t.Fatal(err)
	}
	w := l.watch("--kubeconfig", kubeconfig, "--all-api-servers", "--to", dir)
	w.ready()

	m := &mints{t: t, keys: map[string]*minted{}}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for _, server := range cluster.Servers {
		clients.Go(func() { m.mint(ctx, client(t, server, "admin")) })
	}
	clients.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			m.check(l) //nolint:contextcheck // what is being checked at the end is checked to the end
			<-tick.C
		}
	})
	// As in real clusters, a server leaves the endpoints while it restarts.
	for i, server := range cluster.Servers {
		others := slices.Delete(slices.Clone(cluster.Servers), i, i+1)
		cluster.SetEndpoints(t, others...)
		server.RestartWith(t, testserver.KubeKeys{Signing: fresh})
		cluster.SetEndpoints(t, cluster.Servers...)
		eventually(t, 30*time.Second, "tokens of both keys verify", func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if k := m.keys[fresh.ID]; k == nil || k.verified.IsZero() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	w.fetches(2)
	stop()
	clients.Wait()

	m.check(l)
	late := 0
	for kid, k := range m.keys {
		gap := k.verified.Sub(k.first)
		t.Logf("key %s: %d tokens, the first verified after %v", kid, k.count, gap.Round(time.Millisecond))
		// An interval, jittered, and what a look takes beside three API servers on this machine.
		if gap > 11*time.Second+2*time.Second || k.verified.IsZero() {
			t.Errorf("key %s: its tokens could not be verified for %v", kid, gap)
		}
	}
	ctx = oidc.ClientContext(t.Context(), l.internet.Client())
	provider, err := oidc.NewProvider(ctx, labIssuer)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.VerifierContext(ctx, &oidc.Config{ClientID: "relying-party"})
	for _, token := range m.all {
		if _, err := verifier.Verify(ctx, token); err != nil {
			late++
		}
	}
	if len(m.keys) != 2 || late > 0 {
		t.Errorf("%d keys; at the end %d of %d tokens could not be verified", len(m.keys), late, len(m.all))
	}
	t.Logf("%d tokens, none unverifiable at the end", len(m.all))
	if err := holds(dir, old.ID, fresh.ID)(); err != nil {
		t.Error(err)
	}
}

// TestTwoWatchers: two watchers of one target are safe, also
// where one is frozen with a plan in hand.
func TestTwoWatchers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	l.twoWatchers(10, kubeconfig, api.KeyIDs()[0], func() string {
		kid, err := api.Replace("ES256")
		must(t, err)
		return kid
	})
}

// TestTwoWatchersBesideAnAPIServer that is a real one.
func TestTwoWatchersBesideAnAPIServer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := testserver.NewKubeKey(t, "ES256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	l.twoWatchers(2, kubeconfig, first.ID, func() string {
		fresh := testserver.NewKubeKey(t, "ES256")
		cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: fresh})
		return fresh.ID
	})
	l.accepts(labIssuer, l.mint(cluster))
}

// twoWatchers publish to one bucket. In each round the key is replaced while
// one of them is frozen, in turns.
func (l *lab) twoWatchers(rounds int, kubeconfig, first string, replace func() (kid string)) {
	l.t.Helper()
	_, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	args := []string{"--kubeconfig", kubeconfig, "--to", target, "--interval", "1s"}
	watchers := []*watcher{l.watch(args...), l.watch(args...)}
	for _, w := range watchers {
		w.ready()
	}
	ever := []string{first}
	for i := range rounds {
		frozen := watchers[i%2]
		frozen.signal(syscall.SIGSTOP)
		ever = append(ever, replace())
		eventually(l.t, 30*time.Second, "one frozen", l.shows(labIssuer, ever...))
		frozen.signal(syscall.SIGCONT)
		frozen.fetches(1)
		if err := l.shows(labIssuer, ever...)(); err != nil {
			l.t.Errorf("thawed: %v", err)
		}
	}
	for _, w := range watchers {
		w.alive()
		w.Stop()
	}
	if result := l.publish("--kubeconfig", kubeconfig, "--to", target); result.Changed {
		l.t.Errorf("something was left to do: %+v", result)
	}
}
