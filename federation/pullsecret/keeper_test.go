package pullsecret

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/logtest"
)

// keeping is a keeper that runs against a real API server.
type keeping struct {
	*world
	keeper  *Keeper
	handler http.Handler
	log     *logtest.Log
	end     func()
}

func (w *world) keep(namespaces Namespaces, change func(*KeeperConfig)) *keeping {
	w.t.Helper()
	k := &keeping{world: w, log: new(logtest.Log)}
	config := KeeperConfig{
		Job: Job{Cluster: w.job.Cluster, Secret: w.job.Secret, Namespaces: namespaces, Exchange: w.exchange}, Timeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&config)
	}
	registry := prometheus.NewRegistry()
	k.keeper = NewKeeper(config, registry)
	k.handler = k.keeper.Handler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := k.keeper.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	k.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if strings.Contains(k.log.String(), password) || strings.Contains(k.get("/metrics"), password) {
			w.t.Error("the log or the metrics have the password")
		}
	})
	w.t.Cleanup(k.end)
	return k
}

func (k *keeping) get(path string) string {
	answer := httptest.NewRecorder()
	k.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return fmt.Sprint(answer.Code, "\n", answer.Body)
}

// within tries until there is no error, at most for so long.
func within(t *testing.T, atMost time.Duration, try func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > atMost {
			t.Fatalf("not within %v: %v", atMost, err)
		}
	}
}

// has is for within: the namespace has the newest credential.
func (k *keeping) has(namespace string) func() error {
	return func() error {
		f, err := k.job.Cluster.find(k.t.Context(), namespace, "regcred")
		c := k.keeper.current()
		switch {
		case err != nil:
			return err
		case f == nil:
			return fmt.Errorf("%s has no secret", namespace)
		case c == nil || !k.job.Secret.intact(f.meta) || f.meta.Annotations[AnnotationExchangedAt] != c.at.UTC().Format(time.RFC3339Nano) || !strings.Contains(string(k.secret(namespace).Data[secretKey]), `"`+c.Password.Reveal()+`"`):
			return fmt.Errorf("the secret in %s is not the newest: %v", namespace, f.meta.Annotations)
		}
		return nil
	}
}

func (k *keeping) says(text string) func() error {
	return func() error {
		if !strings.Contains(k.log.String(), text) {
			return fmt.Errorf("the log does not say %q:\n%s", text, k.log)
		}
		return nil
	}
}

func (k *keeping) shows(path, text string) func() error {
	return func() error {
		if got := k.get(path); !strings.Contains(got, text) {
			return fmt.Errorf("%s has no %q:\n%s", path, text, got)
		}
		return nil
	}
}

// promptly is the promised second, with a margin for a busy machine.
const promptly = 5 * time.Second

