package publish_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// replica is one of several watchers of the same store.
func replica(from publish.Source, store *backendtest.Memory) *publish.Publisher {
	p := publisher(from, store)
	p.Replicated = true
	return p
}

// balanced answers in turns as one of several API servers.
type balanced struct {
	mu      sync.Mutex
	servers []discovery.Snapshot
	next    int
}

func (b *balanced) Fetch(context.Context) (discovery.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	return b.servers[b.next%len(b.servers)], nil
}

func (b *balanced) become(servers ...discovery.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers = servers
}

func stateWrites(store *backendtest.Memory) (n int) {
	for _, o := range store.Writes() {
		if o.Name == publish.StateName {
			n++
		}
	}
	return n
}

// stateOf is the state as JSON.
func stateOf(t *testing.T, store *backendtest.Memory) map[string]any {
	t.Helper()
	object, err := store.Open().Get(t.Context(), publish.StateName)
	if err != nil {
		t.Fatal(err)
	}
	var state map[string]any
	if err := json.Unmarshal(object.Body, &state); err != nil {
		t.Fatal(err)
	}
	return state
}

func keyOf(t *testing.T, store *backendtest.Memory, id string) map[string]any {
	t.Helper()
	for _, k := range stateOf(t, store)["keys"].([]any) {
		if key := k.(map[string]any); key["kid"] == id {
			return key
		}
	}
	t.Fatalf("the state has no key %q", id)
	return nil
}

func placeState(t *testing.T, store *backendtest.Memory, state map[string]any) {
	t.Helper()
	body, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	store.Place(publish.Object{Name: publish.StateName, Body: body, ContentType: "application/json", CacheControl: "no-store"})
}

// TestAHalfRolledControlPlane: two replicas fetch from an API server with the old
// key and from one with the new key, in turns or each from its own. No key is
// ever lost, and the state is not written in every pass.
func TestAHalfRolledControlPlane(t *testing.T) {
	for name, sticky := range map[string]bool{"in turns": false, "each its own": true} {
		for _, grace := range []time.Duration{time.Minute, 20 * time.Minute} {
			t.Run(name+" for "+grace.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { halfRolled(t, sticky, grace) })
			})
		}
	}
}

func halfRolled(t *testing.T, sticky bool, grace time.Duration) {
	r, store := keyring{}, new(backendtest.Memory)
	sources := []*balanced{{servers: []discovery.Snapshot{r.snapshot("a")}}}
	sources = append(sources, sources[0])
	if sticky {
		sources[1] = &balanced{servers: sources[0].servers}
	}
	replicas := []*publish.Publisher{replica(sources[0], store), replica(sources[1], store)}
	for _, p := range replicas {
		p.Policy.Grace = grace
	}
	pass := func(public ...string) {
		t.Helper()
		for _, p := range replicas {
			time.Sleep(5 * time.Second)
			mustPublish(t, p)
			if got := publicIn(t, store); public != nil && !slices.Equal(got, public) {
				t.Fatalf("public are %v, want %v", got, public)
			}
		}
	}
	pass("a")
	if sticky {
		sources[1].become(r.snapshot("b"))
	} else {
		sources[0].become(r.snapshot("a"), r.snapshot("b"))
	}
	before := stateWrites(store)
	pass() // one of them lists b
	for range 30 {
		pass("a", "b")
	}
	if n := stateWrites(store) - before; n > 8 {
		t.Errorf("%d writes of the state in 30 passes", n)
	}
	before = stateWrites(store)
	for range 90 {
		pass("a", "b")
	}
	if n := stateWrites(store) - before; n > 2*4 {
		t.Errorf("%d writes of the state in 15 minutes, with two keys", n)
	}

	// The rollout goes on: a has its whole grace period from when it was last listed.
	for range 26 { // until its retirement time is some minutes old
		pass("a", "b")
	}
	for _, from := range sources {
		from.become(r.snapshot("b"))
	}
	for rolled := time.Now(); time.Since(rolled) < grace-20*time.Second; {
		pass("a", "b")
	}
	for range 70 {
		pass()
	}
	pass("b")
}

