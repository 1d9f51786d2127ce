package watch

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"oidc-publisher/publish"
)

// lease is the one record that candidates compete for, as an API server keeps it.
type lease struct {
	mu      sync.Mutex
	record  *resourcelock.LeaderElectionRecord
	version int
	down    error
}

// seat is one candidate's access to the lease.
type seat struct {
	*lease
	name string
	seen int
	cut  error // this candidate alone is cut off
}

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

func (s *seat) fault() error { return errors.Join(s.down, s.cut) }

func (s *seat) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fault(); err != nil {
		return nil, nil, err
	}
	if s.record == nil {
		return nil, nil, apierrors.NewNotFound(leases, "lease")
	}
	record := *s.record
	s.seen = s.version
	raw, err := json.Marshal(record)
	return &record, raw, err
}

func (s *seat) Create(_ context.Context, record resourcelock.LeaderElectionRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fault(); err != nil {
		return err
	}
	if s.record != nil {
		return apierrors.NewAlreadyExists(leases, "lease")
	}
	s.record, s.version = &record, s.version+1
	s.seen = s.version
	return nil
}

func (s *seat) Update(_ context.Context, record resourcelock.LeaderElectionRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fault(); err != nil {
		return err
	}
	if s.seen != s.version {
		return apierrors.NewConflict(leases, "lease", errors.New("changed"))
	}
	s.record, s.version = &record, s.version+1
	s.seen = s.version
	return nil
}

func (s *seat) RecordEvent(string) {}
func (s *seat) Identity() string   { return s.name }
func (s *seat) Describe() string   { return "lease" }

func (l *lease) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// two are watchers of one cluster and one store who compete for a lease.
func two(t *testing.T) (l *lease, a, b *world) {
	l = new(lease)
	a = newWorld(t, func(c *Config) { c.Elector = &Elector{&seat{lease: l, name: "a"}} })
	b = newWorld(t, func(c *Config) { c.Elector = &Elector{&seat{lease: l, name: "b"}} })
	b.snapshot = a.snapshot
	b.Publisher.Targets[0].Backend = a.store.Open()
	return l, a, b
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

// TestALeaderThatIsCutOff stops before the other begins, and comes back as a
// stand-by.
func TestALeaderThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := two(t)
		defer a.begin()()
		after(time.Second)
		defer b.begin()()
		after(time.Minute)
		cut := a.Elector.lock.(*seat)
		l.set(func() { cut.cut = errors.New("no route to host") })
		both := 0
		for range 600 {
			after(100 * time.Millisecond)
			a.health.mu.Lock()
			b.health.mu.Lock()
			if !a.health.turned.IsZero() && !b.health.turned.IsZero() {
				both++
			}
			a.health.mu.Unlock()
			b.health.mu.Unlock()
		}
		if both > 0 {
			t.Errorf("both led for %v", time.Duration(both)*100*time.Millisecond)
		}
		a.leads(false)
		b.leads(true)
		a.wantHealth(200, 200)
		a.wantLog(`msg=fault of="leader election"`, 1)
		l.set(func() { cut.cut = nil })
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
		l.down = errors.New("leases.coordination.k8s.io is forbidden")
		defer a.begin()()
		after(time.Second)
		defer b.begin()()
		after(time.Hour)
		for _, w := range []*world{a, b} {
			w.wantHealth(200, 503)
			w.wantLog(`msg=fault of="leader election"`, 1)
			w.wantLog("level=", 1)
		}
		l.set(func() { l.down = nil })
		after(10 * time.Second)
		a.wantHealth(200, 200)
		b.wantHealth(200, 200)
		l.set(func() { l.down = errors.New("connection refused") })
		a.fails(errors.New("connection refused"))
		b.fails(errors.New("connection refused"))
		after(time.Hour)
		for _, w := range []*world{a, b} {
			w.wantHealth(200, 200)
			w.leads(false)
		}
		l.set(func() { l.down = nil })
		a.fails(nil)
		b.fails(nil)
		after(10 * time.Second)
		if a.said("msg=leading")+b.said("msg=leading") < 2 {
			t.Error("nobody leads again")
		}
	})
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
		l.set(func() {
			if l.record.HolderIdentity != "" {
				t.Errorf("%q still holds the lease", l.record.HolderIdentity)
			}
		})
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
			l.set(func() { held = append(held, l.record.HolderIdentity) })
			return nil
		}
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if len(held) < 3 || held[len(held)-1] != "a" {
			t.Errorf("the lease was held by %q after each write", held)
		}
		if l.record.HolderIdentity != "" {
			t.Errorf("%q still holds the lease", l.record.HolderIdentity)
		}
		a.leads(false)
	})
}
