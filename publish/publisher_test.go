package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/publish"
)

type source func() (discovery.Snapshot, error)

func (s source) Fetch(context.Context) (discovery.Snapshot, error) { return s() }

func fixed(snapshot discovery.Snapshot) source {
	return func() (discovery.Snapshot, error) { return snapshot, nil }
}

func publisher(from publish.Source, stores ...*backendtest.Memory) *publish.Publisher {
	p := &publish.Publisher{Source: from, Policy: day, Timeout: 30 * time.Second, NoVerify: true}
	for i, store := range stores {
		p.Targets = append(p.Targets, publish.Target{Name: fmt.Sprint("store", i), Backend: store.Open()})
	}
	return p
}

func mustPublish(t *testing.T, p *publish.Publisher) publish.Report {
	t.Helper()
	report, err := p.Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range report.Targets {
		if target.Err != nil {
			t.Fatalf("%s: %v", target.Target.Name, target.Err)
		}
	}
	return report
}

func publicIn(t *testing.T, store *backendtest.Memory) []string {
	t.Helper()
	object, err := store.Open().Get(t.Context(), discovery.JWKSPath)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := discovery.ParseKeySet(object.Body)
	if err != nil {
		t.Fatal(err)
	}
	return keys.IDs()
}

func TestPublishTwice(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	p := publisher(fixed(r.snapshot("a")), store)
	first := mustPublish(t, p)
	wantIDs(t, "written", first.Targets[0].Written, publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath)
	wantIDs(t, "added", first.Targets[0].Plan.Changes.Added, "a")
	writes := len(store.Writes())
	if second := mustPublish(t, p); second.Changed() || len(store.Writes()) != writes {
		t.Errorf("the second pass changed something: %v", second.Targets[0].Written)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	p := publisher(fixed(r.snapshot("a")), store)
	p.DryRun = true
	report := mustPublish(t, p)
	wantIDs(t, "would write", report.Targets[0].Written, publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath)
	if len(store.Writes()) > 0 {
		t.Errorf("wrote %v", store.Writes())
	}
}

func TestFailedFetchTouchesNothing(t *testing.T) {
	store := new(backendtest.Memory)
	store.BeforeGet = func(string) error { t.Error("the target was touched"); return nil }
	down := errors.New("the API server is down")
	_, err := publisher(source(func() (discovery.Snapshot, error) { return discovery.Snapshot{}, down }), store).Publish(t.Context())
	if !errors.Is(err, down) || errors.Is(err, publish.ErrRefused) {
		t.Errorf("error %v", err)
	}
}

func TestUnfitDocumentsAreRefused(t *testing.T) {
	_, err := publisher(source(func() (discovery.Snapshot, error) {
		_, err := discovery.ParseKeySet([]byte(`{"keys":[]}`))
		return discovery.Snapshot{}, fmt.Errorf("https://192.0.2.7: %w", err)
	})).Publish(t.Context())
	if !errors.Is(err, publish.ErrRefused) || !strings.Contains(err.Error(), "192.0.2.7") {
		t.Errorf("error %v, want a refusal that names the server", err)
	}
}

func TestLostAcknowledgementIsNoError(t *testing.T) {
	for _, name := range []string{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath} {
		for _, seen := range []error{io.ErrUnexpectedEOF, fmt.Errorf("retried: %w", publish.ErrPrecondition)} {
			t.Run(fmt.Sprint(name, seen), func(t *testing.T) {
				r, store := keyring{}, new(backendtest.Memory)
				once := backendtest.Once[publish.Object](seen)
				store.AfterPut = func(o publish.Object) error {
					if o.Name != name {
						return nil
					}
					return once(o)
				}
				mustPublish(t, publisher(fixed(r.snapshot("a")), store))
				wantIDs(t, "public", publicIn(t, store), "a")
			})
		}
	}
}

func TestFailedWriteIsAnErrorAndTheNextPassHeals(t *testing.T) {
	for _, name := range []string{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath} {
		t.Run(name, func(t *testing.T) {
			r, store := keyring{}, new(backendtest.Memory)
			full, failing := errors.New("disk full"), true
			store.BeforePut = func(o publish.Object) error {
				if failing && o.Name == name {
					return full
				}
				return nil
			}
			p := publisher(fixed(r.snapshot("a")), store)
			report, err := p.Publish(t.Context())
			if err != nil || !errors.Is(report.Targets[0].Err, full) {
				t.Fatalf("errors %v, %v", err, report.Targets[0].Err)
			}
			if _, err := store.Open().Get(t.Context(), discovery.ConfigurationPath); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the document is public before all else is: %v", err)
			}
			failing = false
			mustPublish(t, p)
			wantIDs(t, "public", publicIn(t, store), "a")
		})
	}
}