// TestATransientRetirement: a key that one fetch missed costs some writes of the
// state in the next hour, and none later.
func TestATransientRetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		from := &balanced{servers: []discovery.Snapshot{r.snapshot("a", "b")}}
		p := replica(from, store)
		for _, keys := range [][]string{{"a", "b"}, {"b"}, {"a", "b"}} {
			from.become(r.snapshot(keys...))
			mustPublish(t, p)
		}
		before := stateWrites(store)
		for range 24 * 60 {
			time.Sleep(time.Minute)
			mustPublish(t, p)
		}
		if n := stateWrites(store) - before; n > 13 {
			t.Errorf("%d writes of the state in a day", n)
		}
		if key := keyOf(t, store, "a"); key["retired"] != nil || key["missed"] != nil {
			t.Errorf("the state still has %v", key)
		}
		from.become(r.snapshot("b"))
		mustPublish(t, p)
		time.Sleep(day.Grace - time.Minute)
		mustPublish(t, p)
		wantIDs(t, "public in the later grace period", publicIn(t, store), "a", "b")
	})
}

// TestALocalClockThatGoesBack for a moment, without the time of an API server,
// ends no grace period.
func TestALocalClockThatGoesBack(t *testing.T) {
	r, s := keyring{}, newStore(t)
	s.apply(s.plan(r.snapshot("a"), day, 0))
	for _, step := range []time.Duration{time.Hour, -20 * time.Hour, 2 * time.Hour, 24 * time.Hour} {
		s.apply(s.plan(r.snapshot("b"), day, step))
		wantIDs(t, "public after "+step.String(), s.public(), "a", "b")
	}
	s.apply(s.plan(r.snapshot("b"), day, 25*time.Hour))
	wantIDs(t, "public in the end", s.public(), "b")
}

// TestASlowReplicaStillListsAKey: even with the shortest grace period, it has minutes
// to report a key that the other replica's API server no longer lists.
func TestASlowReplicaStillListsAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		slow, quick := replica(fixed(r.snapshot("a")), store), replica(fixed(r.snapshot("b")), store)
		for _, p := range []*publish.Publisher{slow, quick} {
			p.Policy.Grace = publish.MinReplicatedGrace
			mustPublish(t, p)
		}
		for range 5 {
			for range 28 {
				time.Sleep(10 * time.Second)
				mustPublish(t, quick)
				wantIDs(t, "public", publicIn(t, store), "a", "b")
			}
			mustPublish(t, slow)
			wantIDs(t, "public", publicIn(t, store), "a", "b")
		}
	})
}

// TestAKeyIsRetiredOnlyByALaterFetch: another publisher adds a key after this
// one has fetched, and before it reads the target.
func TestAKeyIsRetiredOnlyByALaterFetch(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	now := r.snapshot("a")
	from := source(func() (discovery.Snapshot, error) { return now, nil })
	p, other := publisher(from, store), publisher(from, store)
	p.Policy.Grace, other.Policy.Grace = 0, 0
	mustPublish(t, p)
	store.BeforeGet = func(string) error {
		store.BeforeGet = nil
		now = r.snapshot("a", "b")
		mustPublish(t, other)
		return nil
	}
	mustPublish(t, p)
	wantIDs(t, "public", publicIn(t, store), "a", "b")
}

// TestAfterALostRaceTheSourceIsFetchedAgain: a key that another publisher has
// dropped meanwhile does not come back.
func TestAfterALostRaceTheSourceIsFetchedAgain(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	now := r.snapshot("a")
	from := source(func() (discovery.Snapshot, error) { return now, nil })
	p, other := publisher(from, store), publisher(from, store)
	p.Policy.Grace, other.Policy.Grace = 0, 0
	mustPublish(t, other)
	now = r.snapshot("a", "b")
	store.BeforePut = func(publish.Object) error {
		store.BeforePut = nil
		now = r.snapshot("c")
		mustPublish(t, other)
		return nil
	}
	mustPublish(t, p)
	wantIDs(t, "public", publicIn(t, store), "c")
}

