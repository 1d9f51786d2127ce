package pullsecret

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"

	"oidc-publisher/federation/pullsecret/lease"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
)

// KeeperConfig is the configuration of a Keeper.
type KeeperConfig struct {
	// Job is what is kept. MinRemaining, DryRun and Progress are not used.
	Job
	// Timeout bounds one exchange.
	Timeout time.Duration
	// Elector lets one of several replicas write; nil for a single one.
	Elector *lease.Elector
	Log     *slog.Logger
}

// Keeper keeps the secret in every namespace. It writes all secrets after its
// election and whenever it gets a new credential, before the old one expires.
// It also writes any secret again at once if another writer changed or deleted
// it.
type Keeper struct {
	KeeperConfig
	writer  *writer
	metrics *metrics
	health  *service.Health
	// failures logs each failure once.
	failures *service.Failures

	mu     sync.Mutex
	now    *credential       // nil before the first exchange
	spaces map[string]*space // by namespace
	queue  workqueue.TypedRateLimitingInterface[string]
	// unlisted is the number of first lists that are not complete yet. untried
	// are the namespaces in which no write was attempted since the election.
	unlisted int
	untried  map[string]bool
}

// space is what the keeper knows about one namespace.
type space struct {
	selected, deleting bool
	// failed is set while the last write or attachment failed.
	failed  bool
	seen    seenSecret
	written write
}

// seenSecret is the secret as the watch last reported it. The zero value means
// that there is none.
type seenSecret struct {
	version version
	// exchanged and expires are for the metrics only: anyone may edit
	// annotations.
	exchanged, expires time.Time
	intact             bool
}

// write is the last successful write of a secret.
type write struct {
	version    version
	credential time.Time // when the credential was exchanged
	at         time.Time
	// count is the number of times this credential was written in quick
	// succession.
	count int
}

const (
	// slack is the time that a pass needs in addition to the exchange.
	slack = 3 * time.Minute
	// The wait after a failed write doubles from firstAgain to maxAgain.
	firstAgain, maxAgain = 250 * time.Millisecond, time.Minute
	// promptRepairs is the number of times that a secret is repaired at once if
	// others keep changing it. After that the repairs slow down, so that two
	// controllers that undo each other's writes do not overload the API server.
	promptRepairs = 5
)

// NewKeeper returns a keeper whose metrics are in the registry.
func NewKeeper(c KeeperConfig, registry prometheus.Registerer) *Keeper {
	k := &Keeper{
		KeeperConfig: c,
		writer:       c.writer(),
		health:       service.NewHealth(2*c.Timeout+retry.Tick+slack, "not every namespace has been written yet"),
		failures:     service.NewFailures(c.Log),
	}
	k.metrics = newMetrics(registry, k)
	k.forget()
	return k
}

// Handler serves /livez, /readyz and, from the given handler, /metrics. It is
// ready once a write was tried in every namespace, or while another replica
// leads.
func (k *Keeper) Handler(metrics http.Handler) http.Handler { return k.health.Handler(metrics) }

// forget drops everything known about the cluster, because between two
// elections another replica writes.
func (k *Keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now, k.queue = nil, nil
	k.spaces, k.untried, k.unlisted = map[string]*space{}, map[string]bool{}, 0
}

// Run keeps the secrets until ctx ends, and returns nil after the writes in
// progress and the release of the Lease.
func (k *Keeper) Run(ctx context.Context) error {
	if k.Elector == nil {
		k.lead(ctx)
		return nil
	}
	k.health.TriedElection()
	k.Elector.Run(ctx, lease.Candidate{
		Lead: func(ctx context.Context) {
			k.Log.Info("leading")
			k.lead(ctx)
		},
		StandBy: func(leader string) {
			k.health.StandBy()
			k.Log.Info("standing by", "leader", leader)
		},
		Tried: func(err error) {
			k.health.TriedElection()
			k.failures.Report("leader election", err)
		},
	})
	return nil
}

func (k *Keeper) lead(ctx context.Context) {
	k.metrics.leader.Set(1)
	defer k.metrics.leader.Set(0)
	k.health.Start()
	defer k.health.Stop()
	k.forget()
	defer k.forget()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstAgain, maxAgain))
	k.mu.Lock()
	k.queue = queue
	k.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	var busy sync.WaitGroup
	defer busy.Wait()
	defer queue.ShutDown()
	defer cancel()
	for range workers {
		busy.Go(func() { k.work(ctx, queue) })
	}
	k.watch(ctx, &busy)
	k.renew(ctx)
}