// TestOneTargetFails: the other targets are written.
func TestOneTargetFails(t *testing.T) {
	r := keyring{}
	good, bad, better := new(backendtest.Memory), new(backendtest.Memory), new(backendtest.Memory)
	denied := errors.New("access denied")
	bad.BeforeGet = func(string) error { return denied }
	report, err := publisher(fixed(r.snapshot("a")), good, bad, better).Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(report.Targets[1].Err, denied) {
		t.Errorf("error %v", report.Targets[1].Err)
	}
	wantIDs(t, "first", publicIn(t, good), "a")
	wantIDs(t, "third", publicIn(t, better), "a")
}

// TestPublishersRace: two API servers, each asked by its own publisher, list
// different keys. The second publisher must not undo what the first did.
func TestPublishersRace(t *testing.T) {
	for round := range 20 {
		r, store := keyring{}, new(backendtest.Memory)
		r.jwks("a", "b", "c", "d", "e")
		var all sync.WaitGroup
		for _, id := range []string{"a", "b", "c", "d"} {
			p := publisher(fixed(r.snapshot(id, "e")), store)
			all.Go(func() {
				report, err := p.Publish(t.Context())
				if err != nil || report.Targets[0].Err != nil {
					t.Errorf("round %d, publisher of %s: %v, %v", round, id, err, report.Targets[0].Err)
				}
			})
		}
		all.Wait()
		wantIDs(t, "public", publicIn(t, store), "a", "b", "c", "d", "e")
	}
}

// TestClustersRace: of two clusters that claim the same empty target at once,
// exactly one gets it.
func TestClustersRace(t *testing.T) {
	for round := range 20 {
		r, store := keyring{}, new(backendtest.Memory)
		r.jwks("a", "b")
		refused := make([]error, 2)
		var all sync.WaitGroup
		for i, id := range []string{"a", "b"} {
			p := publisher(fixed(cluster(r.snapshot(id), "uid:"+id)), store)
			all.Go(func() {
				report, err := p.Publish(t.Context())
				refused[i] = errors.Join(err, report.Targets[0].Err)
			})
		}
		all.Wait()
		if (refused[0] == nil) == (refused[1] == nil) {
			t.Fatalf("round %d: outcomes %v and %v", round, refused[0], refused[1])
		}
		if err := errors.Join(refused...); !errors.Is(err, publish.ErrRefused) {
			t.Errorf("round %d: %v", round, err)
		}
		if len(publicIn(t, store)) != 1 {
			t.Errorf("round %d: public are %v", round, publicIn(t, store))
		}
	}
}

func TestStoreThatIgnoresConditionsIsRefused(t *testing.T) {
	for _, store := range []*backendtest.Memory{{IgnoreAbsent: true, IgnoreVersion: true}, {IgnoreAbsent: true}, {IgnoreVersion: true}} {
		findOut(t, store)
	}
}

func findOut(t *testing.T, store *backendtest.Memory) {
	t.Helper()
	r := keyring{}
	for try := range 2 {
		report, err := publisher(fixed(r.snapshot("a")), store).Publish(t.Context())
		if err != nil || !errors.Is(report.Targets[0].Err, publish.ErrUnconditional) {
			t.Fatalf("try %d: %v, %v", try, err, report.Targets[0].Err)
		}
		for _, name := range []string{discovery.JWKSPath, discovery.ConfigurationPath} {
			if _, err := store.Open().Get(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("try %d: %s was published", try, name)
			}
		}
	}
}