// TestReplicasWhoseMemoriesDiffer: the bucket is deleted. The replica that fills
// the new one does not know of a revocation that the other remembers.
func TestReplicasWhoseMemoriesDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		ignorant, knowing := replica(fixed(r.snapshot("leaked", "a")), store), replica(fixed(r.snapshot("leaked", "a")), store)
		mustPublish(t, ignorant)
		once := publisher(fixed(r.snapshot("leaked", "a")), store)
		once.Policy.Revoke = []string{"leaked"}
		mustPublish(t, once)
		mustPublish(t, knowing)
		for _, name := range []string{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath} {
			store.Remove(name)
		}
		mustPublish(t, ignorant)
		wantIDs(t, "public after the first replica's pass", publicIn(t, store), "a", "leaked")
		report := mustPublish(t, knowing)
		wantIDs(t, "public after the other's", publicIn(t, store), "a")
		if text := strings.Join(report.Targets[0].Plan.Warnings, "\n"); !strings.Contains(text, `key "leaked" was revoked, and `) {
			t.Errorf("warnings %q", text)
		}
		writes := len(store.Writes())
		for range 10 {
			mustPublish(t, ignorant)
			mustPublish(t, knowing)
		}
		wantIDs(t, "public in the end", publicIn(t, store), "a")
		if n := len(store.Writes()) - writes; n > 0 {
			t.Errorf("%d more writes", n)
		}
	})
}

// TestAReplicaThatRemembersLess fills a bucket that was deleted. The other one
// adds the retired key that it remembers, which keeps the end of its grace period.
func TestAReplicaThatRemembersLess(t *testing.T) {
	for name, tc := range map[string]struct {
		restarted bool          // the first replica remembers nothing
		ends      time.Duration // of the grace period, after the bucket was deleted
	}{
		"it remembers nothing":          {true, day.Grace - time.Hour},
		"it remembers an older key set": {false, day.Grace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, store := keyring{}, new(backendtest.Memory)
				from := &balanced{servers: []discovery.Snapshot{r.snapshot("a")}}
				ignorant, knowing := replica(from, store), replica(from, store)
				mustPublish(t, ignorant)
				from.become(r.snapshot("a", "n"))
				mustPublish(t, knowing)
				from.become(r.snapshot("a"))
				if tc.restarted {
					mustPublish(t, knowing) // n retires
					ignorant = replica(from, store)
				}
				time.Sleep(time.Hour)
				deleted := time.Now()
				for _, name := range []string{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath} {
					store.Remove(name)
				}
				mustPublish(t, ignorant)
				wantIDs(t, "public after the first replica's pass", publicIn(t, store), "a")
				report := mustPublish(t, knowing)
				wantIDs(t, "public after the other's", publicIn(t, store), "a", "n")
				if text := strings.Join(report.Targets[0].Plan.Warnings, "\n"); !strings.Contains(text, `key "n" was public, and `) || strings.Contains(text, `key "a"`) {
					t.Errorf("warnings %q", text)
				}
				writes := len(store.Writes())
				for time.Since(deleted) < tc.ends-time.Minute {
					time.Sleep(20 * time.Minute)
					mustPublish(t, ignorant)
					mustPublish(t, knowing)
					if time.Since(deleted) < tc.ends {
						wantIDs(t, "public until the end of the grace period", publicIn(t, store), "a", "n")
					}
				}
				wantIDs(t, "public after the grace period", publicIn(t, store), "a")
				if n := len(store.Writes()) - writes; n > 2 {
					t.Errorf("%d more writes, want the state and the keys", n)
				}
			})
		})
	}
}

// TestReplicasWithTwoCABundles, as while a CA is replaced, don't rewrite the
// state in turns. The next write of the state records the CA of its writer.
func TestReplicasWithTwoCABundles(t *testing.T) {
	for name, uid := range map[string][]string{"with the UID": {"uid:1"}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, store := keyring{}, new(backendtest.Memory)
				with := func(ca string, keys ...string) source {
					return fixed(cluster(r.snapshot(keys...), slices.Concat(uid, []string{ca})...))
				}
				p, q := replica(with("ca:1", "a"), store), replica(with("ca:2", "a"), store)
				mustPublish(t, p)
				before := stateWrites(store)
				for range 30 {
					for _, each := range []*publish.Publisher{p, q} {
						time.Sleep(5 * time.Second)
						mustPublish(t, each)
					}
				}
				if n := stateWrites(store) - before; n > 0 {
					t.Errorf("%d writes of the state in 30 rounds", n)
				}
				q.Source = with("ca:2", "a", "b")
				mustPublish(t, q)
				if got := stateOf(t, store)["cluster"].([]any); got[len(got)-1] != "ca:2" {
					t.Errorf("after another write the cluster is %v", got)
				}
			})
		})
	}
}

