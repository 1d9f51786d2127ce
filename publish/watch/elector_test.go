package watch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"oidc-publisher/internal/lease"
	"oidc-publisher/internal/lease/leasetest"
	"oidc-publisher/publish"
)

// two are watchers of one cluster and one store who compete for a Lease.
func two(t *testing.T) (l *leases, a, b *world) {
	l = new(leases)
	l.a, l.b = l.Connect(), l.Connect()
	a = newWorld(t, func(c *Config) { c.Elector = elector(t, l.a, "a") })
	b = newWorld(t, func(c *Config) { c.Elector = elector(t, l.b, "b") })
	b.snapshot = a.snapshot
	b.Publisher.Targets[0].Backend = a.store.Open()
	return l, a, b
}

// leases is where the two find their Lease.
type leases struct {
	leasetest.Server
	a, b *leasetest.Link
}

func elector(t *testing.T, link *leasetest.Link, name string) *lease.Elector {
	t.Helper()
	elector, err := lease.New(link.Config(), "default", "lease", name)
	if err != nil {
		t.Fatal(err)
	}
	return elector
}

// follows makes this world's cluster list what the other's does.
func (w *world) follows(other *world) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshot = other.snapshot
}

func (w *world) leads(want bool) {
	w.t.Helper()
	value := 0.0
	if want {
		value = 1
	}
	w.want("oidc_publisher_leader", value)
}

func TestOneLeadsAndOneStandsBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := two(t)
		a.wantHealth(200, 503)
		endA := a.begin()
		after(time.Second)
		endB := b.begin()
		after(time.Hour)
		a.leads(true)
		b.leads(false)
		a.wantHealth(200, 200)
		b.wantHealth(200, 200)
		b.want(`oidc_publisher_fetches_total{result="ok"}`, 0)
		a.wantLog("level=", 2) // leading, published
		b.wantLog("msg=\"standing by\" leader=a", 1)
		b.wantLog("level=", 1)

		endA() // which gives up the lease
		after(5 * time.Second)
		b.leads(true)
		b.want(`oidc_publisher_fetches_total{result="ok"}`, 1)
		b.wantHealth(200, 200)
		endB()
	})
}

// TestARotationDuringAnothersTerm is the other's: who leads again afterwards
// has not seen it and counts nothing of it, nor expects what was public before.
func TestARotationDuringAnothersTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := two(t)
		s := &site{until: time.Now().Add(90 * 24 * time.Hour), cached: map[string]copied{}, world: a}
		a.VerifyInterval, a.Transport = time.Minute, s
		endA := a.begin()
		after(time.Second)
		endB := b.begin()
		after(10 * time.Minute)
		a.leads(true)

		l.a.Cut(errors.New("connection refused"))
		after(time.Minute)
		l.a.Cut(nil)
		a.leads(false)
		b.leads(true)
		a.lists("a", "b")
		b.follows(a)
		after(10 * time.Minute)
		b.want("oidc_publisher_rotations_total", 1)
		b.want("oidc_publisher_key_publication_seconds_count", 1)

		a.fails(errors.New("no route to host"))
		endB()
		after(5 * time.Minute)
		a.leads(true)
		a.wantLog(`of="public issuer"`, 0) // it has yet to learn what should be there
		a.fails(nil)
		after(time.Minute)
		a.want("oidc_publisher_rotations_total", 0)
		a.want("oidc_publisher_key_publication_seconds_count", 0)
		a.lists("a", "b", "c") // its own again
		after(time.Minute)
		a.want("oidc_publisher_rotations_total", 1)
		a.want("oidc_publisher_key_publication_seconds_count", 1)
		endA()
	})
}

// TestAStandByThatCanNotPublish was ready while it stood by, and is no more.
func TestAStandByThatCanNotPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := two(t)
		b.fails(errors.New("connection refused"))
		endA := a.begin()
		after(time.Second)
		defer b.begin()()
		after(time.Minute)
		b.wantHealth(200, 200)
		endA()
		after(time.Minute)
		b.leads(true)
		b.wantHealth(200, 503)
		b.fails(nil)
		after(2 * every)
		b.wantHealth(200, 200)
	})
}

// TestALeaderThatIsCutOff stops before the other begins, and comes back as a
// stand-by.
func TestALeaderThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := two(t)
		defer a.begin()()
		after(time.Second)
		defer b.begin()()
		after(time.Minute)
		l.a.Cut(errors.New("no route to host"))
		both := 0
		for range 600 {
			after(100 * time.Millisecond)
			if testutil.ToFloat64(a.metrics.leader) > 0 && testutil.ToFloat64(b.metrics.leader) > 0 {
				both++
			}
		}
		if both > 0 {
			t.Errorf("both led for %v", time.Duration(both)*100*time.Millisecond)
		}
		a.leads(false)
		b.leads(true)
		a.wantHealth(200, 200)
		a.wantLog(`msg=fault of="leader election"`, 1)
		l.a.Cut(nil)
		after(time.Minute)
		a.leads(false)
		b.leads(true)
		a.wantLog(`msg="works again" of="leader election"`, 1)
		a.wantLog(`msg="standing by" leader=b`, 1)
	})
}

