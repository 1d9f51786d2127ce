package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// TestWatchIsKilled with SIGKILL at random moments, under rotation: what it
// published is right at each moment, and whole after each restart.
func TestWatchIsKilled(t *testing.T) {
	t.Parallel()
	for kind, times := range map[string]int{"dir": 20, "s3": 20, "gcs": 15} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			api, kubeconfig := l.embedded(watched(labIssuer))
			target, public := l.local("public")
			switch kind {
			case "s3":
				_, target, public = l.s3()
			case "gcs":
				_, target, public = l.gcs()
			}
			l.internet.Route("issuer.example.com", routed(public))
			w := l.watch("--kubeconfig", kubeconfig, "--to", target, "--interval", "1s", "--verify-interval", "0")
			w.ready()
			ever := api.KeyIDs()
			for range times {
				rotate := map[bool]func(string) (string, error){true: api.Replace, false: api.Rotate}[rand.IntN(2) == 0]
				kid, err := rotate("ES256")
				if err != nil {
					t.Fatal(err)
				}
				before := slices.Clone(ever)
				ever = append(ever, kid)
				w.signal(syscall.SIGHUP) // it begins to write
				l.killed(w, 60*time.Millisecond, before, ever)
				must(t, w.Restart(t.Context()))
				w.ready()
				if err := l.shows(labIssuer, ever...)(); err != nil {
					t.Fatalf("after the restart: %v", err)
				}
			}
			w.Stop()
			if result := l.publish("--kubeconfig", kubeconfig, "--to", target); result.Changed {
				t.Errorf("something was left to do: %+v", result)
			}
		})
	}
}

// TestWatchIsKilledBesideAnAPIServer that is a real one. Its rotation takes
// seconds, so each is met by several kills: before it or right after it, and
// more while the restarted watcher takes the new key in.
func TestWatchIsKilledBesideAnAPIServer(t *testing.T) {
	t.Parallel()
	const rotations, kills = 3, 5
	l := newLab(t)
	first := testserver.NewKubeKey(t, "ES256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	store, _, public := l.s3()
	far := fake.NewFaultProxy(t, store.Endpoint) // as a cloud is, so that there is a middle of its writes
	far.Inject(1<<30, func(*http.Request) bool { return true }, fake.Delay(40*time.Millisecond))
	target := s3Target(far.Endpoint)
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", target, "--interval", "1s", "--verify-interval", "0")
	w.ready()
	ever, early := []string{first.ID}, 0
	for i := range rotations {
		fresh := testserver.NewKubeKey(t, "ES256")
		before := slices.Clone(ever)
		ever = append(ever, fresh.ID)
		down := i%2 == 0
		if down { // and finds the new key at its start
			w.Kill()
		}
		cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: fresh})
		for kill := range kills {
			if down {
				must(t, w.Restart(t.Context()))
			}
			l.killed(w, 50*time.Millisecond<<kill, before, ever) // the first ones come before all is written
			down = true
			if l.shows(labIssuer, before...)() == nil {
				early++
			}
		}
		must(t, w.Restart(t.Context()))
		w.ready()
		if err := l.shows(labIssuer, ever...)(); err != nil {
			t.Fatalf("after the restarts: %v", err)
		}
		l.accepts(labIssuer, l.mint(cluster))
	}
	t.Logf("%d of %d kills came before the new key was public", early, rotations*kills)
	if early == 0 {
		t.Error("no kill came before the new key was public")
	}
	w.Stop()
	if result := l.publish("--kubeconfig", kubeconfig, "--to", target); result.Changed {
		t.Errorf("something was left to do: %+v", result)
	}
}

// killed kills a watcher within a while, and demands that the old or the new
// set is public until then and after.
func (l *lab) killed(w *watcher, within time.Duration, before, after []string) {
	l.t.Helper()
	busy := time.Now().Add(rand.N(within))
	for time.Now().Before(busy) {
		if l.shows(labIssuer, before...)() != nil && l.shows(labIssuer, after...)() != nil {
			l.t.Fatal("something else than the old or the new set is public")
		}
	}
	w.Kill()
	if l.shows(labIssuer, before...)() != nil && l.shows(labIssuer, after...)() != nil {
		l.t.Fatal("it was killed, and something else than the old or the new set is public")
	}
}

