package e2e

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

// spoil is a fault of a network, and whether work can get done all the same.
type spoil struct {
	name   string
	toxics []testserver.Toxic
	works  bool
}

var spoiled = []spoil{
	{"answers take 1.5 s", both("latency", map[string]int{"latency": 750}), true},
	{"answers take 8 s", both("latency", map[string]int{"latency": 4000}), false},
	{"silence", both("timeout", map[string]int{"timeout": 0}), false},
	{"silence, then an end", both("timeout", map[string]int{"timeout": 500}), false},
	{"reset", both("reset_peer", map[string]int{"timeout": 0}), false},
	{"reset a while after", both("reset_peer", map[string]int{"timeout": 200}), false},
	{"slow to close", both("slow_close", map[string]int{"delay": 5000}), true},
	{"cut early in a request", one("limit_data", "upstream", map[string]int{"bytes": 300}), false},
	{"cut in an answer", one("limit_data", "downstream", map[string]int{"bytes": 100}), false},
}

func one(kind, stream string, attributes map[string]int) []testserver.Toxic {
	return []testserver.Toxic{{Type: kind, Stream: stream, Attributes: attributes}}
}

func both(kind string, attributes map[string]int) []testserver.Toxic {
	return append(one(kind, "upstream", attributes), one(kind, "downstream", attributes)...)
}

// TestWatchBehindABadStore: the connection to the object store is spoiled in
// every way while the keys are replaced. A token that verified once does so at
// each moment, what is public is the old or the new set, nothing ends, and once
// the network is well the new key is public by itself.
func TestWatchBehindABadStore(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"s3", "gcs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			api, kubeconfig := l.embedded(watched(labIssuer))
			proxy, target := l.behindToxiproxy(kind)
			w := l.watch("--kubeconfig", kubeconfig, "--to", target, "--interval", "1s", "--timeout", "15s", "--verify-interval", "0")
			w.ready()
			b := &behind{lab: l, w: w, proxy: proxy, ever: api.KeyIDs()}
			b.keepVerifying()
			b.replace = func() (kid, token string) {
				kid, err := api.Replace("ES256")
				must(t, err)
				token, err = api.MintToken("default", "default", "relying-party", time.Hour)
				must(t, err)
				return kid, token
			}
			for _, fault := range spoiled {
				b.suffers(fault)
			}
			b.connectionsEnd()
			b.wasRight()
		})
	}
}

// TestWatchBehindABadNetwork is the same for the connection to a real API server.
func TestWatchBehindABadNetwork(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := testserver.NewKubeKey(t, "ES256")
	cluster, _ := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	proxy := testserver.NewToxiproxy(t, cluster.Servers[0].Address())
	config := cluster.Servers[0].Kubeconfig("publisher")
	config.Server = "https://" + proxy.Address
	kubeconfig := filepath.Join(l.dir, "kubeconfig")
	must(t, config.Write(kubeconfig))
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", dir, "--interval", "1s", "--timeout", "15s", "--verify-interval", "0")
	w.ready()
	b := &behind{lab: l, w: w, proxy: proxy, ever: []string{first.ID}}
	b.keepVerifying()
	b.replace = func() (kid, token string) {
		fresh := testserver.NewKubeKey(t, "ES256")
		cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: fresh})
		return fresh.ID, l.mint(cluster)
	}
	for _, fault := range spoiled {
		b.suffers(fault)
	}
	b.wasRight()
}

// behindToxiproxy is a store that has its public face beside the proxy.
func (l *lab) behindToxiproxy(kind string) (proxy *testserver.Toxiproxy, target string) {
	l.t.Helper()
	if kind == "gcs" {
		server, target, public := l.gcs()
		l.internet.Route("issuer.example.com", routed(public))
		proxy = testserver.NewToxiproxy(l.t, server.Host)
		l.env = append(l.env, "STORAGE_EMULATOR_HOST="+proxy.Address)
		return proxy, target
	}
	server, _, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	proxy = testserver.NewToxiproxy(l.t, strings.TrimPrefix(server.Endpoint, "http://"))
	return proxy, s3Target("http://" + proxy.Address)
}

// behind is a watcher with a proxy between it and what it needs.
type behind struct {
	*lab
	w     *watcher
	proxy *testserver.Toxiproxy
	mints *mints
	stop  func()   // verifying
	ever  []string // every key that was
	// replace gives the cluster another key and mints a token with it.
	replace func() (kid, token string)
}

// keepVerifying verifies a token of each key, from scratch, all the time.
func (b *behind) keepVerifying() {
	b.mints = &mints{t: b.t, keys: map[string]*minted{}}
	ctx, stop := context.WithCancel(b.t.Context())
	var verifying sync.WaitGroup
	verifying.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			b.mints.check(b.lab) //nolint:contextcheck // what is being checked at the end is checked to the end
			<-tick.C
		}
	})
	b.stop = func() { stop(); verifying.Wait() }
	b.t.Cleanup(b.stop)
}

// rotates returns the keys that were public before.
func (b *behind) rotates() (before []string) {
	b.t.Helper()
	kid, token := b.replace()
	before = slices.Clone(b.ever)
	b.ever = append(b.ever, kid)
	b.mints.add(token)
	return before
}

// isWhole: the old set is public or the new one.
func (b *behind) isWhole(before []string) {
	b.t.Helper()
	if err := b.shows(labIssuer, before...)(); err != nil && b.shows(labIssuer, b.ever...)() != nil {
		b.t.Errorf("something else than the old or the new set: %v", err)
	}
}

func (b *behind) suffers(fault spoil) {
	b.t.Helper()
	b.proxy.Add(b.t, fault.toxics...)
	told := len(b.w.failures())
	before := b.rotates()
	eventually(b.t, 60*time.Second, fault.name, func() error {
		b.isWhole(before)
		if fault.works {
			return b.shows(labIssuer, b.ever...)()
		}
		if len(b.w.failures()) == told {
			return errors.New("no fault is logged")
		}
		return nil
	})
	b.w.alive()
	b.proxy.Remove(b.t)
	took := eventually(b.t, 30*time.Second, fault.name, b.shows(labIssuer, b.ever...))
	lines := b.w.failures()[told:]
	b.t.Logf("%s: public %v after its end; logged %d times (%s)", fault.name, took.Round(10*time.Millisecond), len(lines), said(lines))
	eventually(b.t, 30*time.Second, "ready", func() error { return b.w.answers("/readyz", http.StatusOK) })
}

// connectionsEnd after so many bytes each, in the middle of one write after the
// other.
func (b *behind) connectionsEnd() {
	b.t.Helper()
	for bytes := 700; bytes < 3500; bytes += 350 {
		b.proxy.Add(b.t, one("limit_data", "upstream", map[string]int{"bytes": bytes})...)
		before := b.rotates()
		b.w.fetches(1)
		b.isWhole(before)
		b.proxy.Remove(b.t)
		took := eventually(b.t, 30*time.Second, "connections that end", b.shows(labIssuer, b.ever...))
		b.t.Logf("connections end after %d bytes: public %v after it was over", bytes, took.Round(10*time.Millisecond))
	}
}

// wasRight: at the end a token of each key verifies; that none ever ceased to
// is checked all the time.
func (b *behind) wasRight() {
	b.t.Helper()
	b.stop()
	b.w.alive()
	b.mints.check(b.lab)
	b.mints.mu.Lock()
	defer b.mints.mu.Unlock()
	for kid, k := range b.mints.keys {
		if k.verified.IsZero() {
			b.t.Errorf("key %s: its token never verified", kid)
		}
	}
}