// TestStateSharedWithANewerVersion: members that it writes into the state survive, and
// the two do not keep rewriting the state because they format it differently.
func TestStateSharedWithANewerVersion(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	p := replica(fixed(r.snapshot("a")), store)
	mustPublish(t, p)
	state := stateOf(t, store)
	state["about"], state["region"] = "Another text.", map[string]any{"name": "<x>"}
	state["keys"].([]any)[0].(map[string]any)["origin"] = "hsm"
	placeState(t, store, state)
	writes := len(store.Writes())
	for range 5 {
		mustPublish(t, p)
	}
	if n := len(store.Writes()) - writes; n > 0 {
		t.Errorf("%d writes though nothing changed", n)
	}
	p.Source = fixed(r.snapshot("b"))
	mustPublish(t, p)
	if got := stateOf(t, store)["region"]; got == nil || got.(map[string]any)["name"] != "<x>" {
		t.Errorf("an unknown member of the state became %v", got)
	}
	if got := keyOf(t, store, "a")["origin"]; got != "hsm" {
		t.Errorf("an unknown member of a key became %v", got)
	}
}

// TestAStateOfANewerVersion is never changed, whatever the policy.
func TestAStateOfANewerVersion(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	p := replica(fixed(r.snapshot("a")), store)
	mustPublish(t, p)
	state := stateOf(t, store)
	state["version"] = 2
	placeState(t, store, state)
	writes := len(store.Writes())
	p.Source = fixed(r.snapshot("b"))
	for _, takeOver := range []bool{false, true} {
		p.Policy.TakeOver = takeOver
		report, err := p.Publish(t.Context())
		if err != nil || !errors.Is(report.Targets[0].Err, publish.ErrRefused) || !strings.Contains(report.Targets[0].Err.Error(), "newer oidc-publisher") {
			t.Errorf("%v, %v", err, report.Targets[0].Err)
		}
	}
	if n := len(store.Writes()) - writes; n > 0 {
		t.Errorf("%d writes", n)
	}
}

// TestAnotherStateBetweenTwoWrites: another replica's state, which lists a new
// key, comes between our state and our keys, and that replica dies. We publish
// its key.
func TestAnotherStateBetweenTwoWrites(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	mustPublish(t, publisher(fixed(r.snapshot("a")), store))
	dying := replica(fixed(r.snapshot("a", "b", "c")), store)
	ours := replica(fixed(r.snapshot("a", "b")), store)
	dead, during := errors.New("killed"), false
	store.BeforePut = func(o publish.Object) error {
		switch {
		case during && o.Name == discovery.JWKSPath:
			return dead
		case !during && o.Name == discovery.JWKSPath:
			during = true
			report, _ := dying.Publish(context.Background())
			if !errors.Is(report.Targets[0].Err, dead) {
				t.Errorf("the other replica did not die: %v", report.Targets[0].Err)
			}
			store.BeforePut = nil
		}
		return nil
	}
	mustPublish(t, ours)
	wantIDs(t, "public", publicIn(t, store), "a", "b", "c")
}