// TestProbeAnswerIsLost: the content of the store does not show whether it
// refused the write, so the probe is repeated once.
func TestProbeAnswerIsLost(t *testing.T) {
	for _, unmet := range []int{3, 4} {
		r, store, puts := keyring{}, new(backendtest.Memory), 0
		store.BeforePut = func(publish.Object) error {
			if puts++; puts == unmet {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		mustPublish(t, publisher(fixed(r.snapshot("a")), store))
		wantIDs(t, "public", publicIn(t, store), "a")

		store, puts = &backendtest.Memory{IgnoreAbsent: true, IgnoreVersion: true}, 0
		store.AfterPut = func(publish.Object) error {
			if puts++; puts == unmet {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		report, _ := publisher(fixed(r.snapshot("a")), store).Publish(t.Context())
		if !errors.Is(report.Targets[0].Err, publish.ErrUnconditional) {
			t.Errorf("put %d: %v", unmet, report.Targets[0].Err)
		}
	}
}

// TestProbeIsResumed: a publisher died during its probe, and the next one
// probes again.
func TestProbeIsResumed(t *testing.T) {
	for dies := range 4 {
		r, store := keyring{}, new(backendtest.Memory)
		puts, killed := 0, errors.New("killed")
		store.BeforePut = func(publish.Object) error {
			if puts++; puts > dies {
				return killed
			}
			return nil
		}
		report, _ := publisher(fixed(r.snapshot("a")), store).Publish(t.Context())
		if !errors.Is(report.Targets[0].Err, killed) {
			t.Fatalf("died before put %d: %v", dies, report.Targets[0].Err)
		}
		store.BeforePut, store.IgnoreAbsent, store.IgnoreVersion = nil, true, true
		report, _ = publisher(fixed(r.snapshot("a")), store).Publish(t.Context())
		if !errors.Is(report.Targets[0].Err, publish.ErrUnconditional) {
			t.Errorf("died before put %d, and the next pass did not ask again: %v", dies, report.Targets[0].Err)
		}
	}
}

// TestAdoptionSurvivesTheProbe: keys that were public before this tool came
// keep their grace period although the state is written before the probe.
func TestAdoptionSurvivesTheProbe(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	store.Place(publish.Object{Name: discovery.JWKSPath, Body: []byte(r.jwks("old", "a"))})
	mustPublish(t, publisher(fixed(r.snapshot("a")), store))
	wantIDs(t, "public", publicIn(t, store), "a", "old")
}

func TestIssuerOfAnotherTargetIsRefused(t *testing.T) {
	r, store := keyring{}, new(backendtest.Memory)
	p := publisher(fixed(r.snapshot("a")), store)
	p.Targets[0].CheckIssuer = func(i discovery.Issuer) error { return fmt.Errorf("%s is not this bucket", i) }
	report, err := p.Publish(t.Context())
	if err != nil || !errors.Is(report.Targets[0].Err, publish.ErrRefused) || len(store.Writes()) > 0 {
		t.Errorf("%v, %v, wrote %v", err, report.Targets[0].Err, store.Writes())
	}
}

// silent is a store that answers nothing until its caller gives up.
type silent struct{ publish.Backend }

func (silent) Get(ctx context.Context, _ string) (publish.Object, error) {
	<-ctx.Done()
	return publish.Object{}, ctx.Err()
}

func TestSilentStoreIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		p := publisher(fixed(r.snapshot("a")), store)
		p.Targets = append(p.Targets, publish.Target{Name: "silent", Backend: silent{}})
		began := time.Now()
		report, err := p.Publish(t.Context())
		if err != nil || !errors.Is(report.Targets[1].Err, context.DeadlineExceeded) || report.Targets[0].Err != nil {
			t.Errorf("%v, %v, %v", err, report.Targets[0].Err, report.Targets[1].Err)
		}
		if took := time.Since(began); took != p.Timeout/3 {
			t.Errorf("one silent operation took %v", took)
		}
	})
}

// TestRaceAtTheDeadline: the error has the number of conflicts and the deadline.
func TestRaceAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		p, puts := publisher(fixed(r.snapshot("a")), store), 0
		ctx, cancel := context.WithCancel(t.Context())
		store.BeforePut = func(publish.Object) error {
			if puts++; puts == 3 {
				cancel()
			}
			return publish.ErrPrecondition
		}
		report, err := p.Publish(ctx)
		got := report.Targets[0].Err
		if err != nil || !errors.Is(got, context.Canceled) || !errors.Is(got, publish.ErrPrecondition) || !strings.Contains(got.Error(), "after 3 conflicting writes") {
			t.Errorf("%v, %v", err, got)
		}
	})
}

func TestEndlessRaceIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		store.BeforePut = func(publish.Object) error { return publish.ErrPrecondition }
		report, err := publisher(fixed(r.snapshot("a")), store).Publish(t.Context())
		if err != nil || !errors.Is(report.Targets[0].Err, publish.ErrPrecondition) {
			t.Errorf("%v, %v", err, report.Targets[0].Err)
		}
	})
}

// web answers as the public issuer would: with the content of the store, once
// visible allows it.
type web struct {
	store   *backendtest.Memory
	visible func() bool
	header  http.Header
	asked   int
}

func (w *web) RoundTrip(req *http.Request) (*http.Response, error) {
	w.asked++
	resp := &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}, Body: http.NoBody, Request: req}
	name, ours := strings.CutPrefix(req.URL.String(), issuer+"/")
	if !ours || w.visible != nil && !w.visible() {
		return resp, nil
	}
	object, err := w.store.Open().Get(req.Context(), name)
	if err != nil {
		return nil, err
	}
	resp.StatusCode, resp.Body = http.StatusOK, io.NopCloser(strings.NewReader(string(object.Body)))
	if w.header != nil {
		resp.Header = w.header
	}
	return resp, nil
}

func proving(from publish.Source, store *backendtest.Memory, web *web) *publish.Publisher {
	p := publisher(from, store)
	web.store, p.NoVerify, p.Client = store, false, &http.Client{Transport: web}
	return p
}

func TestProof(t *testing.T) {
	t.Run("what was published is read", func(t *testing.T) {
		report := mustPublish(t, proving(fixed(keyring{}.snapshot("a")), new(backendtest.Memory), new(web)))
		if !report.Proof.Read || !report.Proof.Expected || report.Proof.Err != nil {
			t.Errorf("proof %+v", report.Proof)
		}
	})
	t.Run("public access comes late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			w := &web{visible: func() bool { return time.Since(began) > 20*time.Second }}
			p, said := proving(fixed(keyring{}.snapshot("a")), new(backendtest.Memory), w), new(bytes.Buffer)
			p.Log = slog.New(slog.NewTextHandler(said, nil))
			report := mustPublish(t, p)
			if report.Proof.Err != nil {
				t.Errorf("proof %+v", report.Proof)
			}
			if w.asked > 15 {
				t.Errorf("asked %d times in 20 s", w.asked)
			}
			if got := strings.Count(said.String(), "does not serve it yet, retrying"); got != 1 {
				t.Errorf("it said %d times why it waits:\n%s", got, said)
			}
		})
	})
	t.Run("public access never comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := proving(fixed(keyring{}.snapshot("a")), new(backendtest.Memory), &web{visible: func() bool { return false }})
			began := time.Now()
			report := mustPublish(t, p)
			var status *verify.StatusError
			if !report.Proof.Failed() || !errors.As(report.Proof.Err, &status) || !status.NotPublic() {
				t.Errorf("proof %+v", report.Proof)
			}
			if took := time.Since(began); took > p.Timeout {
				t.Errorf("took %v", took)
			}
		})
	})
	t.Run("nothing was written: one look is enough", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := new(web)
			p := proving(fixed(keyring{}.snapshot("a")), new(backendtest.Memory), w)
			mustPublish(t, p)
			w.visible, w.asked = func() bool { return false }, 0
			report := mustPublish(t, p)
			if !report.Proof.Failed() || w.asked != 1 {
				t.Errorf("asked %d times, proof %+v", w.asked, report.Proof)
			}
		})
	})
	t.Run("a cache still has the old keys", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, old, store := keyring{}, new(backendtest.Memory), new(backendtest.Memory)
			mustPublish(t, publisher(fixed(r.snapshot("a")), old))
			w := &web{header: http.Header{"Cache-Control": {"max-age=3600"}, "Age": {"600"}}}
			p := proving(fixed(r.snapshot("a", "b")), store, w)
			w.store = old
			report := mustPublish(t, p)
			if report.Proof.Err != nil || report.Proof.FreshIn != 50*time.Minute {
				t.Errorf("proof %+v", report.Proof)
			}
		})
	})
	t.Run("another publisher adds its key meanwhile", func(t *testing.T) {
		r, store, once := keyring{}, new(backendtest.Memory), sync.Once{}
		w := &web{visible: func() bool {
			once.Do(func() { mustPublish(t, publisher(fixed(r.snapshot("b", "both")), store)) })
			return true
		}}
		report := mustPublish(t, proving(fixed(r.snapshot("a", "both")), store, w))
		if report.Proof.Err != nil {
			t.Errorf("proof %+v", report.Proof)
		}
		wantIDs(t, "public", publicIn(t, store), "a", "b", "both")
	})
	t.Run("somebody else takes a key away meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, store, once := keyring{}, new(backendtest.Memory), sync.Once{}
			w := &web{visible: func() bool {
				once.Do(func() { store.Place(publish.Object{Name: discovery.JWKSPath, Body: []byte(r.jwks("b"))}) })
				return true
			}}
			report := mustPublish(t, proving(fixed(r.snapshot("a", "b")), store, w))
			if different := new(verify.DifferentError); !errors.As(report.Proof.Err, &different) {
				t.Errorf("proof %+v", report.Proof)
			}
		})
	})
	t.Run("a directory that nobody serves yet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := proving(fixed(keyring{}.snapshot("a")), new(backendtest.Memory), &web{visible: func() bool { return false }})
			p.Targets[0].Local = true
			began := time.Now()
			report := mustPublish(t, p)
			if report.Proof.Failed() || report.Proof.Err == nil || time.Since(began) > time.Second {
				t.Errorf("after %v: proof %+v", time.Since(began), report.Proof)
			}
		})
	})
}

