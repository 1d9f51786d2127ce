package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

// refresh starts pull-secret --refresh and returns when it answers.
func (p *puller) refresh(args ...string) *watcher {
	p.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(p.t))
	w := &watcher{t: p.t, status: "http://" + address}
	w.Process = p.background(w.status+"/livez", nil, slices.Concat(args, []string{"--refresh", "--admin-listen", address})...)
	return w
}

// allSecrets are those called regcred, by namespace.
func (p *puller) allSecrets() map[string]pulledSecret {
	p.t.Helper()
	var list []pulledSecret
	reread(p.t, p.cluster.Get(p.t, "/api/v1/secrets?fieldSelector=metadata.name%3Dregcred")["items"], &list)
	all := map[string]pulledSecret{}
	for _, s := range list {
		all[s.Metadata.Namespace] = s
	}
	return all
}

// same checks that every namespace but the foreign ones has the one credential.
func (p *puller) same(foreign []string, want int) error {
	contents := map[string]int{}
	for namespace, s := range p.allSecrets() {
		if !slices.Contains(foreign, namespace) {
			contents[string(s.Data[".dockerconfigjson"])]++
		}
	}
	for _, n := range contents {
		if len(contents) == 1 && n == want {
			return nil
		}
	}
	return fmt.Errorf("%d credentials in %v secrets, want one in %d", len(contents), slices.Collect(maps.Values(contents)), want)
}