// TestAnotherReplicasProbe is waited for: until it is closed, or one timeout if
// that replica died.
func TestAnotherReplicasProbe(t *testing.T) {
	open := func(t *testing.T, r keyring, store *backendtest.Memory) {
		puts, killed := 0, errors.New("killed")
		store.BeforePut = func(publish.Object) error {
			if puts++; puts > 2 {
				return killed
			}
			return nil
		}
		report, _ := replica(fixed(r.snapshot("a")), store).Publish(t.Context())
		if !errors.Is(report.Targets[0].Err, killed) {
			t.Fatalf("error %v", report.Targets[0].Err)
		}
		store.BeforePut = nil
	}
	t.Run("the other replica died", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, store := keyring{}, new(backendtest.Memory)
			open(t, r, store)
			p, began := replica(fixed(r.snapshot("a")), store), time.Now()
			writes := len(store.Writes())
			report, err := p.Publish(t.Context())
			if err != nil || report.Targets[0].Err == nil || len(store.Writes()) > writes || time.Since(began) != p.Timeout {
				t.Errorf("after %v: %v, %v", time.Since(began), err, report.Targets[0].Err)
			}
			mustPublish(t, p)
			wantIDs(t, "public", publicIn(t, store), "a")
			if took := time.Since(began); took != p.Timeout {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("the other replica goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, store := keyring{}, new(backendtest.Memory)
			open(t, r, store)
			time.AfterFunc(5*time.Second, func() { mustPublish(t, publisher(fixed(r.snapshot("a")), store)) })
			began := time.Now()
			mustPublish(t, replica(fixed(r.snapshot("a")), store))
			if took := time.Since(began); took > 7*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// TestAnOldFirstSnapshot, as of a replica that waited for long before its first
// pass, is fetched again: it would drop new keys and publish dropped ones.
func TestAnOldFirstSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		old := r.snapshot("a")
		old.FetchedAt = time.Now()
		for _, grace := range []time.Duration{0, day.Grace} {
			time.Sleep(3 * day.Grace)
			current := publisher(fixed(r.snapshot("b")), store)
			current.Policy.Grace = grace
			mustPublish(t, current)
			late := publisher(fixed(r.snapshot("b")), store)
			late.Policy.Grace, late.First = grace, old
			report := mustPublish(t, late)
			if report.Changed() {
				t.Errorf("with a grace period of %v it wrote %v", grace, report.Targets[0].Written)
			}
			wantIDs(t, "public", publicIn(t, store), "b")
		}
	})
}

// TestAGapByTheWallClock, as of a suspended machine whose monotonic clock stood
// still, makes it fetch again.
func TestAGapByTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, fetches := keyring{}, new(backendtest.Memory), 0
		var suspended time.Duration
		p := publisher(source(func() (discovery.Snapshot, error) { fetches++; return r.snapshot("a"), nil }), store)
		p.Now = func() time.Time { return time.Now().Add(suspended) }
		mustPublish(t, p)
		for _, gap := range []time.Duration{0, time.Hour} {
			fetches = 0
			store.BeforeGet = func(string) error { suspended += gap; store.BeforeGet = nil; return nil }
			mustPublish(t, p)
			if want := 1 + int(gap/time.Hour); fetches != want {
				t.Errorf("after a gap of %v, %d fetches, want %d", gap, fetches, want)
			}
		}
	})
}

// TestAFreshFirstSnapshot saves a fetch.
func TestAFreshFirstSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, fetches := keyring{}, 0
		p := publisher(source(func() (discovery.Snapshot, error) { fetches++; return r.snapshot("a"), nil }), new(backendtest.Memory))
		p.First = r.snapshot("a")
		p.First.FetchedAt = time.Now()
		mustPublish(t, p)
		mustPublish(t, p)
		if fetches != 1 {
			t.Errorf("%d fetches in two passes, want one", fetches)
		}
	})
}