// TestWatchOutlivesFaults: each fault is logged once and changes nothing that is
// public; after its end the keys that changed meanwhile are public soon.
func TestWatchOutlivesFaults(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, _ := l.embedded(watched(labIssuer))
	api.SetToken("publisher", "first-token")
	tokenFile, kubeconfig := filepath.Join(l.dir, "token"), filepath.Join(l.dir, "config")
	config := api.Kubeconfig("publisher")
	config.Token, config.TokenFile = "", tokenFile
	write(t, tokenFile, "first-token")
	if err := config.Write(kubeconfig); err != nil {
		t.Fatal(err)
	}
	server, _, public := l.s3()
	proxy := fake.NewFaultProxy(t, server.Endpoint)
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", s3Target(proxy.Endpoint), "--interval", "1s", "--verify-interval", "1s")
	w.ready()
	ever := api.KeyIDs()
	all := func(*http.Request) bool { return true }
	const xml = `<?xml version="1.0"?><Error><Code>%s</Code><Message>no</Message><RequestId>%d</RequestId></Error>`
	deny := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("X-Amz-Request-Id", fmt.Sprint(rand.Uint64()))
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, xml, "ExpiredToken", rand.Uint64())
	}
	for _, tc := range []struct {
		name, of   string
		come, goes func()
		tells      bool
	}{
		{"the API server is gone", "cluster", api.Stop, func() { must(t, api.Start()) }, true},
		{"429 with Retry-After", "cluster", func() { api.Break("", fake.FaultStatus(http.StatusTooManyRequests)) }, api.Repair, true},
		{"503", "cluster", func() { api.Break("", fake.FaultStatus(http.StatusServiceUnavailable)) }, api.Repair, true},
		{"500", "cluster", func() { api.Break("", fake.FaultStatus(http.StatusInternalServerError)) }, api.Repair, true},
		{"a login page", "cluster", func() { api.Break("", fake.FaultHTML()) }, api.Repair, true},
		{"answers that break off", "cluster", func() { api.Break("/openid/v1/jwks", fake.FaultTruncated()) }, api.Repair, true},
		{"the token is replaced before its file", "cluster", func() { api.SetToken("publisher", "second-token") }, func() { write(t, tokenFile, "second-token") }, true},
		{"the token file is gone", "cluster", func() { must(t, os.Remove(tokenFile)) }, func() { write(t, tokenFile, "second-token") }, true},
		{"the store refuses the credentials", "s3", func() { proxy.Inject(1<<30, all, deny) }, proxy.Clear, true},
		{"the store is overloaded", "s3", func() {
			proxy.Inject(1<<30, all, fake.Answer(http.StatusServiceUnavailable, http.Header{"Retry-After": {"1"}}, fmt.Sprintf(xml, "SlowDown", 1)))
		}, proxy.Clear, true},
		{"the store is unreachable", "s3", proxy.Down, func() { proxy.Up(t) }, true},
		{"writes are cut in the middle, done or not", "s3", func() { proxy.Inject(3, fake.Method(http.MethodPut), fake.LoseAck) }, func() {}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, l := *w, *l
			w.t, l.t = t, t
			told := len(w.failures())
			tc.come()
			if tc.tells {
				eventually(t, 40*time.Second, "the fault is logged", func() error {
					if len(w.failures()) == told {
						return fmt.Errorf("%s", w.Output())
					}
					return nil
				})
			}
			before := slices.Clone(ever)
			kid, err := api.Rotate("ES256")
			if err != nil {
				t.Fatal(err)
			}
			ever = append(ever, kid)
			if tc.tells {
				w.fetches(1)
				if err := l.shows(labIssuer, before...)(); err != nil {
					t.Errorf("the last good did not stay: %v", err)
				}
			}
			w.alive()
			tc.goes()
			took := eventually(t, 30*time.Second, "recovery", l.shows(labIssuer, ever...))
			lines := w.failures()[told:]
			of := func(l line) bool {
				return tc.of == "cluster" && l.Msg == "fetch failed" || l.Msg == "publish failed" && strings.HasPrefix(l.Target, tc.of)
			}
			if tc.tells && (len(lines) == 0 || !of(lines[0])) || len(lines) > 3 {
				t.Errorf("it logged %+v", lines)
			}
			t.Logf("logged %d times (%s); recovered %v after", len(lines), said(lines), took.Round(10*time.Millisecond))
			eventually(t, 30*time.Second, "all is well", func() error {
				if works := w.recoveries(); works < 1 && tc.tells {
					return fmt.Errorf("%d", works)
				}
				return w.answers("/readyz", http.StatusOK)
			})
		})
	}
	w.alive()
}