// TestNobodyCanBeElected: while the API server is away, and where RBAC forbids
// the Lease, it lives, says so once, and is not ready before it was elected.
func TestNobodyCanBeElected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := two(t)
		l.Fail(errors.New("leases.coordination.k8s.io is forbidden"))
		defer a.begin()()
		after(time.Second)
		defer b.begin()()
		after(time.Hour)
		for _, w := range []*world{a, b} {
			w.wantHealth(200, 503)
			w.wantLog(`msg=fault of="leader election"`, 1)
			w.wantLog("level=", 1)
		}
		l.Fail(nil)
		after(10 * time.Second)
		a.wantHealth(200, 200)
		b.wantHealth(200, 200)
		l.Fail(errors.New("connection refused"))
		a.fails(errors.New("connection refused"))
		b.fails(errors.New("connection refused"))
		after(time.Hour)
		for _, w := range []*world{a, b} {
			w.wantHealth(200, 200)
			w.leads(false)
		}
		l.Fail(nil)
		a.fails(nil)
		b.fails(nil)
		after(10 * time.Second)
		if a.said("msg=leading")+b.said("msg=leading") < 2 {
			t.Error("nobody leads again")
		}
	})
}

// TestAnElectionThatHangs, as a credential plugin can, whatever the deadline of
// its request: a restart helps, for who leads and for who stands by.
func TestAnElectionThatHangs(t *testing.T) {
	for name, beforehand := range map[string]time.Duration{"at once": 0, "while it leads": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := new(leasetest.Server).Connect().Config()
				plugin := &leasetest.Plugin{Next: config.Transport, Returns: make(chan struct{}), From: time.Now().Add(beforehand)}
				config.Transport = plugin
				elector, err := lease.New(config, "default", "lease", "a")
				if err != nil {
					t.Fatal(err)
				}
				w := newWorld(t, func(c *Config) { c.Elector = elector })
				end := w.begin()
				after(beforehand + 4*time.Minute)
				if got := w.status("/livez"); got != 200 {
					t.Errorf("/livez answers %d before long", got)
				}
				after(2 * time.Minute)
				if got := w.status("/livez"); got != 503 {
					t.Errorf("/livez answers %d", got)
				}
				w.leads(false)
				close(plugin.Returns)
				after(10 * time.Second)
				w.wantHealth(200, 200)
				w.leads(true)
				end()
			})
		})
	}
}

// TestSomebodyElsesTargetEndsTheCandidacy and gives the lease up.
func TestSomebodyElsesTargetEndsTheCandidacy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := two(t)
		end := a.begin()
		after(time.Second)
		end()
		b.lists("z")
		b.snapshot.Cluster = []string{"uid:two"}
		if err := b.Run(t.Context()); !errors.Is(err, publish.ErrOwner) {
			t.Errorf("error %v", err)
		}
		if holder := l.Holder(); holder != "" {
			t.Errorf("%q still holds the lease", holder)
		}
	})
}

// TestATargetThatWasTakenOverBetweenTwoTerms may be handed back: the leader of
// the second complains, is not ready, and goes on.
func TestATargetThatWasTakenOverBetweenTwoTerms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(leasetest.Server)
		link := server.Connect()
		a := newWorld(t, func(c *Config) { c.Elector = elector(t, link, "a") })
		defer a.begin()()
		after(time.Minute)
		a.wantHealth(200, 200)

		link.Cut(errors.New("no route to host"))
		after(time.Minute)
		a.leads(false)
		thief := newWorld(t, nil)
		thief.lists("z")
		thief.snapshot.Cluster = []string{"uid:two"}
		takesOver := func(w *world) {
			t.Helper()
			p := publish.Publisher{Source: w, Timeout: time.Minute, NoVerify: true, Policy: publish.Policy{Grace: grace, TakeOver: true},
				Targets: []publish.Target{{Name: "store", Backend: a.store.Open()}}}
			if report, err := p.Publish(t.Context()); err != nil || report.Targets[0].Err != nil {
				t.Fatal(err, report.Targets[0].Err)
			}
		}
		takesOver(thief)
		link.Cut(nil)
		after(30 * time.Second)
		a.leads(true)
		a.wantHealth(200, 503)
		a.wantLog("msg=fault of=store error=\"this target is somebody else's", 1)
		first := a.counted(`oidc_publisher_writes_total`, "refused")
		after(10 * time.Minute)
		if now := a.counted(`oidc_publisher_writes_total`, "refused"); first < 1 || now < first+50 {
			t.Errorf("it was refused %v times at first, and %v in the end", first, now)
		}
		a.wantLog("msg=fault of=store", 1)

		takesOver(a)
		after(2 * time.Minute)
		a.wantHealth(200, 200)
		a.wantLog(`msg="works again" of=store`, 1)
	})
}

// TestTheWriteInHandIsDoneBeforeTheLeaseIsGivenUp: the end comes during a write.
func TestTheWriteInHandIsDoneBeforeTheLeaseIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := two(t)
		ctx, cancel := context.WithCancel(t.Context())
		var held []string
		a.store.AfterPut = func(publish.Object) error {
			cancel()
			time.Sleep(time.Second)
			held = append(held, l.Holder())
			return nil
		}
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if len(held) < 3 || held[len(held)-1] != "a" {
			t.Errorf("the lease was held by %q after each write", held)
		}
		if holder := l.Holder(); holder != "" {
			t.Errorf("%q still holds the lease", holder)
		}
		a.leads(false)
	})
}