// TestALostStateIsReported by the run that writes a new state, because a key
// that the lost one revoked is public again.
func TestALostStateIsReported(t *testing.T) {
	revoked := func(t *testing.T) (keyring, *backendtest.Memory, *publish.Publisher) {
		r, store := keyring{}, new(backendtest.Memory)
		p := publisher(fixed(r.snapshot("leaked", "a")), store)
		p.Policy.Revoke = []string{"leaked"}
		mustPublish(t, p)
		p.Policy.Revoke = nil
		return r, store, p
	}
	warnings := func(t *testing.T, p *publish.Publisher) string {
		t.Helper()
		report := mustPublish(t, p)
		if !report.Changed() {
			t.Error("it wrote nothing")
		}
		return strings.Join(report.Targets[0].Plan.Warnings, "\n")
	}
	t.Run("deleted", func(t *testing.T) {
		r, store, _ := revoked(t)
		store.Remove(publish.StateName)
		if got := warnings(t, publisher(fixed(r.snapshot("leaked", "a")), store)); !strings.Contains(got, "repeat --revoke") {
			t.Errorf("warnings %q", got)
		}
	})
	t.Run("damaged, and taken over", func(t *testing.T) {
		for body, public := range map[string][]string{
			"{": {"a", "leaked"},
			`{"version":1,"keys":[{"kid":"leaked","thumbprint":"x","revoked":"2026-01-01T00:00:00Z"},{"kid":"a","thumbprint":"x","jwk":"{}"}]}`: {"a"},
		} {
			r, store, _ := revoked(t)
			store.Place(publish.Object{Name: publish.StateName, Body: []byte(body)})
			p := publisher(fixed(r.snapshot("leaked", "a")), store)
			report, _ := p.Publish(t.Context())
			if err := report.Targets[0].Err; !errors.Is(err, publish.ErrRefused) || !strings.Contains(err.Error(), "repeat --revoke") {
				t.Errorf("with %s: %v", body, err)
			}
			p.Policy.TakeOver = true
			if got := warnings(t, p); !strings.Contains(got, "repeat --revoke") {
				t.Errorf("with %s: warnings %q", body, got)
			}
			wantIDs(t, "public", publicIn(t, store), public...)
		}
	})
	t.Run("damaged under a running watch", func(t *testing.T) {
		_, store, p := revoked(t)
		store.Place(publish.Object{Name: publish.StateName, Body: []byte("{")})
		if got := warnings(t, p); !strings.Contains(got, "wrote it back from memory") {
			t.Errorf("warnings %q", got)
		}
		wantIDs(t, "public", publicIn(t, store), "a")
		if keyOf(t, store, "leaked")["revoked"] == nil {
			t.Error("the revocation is forgotten")
		}
	})
}

// TestARevocationHoldsOnEveryTarget of a run, also on one that could not be
// written when the key was revoked, and on one that is new.
func TestARevocationHoldsOnEveryTarget(t *testing.T) {
	r, first, second, third := keyring{}, new(backendtest.Memory), new(backendtest.Memory), new(backendtest.Memory)
	from := fixed(r.snapshot("leaked", "a"))
	mustPublish(t, publisher(from, first, second))
	full := errors.New("disk full")
	second.BeforePut = func(publish.Object) error { return full }
	p := publisher(from, first, second)
	p.Policy.Revoke = []string{"leaked"}
	report, err := p.Publish(t.Context())
	if err != nil || !errors.Is(report.Targets[1].Err, full) {
		t.Fatal(err, report.Targets[1].Err)
	}
	second.BeforePut = nil
	mustPublish(t, publisher(from, first, second, third))
	for _, store := range []*backendtest.Memory{first, second, third} {
		wantIDs(t, "public", publicIn(t, store), "a")
	}
}

// TestPublishedOutlivesAFailedPass: it still describes the documents of the
// last successful pass, whatever fails later.
func TestPublishedOutlivesAFailedPass(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	snapshot, down := r.snapshot("a"), error(nil)
	p := publisher(source(func() (discovery.Snapshot, error) { return snapshot, down }), store)
	if got := p.Published(); len(got) != 0 {
		t.Errorf("before the first pass %v", got)
	}
	mustPublish(t, p)
	since := p.Published()[0].Since
	holds := func(what string, ids ...string) {
		t.Helper()
		if got := p.Published(); len(got) != 1 || got[0].Target != "store0" {
			t.Fatalf("%s: %v", what, got)
		} else {
			wantIDs(t, what, got[0].Keys.IDs(), ids...)
		}
	}
	holds("after a good pass", "a")
	down = errors.New("the API server is down")
	if _, err := p.Publish(t.Context()); !errors.Is(err, down) {
		t.Fatal(err)
	}
	holds("after a failed fetch", "a")
	down, snapshot = nil, r.snapshot("a", "b")
	store.BeforePut = func(publish.Object) error { return errors.New("disk full") }
	report, _ := p.Publish(t.Context())
	holds("after a failed write", "a")
	wantIDs(t, "in the report", report.Targets[0].Published.Keys.IDs(), "a")
	if !p.Published()[0].Since.Equal(since) {
		t.Error("a failed pass moved its time")
	}
	store.BeforePut = nil
	mustPublish(t, p)
	holds("in the end", "a", "b")
}