func said(lines []line) string {
	var texts []string
	for _, l := range lines {
		texts = append(texts, l.Error)
	}
	return strings.Join(texts, " | ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

// TestWatchHealsThePublicSide: an object that another writer changes or deletes is
// repaired within an interval; a bucket that was deleted and created again is
// filled.
func TestWatchHealsThePublicSide(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	server, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", target, "--interval", "1s", "--verify-interval", "1s")
	w.ready()
	keys := api.KeyIDs()
	bucket, key := "issuers", "cluster-a/openid/v1/jwks"
	store := server.Client()
	repairs := func(n int) {
		t.Helper()
		eventually(t, 30*time.Second, "repair", func() error {
			if got := w.metric("oidc_publisher_repairs_total"); got < float64(n) {
				return fmt.Errorf("%v repairs, want %d", got, n)
			}
			return l.shows(labIssuer, keys...)()
		})
	}
	_, err := store.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(`{"keys":[]}`)})
	must(t, err)
	repairs(1)
	_, err = store.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: &key})
	must(t, err)
	repairs(2)

	_, err = api.Replace("ES256")
	must(t, err)
	keys = append(keys, api.KeyIDs()...) // the first one is in its grace
	eventually(t, 30*time.Second, "rotation", l.shows(labIssuer, keys...))
	for _, object := range []string{key, "cluster-a/.well-known/openid-configuration", "cluster-a/.oidc-publisher.json"} {
		_, err = store.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: &object})
		must(t, err)
	}
	if _, err = store.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: &bucket}); err != nil {
		t.Logf("it was faster: %v", err)
	}
	w.says("publish failed", "s3")
	w.alive()
	server.CreateBucket(t, bucket)
	w.says("public check failed", "") // nobody may read the new bucket
	server.MakePublic(t, bucket)
	eventually(t, 30*time.Second, "the new bucket", l.shows(labIssuer, keys...))
	w.says("public check recovered", "")
}

// TestWatchFollowsTheCA: the API server and the file that the kubeconfig names
// get another CA.
func TestWatchFollowsTheCA(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	old, _ := l.embedded(watched(labIssuer))
	ca := filepath.Join(l.dir, "ca.crt")
	write(t, ca, string(old.CA()))
	kubeconfig := filepath.Join(l.dir, "config")
	write(t, kubeconfig, fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],
		"clusters":[{"name":"x","cluster":{"server":%q,"certificate-authority":%q}}],"users":[{"name":"x","user":{"token":%q}}]}`,
		old.URL(), ca, old.Token("publisher")))
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", dir, "--owner", "cluster-a", "--interval", "1s", "--verify-interval", "0")
	w.ready()
	old.Stop()
	fresh, err := fake.NewAPIServer(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256", Listen: old.Address()})
	must(t, err)
	t.Cleanup(fresh.Stop)
	fresh.SetToken("publisher", old.Token("publisher"))
	fresh.Grant("publisher", fake.RightDiscovery, fake.RightMint)
	eventually(t, 30*time.Second, "an unknown CA's certificate is refused", func() error {
		if lines := w.failures(); !slices.ContainsFunc(lines, func(l line) bool { return strings.Contains(l.Error, "not issued by the CA") }) {
			return fmt.Errorf("%s", said(lines))
		}
		return nil
	})
	write(t, ca, string(fresh.CA()))
	took := eventually(t, 30*time.Second, "the new CA", holds(dir, old.KeyIDs()[0], fresh.KeyIDs()[0]))
	t.Logf("public %v after the CA's file was replaced", took.Round(10*time.Millisecond))
}