// TestKeeper: whatever happens to a secret or a namespace, it is repaired
// within a second.
func TestKeeper(t *testing.T) {
	w := newWorld(t)
	w.namespace("a", "images", "private")
	w.namespace("b", "images", "private")
	w.namespace("out", "images", "private")
	k := w.keep(Namespaces{Selector: "images=private", Except: []string{"out*"}}, nil)
	within(t, 10*time.Second, k.shows("/readyz", "200\nok"))
	for _, namespace := range []string{"a", "b"} {
		if err := k.has(namespace)(); err != nil {
			t.Error(err)
		}
	}
	uid := w.secret("b").Metadata.UID

	t.Run("new namespace", func(t *testing.T) {
		w.namespace("c", "images", "private")
		within(t, promptly, k.has("c"))
	})
	t.Run("new label", func(t *testing.T) {
		w.namespace("d")
		w.namespace("d", "images", "private")
		within(t, promptly, k.has("d"))
	})
	t.Run("deleted secret", func(t *testing.T) {
		w.Delete(t, foreign("a", secretType, nil))
		within(t, promptly, k.has("a"))
	})
	t.Run("edited secret", func(t *testing.T) {
		w.edit(t, "b", object{"stringData": map[string]any{secretKey: `{"auths":{}}`}})
		within(t, promptly, func() error {
			if !strings.Contains(string(w.secret("b").Data[secretKey]), password) {
				return fmt.Errorf("the secret is still what somebody made of it")
			}
			return k.has("b")()
		})
		within(t, promptly, k.says(`msg="secret repaired: another writer had changed it" namespace=b`))
		if now := w.secret("b").Metadata.UID; now != uid {
			t.Error("it has another UID")
		}
	})
	t.Run("edited under our name", func(t *testing.T) { // by the same field manager, with every annotation as it was
		f, err := w.job.Cluster.find(t.Context(), "b", "regcred")
		if err != nil || f == nil {
			t.Fatal(f, err)
		}
		forged := *k.keeper.current()
		forged.Password = discovery.NewSecret("forged")
		body, err := w.job.Secret.manifest("b", forged, f)
		if err != nil {
			t.Fatal(err)
		}
		repaired := strings.Count(k.log.String(), "secret repaired")
		if _, err := w.job.Cluster.apply(t.Context(), "b", "regcred", body, true, false); err != nil {
			t.Fatal(err)
		}
		within(t, promptly, k.has("b"))
		within(t, promptly, func() error {
			if now := strings.Count(k.log.String(), "secret repaired"); now != repaired+1 {
				return fmt.Errorf("repaired %d times, want once", now-repaired)
			}
			return nil
		})
	})
	t.Run("label taken off", func(t *testing.T) {
		w.edit(t, "b", object{"metadata": map[string]any{"labels": map[string]any{LabelManagedBy: nil}}})
		within(t, promptly, k.says("secret b/regcred has another owner"))
		within(t, promptly, k.shows("/metrics", `oidc_publisher_pull_secret_failures_total{namespace="b"} 1`))
		within(t, promptly, k.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="failing"} 1`))
		w.Delete(t, foreign("b", secretType, nil))
		within(t, promptly, k.has("b"))
		within(t, promptly, k.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="failing"} 0`))
	})
	t.Run("foreign secret", func(t *testing.T) {
		w.namespace("e")
		w.Apply(t, foreign("e", "Opaque", map[string]any{"a": []byte("b")}))
		w.namespace("e", "images", "private")
		within(t, promptly, k.says(`secret e/regcred is of type \"Opaque\"`))
		if got := w.secret("e"); got.Type != "Opaque" {
			t.Error("it was written over")
		}
		w.Delete(t, foreign("e", "Opaque", nil))
		within(t, promptly, k.has("e"))
	})
	t.Run("end of a namespace", func(t *testing.T) {
		w.Delete(t, object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "e"}})
		within(t, promptly, k.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="current"} 4`))
		w.Delete(t, foreign("e", secretType, nil))
		w.Delete(t, foreign("a", secretType, nil))
		within(t, promptly, k.has("a"))
		if f, err := w.job.Cluster.find(t.Context(), "e", "regcred"); f != nil || err != nil {
			t.Errorf("a namespace that is being deleted was written to: %v, %v", f, err)
		}
	})
	if f, err := w.job.Cluster.find(t.Context(), "out", "regcred"); f != nil || err != nil {
		t.Errorf("an excluded namespace was written to: %v, %v", f, err)
	}
	if w.passes != 1 {
		t.Errorf("%d exchanges", w.passes)
	}
	k.lint()
}

// lint holds the metrics against the conventions of Prometheus.
func (k *keeping) lint() {
	k.t.Helper()
	_, text, _ := strings.Cut(k.get("/metrics"), "\n")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		k.t.Errorf("%v, %v", problems, err)
	}
	for _, name := range []string{"exchanges_total", "last_exchange_timestamp_seconds", "credential_expiry_timestamp_seconds", "pull_secret_writes_total",
		"pull_secret_expiry_timestamp_seconds", "pull_secret_exchanged_timestamp_seconds", "leader"} {
		if !strings.Contains(text, "\noidc_publisher_"+name) {
			k.t.Errorf("there is no metric %s", name)
		}
	}
}

// TestKeeperRenews in all namespaces, those that are named too, and goes on
// where one can't be written.
func TestKeeperRenews(t *testing.T) {
	w := newWorld(t)
	w.life = 3 * time.Second
	w.namespace("a")
	w.namespace("b")
	w.role("a")
	w.watchRole("a")
	w.watchRole("b")
	w.Apply(t, object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "default", "namespace": "a"}})
	k := w.keep(Namespaces{Names: []string{"a", "b"}}, func(c *KeeperConfig) {
		c.Cluster = w.connect("publisher")
		c.Attach = []string{"default"}
	})
	within(t, 10*time.Second, k.shows("/metrics", `oidc_publisher_exchanges_total{result="ok"} 3`))
	within(t, promptly, k.has("a"))
	within(t, 5*time.Second, k.says(`user \"publisher\" is not allowed to get secret regcred in namespace b (HTTP 403): an administrator can allow it with: kubectl create role`))
	within(t, 5*time.Second, k.says(`user \"publisher\" is not allowed to get serviceaccount default in namespace a (HTTP 403)`))
	within(t, promptly, k.shows("/readyz", "200\nok"))
	within(t, promptly, k.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="failing"} 2`))
	w.role("b")
	within(t, 30*time.Second, k.has("b"))

	// A restart writes every secret, whatever its annotations claim.
	k.end()
	later := "2099-01-01T00:00:00Z"
	w.edit(t, "a", object{"metadata": map[string]any{"annotations": map[string]any{AnnotationExchangedAt: later, AnnotationExpiresAt: later}}})
	before := w.secret("a")
	w.life = time.Hour
	again := w.keep(Namespaces{Names: []string{"a", "b"}}, nil)
	within(t, 10*time.Second, again.has("a"))
	within(t, 10*time.Second, again.has("b"))
	if after := w.secret("a"); after.Metadata.UID != before.Metadata.UID {
		t.Error("after a restart it is another secret")
	}
}

// TestKeeperAttachesLater: an account that is made after the secret gets it.
func TestKeeperAttachesLater(t *testing.T) {
	w := newWorld(t)
	k := w.keep(Namespaces{Names: []string{"default"}}, func(c *KeeperConfig) { c.Attach = []string{"late"} })
	within(t, 30*time.Second, k.has("default"))
	within(t, 30*time.Second, k.says("service account default/late does not exist"))
	within(t, 30*time.Second, k.shows("/metrics", `oidc_publisher_pull_secret_writes_total{outcome="created"} 1`))
	within(t, 30*time.Second, k.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="failing"} 1`))
	w.Apply(t, object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "late", "namespace": "default"}})
	within(t, 30*time.Second, k.says("msg=\"service account attached\" namespace=default account=late"))
	within(t, 30*time.Second, k.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="current"} 1`))
}

// TestTwoKeepers without a Lease, as in a rolling update, undo each other's
// writes: at once a few times, and then ever more slowly. The one that is left
// restores its own credential.
func TestTwoKeepers(t *testing.T) {
	w := newWorld(t)
	all := Namespaces{Names: []string{"default"}}
	first := w.keep(all, nil)
	within(t, 10*time.Second, first.has("default"))
	second := w.keep(all, func(c *KeeperConfig) {
		c.Exchange = func(context.Context) (exchange.Credential, error) {
			return exchange.Credential{Username: "token", Password: discovery.NewSecret(password + "-second"), Expiry: time.Now().Add(time.Hour)}, nil
		}
	})
	within(t, 10*time.Second, second.shows("/readyz", "200\nok"))
	seen := map[string]bool{}
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		seen[w.secret("default").Metadata.ResourceVersion] = true
	}
	if len(seen) > 4*(promptRepairs+6) {
		t.Errorf("written %d times in two seconds", len(seen)-1)
	}
	first.end()
	within(t, 2*maxAgain, second.has("default"))
	version := w.secret("default").Metadata.ResourceVersion
	within(t, promptly, second.shows("/metrics", `oidc_publisher_pull_secret_namespaces{state="current"} 1`))
	if now := w.secret("default").Metadata.ResourceVersion; now != version {
		t.Error("the secret is rewritten though nobody else writes it")
	}
}

// watchRole is what --refresh needs besides.
func (w *world) watchRole(namespace string) {
	w.t.Helper()
	w.Apply(w.t, object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{"name": "pull-secret-watch", "namespace": namespace},
		"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"secrets"}, "resourceNames": []any{"regcred"}, "verbs": []any{"list", "watch"}}},
	})
	w.Apply(w.t, object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "pull-secret-watch", "namespace": namespace},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pull-secret-watch"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "publisher"}},
	})
	for _, verb := range []string{"list", "watch"} {
		w.AwaitUser(w.t, "publisher", true, object{"resourceAttributes": map[string]any{"namespace": namespace, "verb": verb, "resource": "secrets", "name": "regcred"}})
	}
}