// TestPullSecretInAThousandNamespaces: written, killed in the middle, written by
// the next, refreshed, one deleted and made again; ten of other people's left
// alone; and memory stays flat.
func TestPullSecretInAThousandNamespaces(t *testing.T) {
	t.Parallel()
	const total, strangers = 1000, 10
	p := newPuller(t)
	var names []string
	for i := range total {
		names = append(names, fmt.Sprintf("team-%04d", i))
	}
	p.namespaces(names...)
	foreign := names[495 : 495+strangers]
	for _, namespace := range foreign {
		p.cluster.Apply(t, object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": namespace}, "type": "Opaque"})
	}
	theirs := p.allSecrets()
	args := p.cloudsmithArgs("--namespace-selector", "images=private")

	killed := p.refresh(args...)
	poll(t, 5*time.Millisecond, time.Minute, "some are written", func() error {
		if n, _ := killed.metricSoFar("oidc_publisher_pull_secret_writes_total"); n < 50 {
			return fmt.Errorf("%v writes", n)
		}
		return nil
	})
	killed.Kill()
	before := p.allSecrets()
	if n := len(before) - strangers; n < 50 || n >= total-strangers {
		t.Errorf("it was killed after %d secrets", n)
	}

	const life = 2 * time.Minute
	p.cloudsmith.SetLifetime(life)
	w := p.refresh(args...)
	w.ready()
	current := func() error {
		return errorUnless(w.metric("oidc_publisher_pull_secret_namespaces", "state=current") == total-strangers, "not all are current")
	}
	poll(t, 100*time.Millisecond, life, "all are current", current)
	if err := p.same(foreign, total-strangers); err != nil {
		t.Error(err)
	}
	if n := w.metric("oidc_publisher_pull_secret_namespaces", "state=failing"); n != strangers {
		t.Errorf("%v fail, want %d", n, strangers)
	}
	first := w.metric("process_resident_memory_bytes")

	p.cluster.Delete(t, object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": names[0]}})
	eventually(t, life/4, "a deleted secret is back", func() error {
		_, back := p.secretIfAny(names[0])
		return errorUnless(back, "it is not there")
	})
	p.namespaces("late")
	eventually(t, life/4, "a new namespace is served", func() error {
		_, there := p.secretIfAny("late")
		return errorUnless(there, "it has none")
	})

	refreshed := w.metric("oidc_publisher_exchanges_total", "result=ok")
	poll(t, 200*time.Millisecond, 4*life, "one more refresh", func() error {
		return errorUnless(w.metric("oidc_publisher_exchanges_total", "result=ok") >= refreshed+1, "not yet")
	})
	poll(t, 100*time.Millisecond, life/2, "all have the newest", func() error {
		return errorUnless(w.metric("oidc_publisher_pull_secret_namespaces", "state=current") == total-strangers+1, "not all are current")
	})
	if err := p.same(foreign, total-strangers+1); err != nil {
		t.Error(err)
	}
	if last := w.metric("process_resident_memory_bytes"); last > 1.25*first+8<<20 {
		t.Errorf("it has %.1f MiB, and had %.1f MiB", last/(1<<20), first/(1<<20))
	}
	after := p.allSecrets()
	for namespace, s := range before {
		kept := after[namespace].Metadata
		if namespace != names[0] && kept.UID != s.Metadata.UID {
			t.Errorf("%s has another secret", namespace)
		}
	}
	for namespace, s := range theirs {
		if after[namespace].Metadata.ResourceVersion != s.Metadata.ResourceVersion {
			t.Errorf("the foreign secret in %s was written", namespace)
		}
	}
}

// secretIfAny is secretIn where there may be none.
func (p *puller) secretIfAny(namespace string) (s pulledSecret, there bool) {
	p.t.Helper()
	var list []pulledSecret
	reread(p.t, p.cluster.Get(p.t, "/api/v1/namespaces/"+namespace+"/secrets?fieldSelector=metadata.name%3Dregcred")["items"], &list)
	if len(list) == 0 {
		return s, false
	}
	return list[0], true
}

func errorUnless(ok bool, text string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s", text)
}

// TestPullSecretLeaders: one of two replicas writes, and the other takes over.
func TestPullSecretLeaders(t *testing.T) {
	t.Parallel()
	p := newPuller(t)
	p.namespaces("a")
	args := p.cloudsmithArgs("--namespace-selector", "images=private", "--leader-elect")
	first := p.refresh(args...)
	first.ready()
	second := p.refresh(args...)
	second.ready()
	if a, b := first.metric("oidc_publisher_leader"), second.metric("oidc_publisher_leader"); a != 1 || b != 0 {
		t.Errorf("leaders: %v, %v", a, b)
	}
	if n := p.cloudsmith.Requests(); n != 1 {
		t.Errorf("%d exchanges by two replicas", n)
	}
	first.Stop()
	eventually(t, 14*time.Second, "the other leads, before the Lease would have run out", func() error {
		return errorUnless(second.metric("oidc_publisher_leader") == 1, "it does not")
	})
	p.namespaces("b")
	eventually(t, 30*time.Second, "it serves", func() error {
		_, there := p.secretIfAny("b")
		return errorUnless(there, "b has none")
	})
}

// TestPullSecretServiceDown: the old secret stays and serves until the service
// is back.
func TestPullSecretServiceDown(t *testing.T) {
	t.Parallel()
	p := newPuller(t)
	p.namespaces("a")
	p.cloudsmith.SetLifetime(12 * time.Second)
	w := p.refresh(p.cloudsmithArgs("--namespace", "a")...)
	w.ready()
	old := p.secretIn("a")
	p.internet.Route("api.cloudsmith.io", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	eventually(t, 30*time.Second, "an exchange failed", func() error {
		n, _ := w.metricSoFar("oidc_publisher_exchanges_total", "result=failed")
		return errorUnless(n > 0, "none did")
	})
	if now := p.secretIn("a"); now.Metadata.ResourceVersion != old.Metadata.ResourceVersion {
		t.Error("the old secret was changed")
	}
	w.alive()
	p.cluster.Delete(t, object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "regcred", "namespace": "a"}})
	p.internet.Route("api.cloudsmith.io", p.cloudsmith)
	eventually(t, time.Minute, "a new credential", func() error {
		s, there := p.secretIfAny("a")
		return errorUnless(there && !bytes.Equal(s.Data[".dockerconfigjson"], old.Data[".dockerconfigjson"]), "there is none")
	})
}