// TestCopiesOfTheIssuer: one target is where the issuer leads to, so another
// bucket is a copy and no mistake.
func TestCopiesOfTheIssuer(t *testing.T) {
	r, home, replica := keyring{}, new(backendtest.Memory), new(backendtest.Memory)
	p := publisher(fixed(r.snapshot("a")), home, replica)
	p.Targets[0].CheckIssuer = func(discovery.Issuer) error { return nil }
	p.Targets[1].CheckIssuer = func(discovery.Issuer) error { return errors.New("not this bucket") }
	mustPublish(t, p)
	wantIDs(t, "copy", publicIn(t, replica), "a")
}

// TestAnotherPublisherComesBetweenTwoReads: a pass that another publisher
// completes between any two of our reads is not undone.
func TestAnotherPublisherComesBetweenTwoReads(t *testing.T) {
	for _, between := range []string{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath} {
		for what, other := range map[string]struct {
			lists  []string
			revoke []string
			public []string
		}{
			"adds a key":    {lists: []string{"a", "b", "c"}, public: []string{"a", "b", "c"}},
			"revokes a key": {lists: []string{"a", "c"}, revoke: []string{"a"}, public: []string{"c"}},
		} {
			t.Run(what+" before "+between, func(t *testing.T) {
				r, store := keyring{}, new(backendtest.Memory)
				mustPublish(t, publisher(fixed(r.snapshot("a", "c")), store))
				var came atomic.Bool
				store.BeforeGet = func(name string) error {
					if name == between && came.CompareAndSwap(false, true) {
						rival := publisher(fixed(r.snapshot(other.lists...)), store)
						rival.Policy.Revoke = other.revoke
						mustPublish(t, rival)
					}
					return nil
				}
				mustPublish(t, publisher(fixed(r.snapshot("a", "c")), store))
				wantIDs(t, "public", publicIn(t, store), other.public...)
			})
		}
	}
}

// TestRevokingAnUnknownKey is a typing error, and changes nothing.
func TestRevokingAnUnknownKey(t *testing.T) {
	r, knows, fresh := keyring{}, new(backendtest.Memory), new(backendtest.Memory)
	mustPublish(t, publisher(fixed(r.snapshot("a", "b")), knows))
	p := publisher(fixed(r.snapshot("b")), knows, fresh)
	p.Policy.Revoke = []string{"a", "typo"}
	before := len(knows.Writes())
	report, err := p.Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range report.Targets {
		if !errors.Is(target.Err, publish.ErrRefused) || !strings.HasSuffix(target.Err.Error(), "knows: typo") {
			t.Errorf("%v", target.Err)
		}
	}
	if n := len(knows.Writes()) - before + len(fresh.Writes()); n != 0 {
		t.Errorf("%d writes all the same", n)
	}

	// A key that one target knows is revoked in all of them.
	p.Policy.Revoke = []string{"a"}
	mustPublish(t, p)
	wantIDs(t, "public", publicIn(t, knows), "b")
	wantIDs(t, "public", publicIn(t, fresh), "b")
}