// space returns the entry of a namespace, which it adds if needed. The caller
// holds the lock.
func (k *Keeper) space(namespace string) *space {
	s := k.spaces[namespace]
	if s == nil {
		s = new(space)
		k.spaces[namespace] = s
	}
	return s
}

// writable reports whether the namespace should have the secret and is not
// being deleted.
func (s *space) writable() bool { return s != nil && s.selected && !s.deleting }

// current reports whether the last secret seen is the one that was written with
// the credential.
func (s *space) current(c credential) bool {
	return s.written.credential.Equal(c.at) && s.seen.version == s.written.version
}

// enqueue queues a write to the namespace unless its secret is current.
func (k *Keeper) enqueue(namespace string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.spaces[namespace]
	if k.now == nil || k.queue == nil || !s.writable() || s.current(*k.now) {
		return
	}
	k.queue.AddAfter(namespace, s.written.delay(*k.now))
}

// delay is the wait before the credential is written again.
func (w write) delay(c credential) time.Duration {
	if !w.credential.Equal(c.at) || w.count <= promptRepairs || time.Since(w.at) > maxAgain {
		return 0
	}
	return min(firstAgain<<min(w.count-promptRepairs-1, 10), maxAgain)
}

// next returns the write that follows this one.
func (w write) next(c credential, v version) write {
	count := 1
	if w.credential.Equal(c.at) && time.Since(w.at) <= 2*maxAgain {
		count = w.count + 1
	}
	return write{version: v, credential: c.at, at: time.Now(), count: count}
}

func (k *Keeper) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		namespace, over := queue.Get()
		if over {
			return
		}
		if k.process(ctx, namespace) {
			queue.AddRateLimited(namespace)
		} else {
			queue.Forget(namespace)
		}
		queue.Done(namespace)
	}
}

// process writes the newest credential to one namespace, and reports whether to try
// again.
func (k *Keeper) process(ctx context.Context, namespace string) (again bool) {
	c, written, needed := k.task(namespace)
	if ctx.Err() != nil || !needed {
		return false
	}
	r := k.writer.write(ctx, namespace, c, nil, written)
	if ctx.Err() != nil {
		return false
	}
	k.observe(namespace, c, r)
	return r.Err != nil && r.Outcome != Refused // which is read again when it changes
}

// task returns the credential to write, and the version of the secret that has
// it already. An expired credential is not written: the next one follows.
func (k *Keeper) task(namespace string) (c credential, written version, needed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.spaces[namespace]
	if k.now == nil || !s.writable() || k.now.expired(time.Now()) || s.current(*k.now) && !s.failed {
		return credential{}, version{}, false
	}
	if s.written.credential.Equal(k.now.at) {
		written = s.written.version
	}
	return *k.now, written, true
}

func (k *Keeper) observe(namespace string, c credential, r Result) {
	k.mu.Lock()
	s := k.spaces[namespace]
	delete(k.untried, namespace)
	selected := s != nil && s.selected
	if selected { // otherwise its series would stay
		s.failed = r.Err != nil
		if r.Outcome == Updated && s.written.credential.Equal(c.at) {
			r.Outcome = Repaired
		}
		if r.Outcome.wrote() {
			s.written = s.written.next(c, r.version)
		}
		k.metrics.wrote(r)
	}
	k.mu.Unlock()
	if selected {
		k.failures.Report("secret write", r.Err, "namespace", namespace)
	}
	switch r.Outcome {
	case Created:
		k.Log.Info("secret created", "namespace", namespace)
	case Repaired:
		k.Log.Warn("secret repaired: another writer had changed it", "namespace", namespace)
	case TakenOver, Replaced:
		k.Log.Warn("secret taken over from another owner", "namespace", namespace, "outcome", string(r.Outcome))
	case Updated:
		k.Log.Debug("secret updated", "namespace", namespace)
	}
	for _, account := range r.Accounts {
		k.Log.Info("service account attached", "namespace", namespace, "account", account)
	}
	k.passed()
}

// passed reports the state of the pass to health.
func (k *Keeper) passed() {
	k.mu.Lock()
	complete := k.now != nil && k.unlisted == 0 && len(k.untried) == 0
	k.mu.Unlock()
	k.health.Passed(complete)
}