// mute is a store that answers reads and never a write.
type mute struct{ publish.Backend }

func (mute) Put(ctx context.Context, _ publish.Object, _ publish.Precondition) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestSilentWriteIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publisher(fixed(keyring{}.snapshot("a")))
		p.Targets = []publish.Target{{Name: "mute", Backend: mute{new(backendtest.Memory).Open()}}}
		began := time.Now()
		report, err := p.Publish(t.Context())
		if err != nil || !errors.Is(report.Targets[0].Err, context.DeadlineExceeded) || time.Since(began) != p.Timeout/3 {
			t.Errorf("after %v: %v, %v", time.Since(began), err, report.Targets[0].Err)
		}
	})
}

// TestAStoreThatWasEmptied, as by deleting and recreating a bucket, gets back what
// this process remembers: retired keys until their grace period ends, and
// revocations.
func TestAStoreThatWasEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := keyring{}, new(backendtest.Memory)
		snapshot := r.snapshot("a", "bad")
		p := publisher(source(func() (discovery.Snapshot, error) { return snapshot, nil }), store)
		p.Policy.Revoke = []string{"bad"}
		mustPublish(t, p)
		p.Policy.Revoke = nil
		snapshot = r.snapshot("b", "bad")
		ends := mustPublish(t, p).Targets[0].Plan.GraceEnds["a"]
		time.Sleep(time.Hour)
		for _, gone := range [][]string{
			{publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath}, {publish.StateName}, {publish.StateName, discovery.ConfigurationPath},
		} {
			for _, name := range gone {
				store.Remove(name)
			}
			got := mustPublish(t, p).Targets[0].Plan
			wantIDs(t, "public", publicIn(t, store), "a", "b")
			if !got.GraceEnds["a"].Equal(ends) || !strings.Contains(strings.Join(got.Warnings, "\n"), "from memory") {
				t.Errorf("without %v: the grace ends %v, want %v; warnings %q", gone, got.GraceEnds["a"], ends, got.Warnings)
			}
		}
		if mustPublish(t, p).Changed() {
			t.Error("something was left to do")
		}
		time.Sleep(23 * time.Hour)
		mustPublish(t, p)
		wantIDs(t, "public", publicIn(t, store), "b")
	})
}

// TestAStoreThatBelongsToAnotherClusterNow, under the same name, is not overwritten.
func TestAStoreThatBelongsToAnotherClusterNow(t *testing.T) {
	r, store, theirs := keyring{}, new(backendtest.Memory), new(backendtest.Memory)
	p := publisher(fixed(r.snapshot("a")), store)
	mustPublish(t, p)
	mustPublish(t, publisher(fixed(r.snapshot("z")), theirs))
	for _, name := range []string{discovery.JWKSPath, discovery.ConfigurationPath} {
		object, err := theirs.Open().Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		store.Place(object)
	}
	store.Remove(publish.StateName)
	report, err := p.Publish(t.Context())
	if err != nil || !errors.Is(report.Targets[0].Err, publish.ErrOwner) {
		t.Errorf("errors %v and %v", err, report.Targets[0].Err)
	}
	wantIDs(t, "public", publicIn(t, store), "z")
}

// TestAnOldSnapshotIsFetchedAgain: while this publisher reads a slow store,
// another adds a key that the cluster lists by then.
func TestAnOldSnapshotIsFetchedAgain(t *testing.T) {
	for _, slow := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r, store := keyring{}, new(backendtest.Memory)
			now, looks := r.snapshot("a"), 0
			p := publisher(source(func() (discovery.Snapshot, error) { looks++; return now, nil }), store)
			p.Policy.Grace = 0
			mustPublish(t, p)
			other := publisher(source(func() (discovery.Snapshot, error) { return now, nil }), store)
			looks = 0
			store.BeforeGet = func(name string) error {
				if name == discovery.ConfigurationPath && slow > 0 {
					store.BeforeGet = nil
					time.Sleep(2 * slow)
					now = r.snapshot("a", "b")
					mustPublish(t, other)
				}
				return nil
			}
			mustPublish(t, p)
			wantIDs(t, "public", publicIn(t, store), now.Keys.IDs()...)
			if want := 1 + int(slow/time.Second); looks != want {
				t.Errorf("%d looks, want %d", looks, want)
			}
		})
	}
}
