package pullsecret

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"

	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/lease"
	"oidc-publisher/internal/service"
)

// KeeperConfig says what to keep, and how. All but Attach, TakeOver and Elector
// is needed.
type KeeperConfig struct {
	Cluster    *Cluster
	Secret     Secret
	Namespaces Namespaces
	// Exchange gets a credential. The context bounds it.
	Exchange func(context.Context) (exchange.Credential, error)
	// Timeout bounds one exchange.
	Timeout  time.Duration
	Attach   []string
	TakeOver bool
	// Elector lets one of several replicas write; nil for a single one.
	Elector *lease.Elector
	Log     *slog.Logger
}

// Keeper keeps the secret in every namespace: a new credential before the old
// one expires, and what is new, deleted or edited at once.
type Keeper struct {
	KeeperConfig
	writer  *writer
	metrics *metrics
	health  *service.Health
	said    *teller

	mu  sync.Mutex
	now *credential // nil before the first exchange
	// present are the namespaces that are to have the secret, and whether
	// they are being deleted; secrets are the ones that are there.
	present map[string]bool
	secrets map[string]kept
	// waiting are namespaces that were not tried yet since the start.
	listed  int // how many lists are still to come
	waiting map[string]bool
	failing map[string]bool
	rivals  map[string]rival
	queue   workqueue.TypedRateLimitingInterface[string]
}

// kept is what is known of a secret.
type kept struct {
	exchanged, expires time.Time
	intact             bool
}

// rival counts how often one credential was written to a namespace: more than
// once is because somebody undid it.
type rival struct {
	credential, last time.Time
	writes           int
}

const (
	// slack is what a turn of the loop may take beside an exchange.
	slack = 3 * time.Minute
	// A namespace that fails is tried again between these.
	firstAgain, maxAgain = 250 * time.Millisecond, time.Minute
	// Who undoes a credential more often than this, with less than maxAgain in
	// between, is answered ever more slowly: two controllers at war would
	// otherwise keep the API server busy.
	prompt = 5
)

// NewKeeper makes a keeper whose metrics are in the registry.
func NewKeeper(c KeeperConfig, registry prometheus.Registerer) *Keeper {
	k := &Keeper{
		KeeperConfig: c,
		writer:       &writer{cluster: c.Cluster, secret: c.Secret, attach: c.Attach, takeOver: c.TakeOver, yields: true},
		health:       service.NewHealth(2*c.Timeout+turn+slack, "not every namespace was served yet"),
		said:         newTeller(c.Log),
	}
	k.metrics = newMetrics(registry, k)
	k.forget()
	return k
}

// Handler serves /livez, /readyz and, from the given handler, /metrics. It is
// ready once every namespace was tried with a credential, or while another
// leads.
func (k *Keeper) Handler(metrics http.Handler) http.Handler { return k.health.Handler(metrics) }

// forget is for the time out of office: others may have done anything.
func (k *Keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now, k.queue = nil, nil
	k.present, k.secrets = map[string]bool{}, map[string]kept{}
	k.waiting, k.failing, k.rivals = map[string]bool{}, map[string]bool{}, map[string]rival{}
}

// Run keeps the secrets until ctx ends and then returns nil, once the writes in
// hand are done and the Lease given up.
func (k *Keeper) Run(ctx context.Context) error {
	if k.Elector == nil {
		return k.lead(ctx)
	}
	k.health.TriedElection()
	return k.Elector.Run(ctx, lease.Candidate{
		Lead: func(ctx context.Context) error {
			k.Log.Info("leading")
			return k.lead(ctx)
		},
		StandBy: func(leader string) {
			k.health.StandBy()
			k.Log.Info("standing by", "leader", leader)
		},
		Told: func(err error) {
			k.health.TriedElection()
			k.said.outcome("leader election", err)
		},
	})
}

func (k *Keeper) lead(ctx context.Context) error {
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
	return nil
}

// look has a namespace written if it is not as it should be.
func (k *Keeper) look(namespace string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ending, wanted := k.present[namespace]
	if k.now == nil || k.queue == nil || !wanted || ending {
		return
	}
	if s, there := k.secrets[namespace]; there && s.intact && !s.exchanged.Before(k.now.at) && !k.waiting[namespace] {
		return
	}
	k.queue.AddAfter(namespace, k.rivals[namespace].pause(*k.now))
}

// pause is before the credential is written once more.
func (r rival) pause(c credential) time.Duration {
	if !r.credential.Equal(c.at) || r.writes <= prompt || time.Since(r.last) > maxAgain {
		return 0
	}
	return min(firstAgain<<min(r.writes-prompt-1, 10), maxAgain)
}

func (r rival) wrote(at time.Time) rival {
	if !r.credential.Equal(at) || time.Since(r.last) > 2*maxAgain {
		r = rival{credential: at}
	}
	return rival{at, time.Now(), r.writes + 1}
}

func (k *Keeper) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		namespace, over := queue.Get()
		if over {
			return
		}
		k.process(ctx, queue, namespace)
		queue.Done(namespace)
	}
}

// process writes one namespace with what is right now.
func (k *Keeper) process(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], namespace string) {
	k.mu.Lock()
	c := k.now
	ending, wanted := k.present[namespace]
	k.mu.Unlock()
	// With an expired credential there is nothing to give: the next exchange
	// comes back here.
	if ctx.Err() != nil || c == nil || !wanted || ending || c.expired(time.Now()) {
		queue.Forget(namespace)
		return
	}
	r := k.writer.write(ctx, namespace, *c, nil)
	if ctx.Err() != nil {
		return
	}
	k.observe(namespace, *c, r)
	if r.Err != nil && r.Outcome != Refused {
		queue.AddRateLimited(namespace)
		return
	}
	queue.Forget(namespace) // somebody else's secret is looked at again when it changes
}

func (k *Keeper) observe(namespace string, c credential, r Result) {
	k.mu.Lock()
	_, wanted := k.present[namespace]
	delete(k.waiting, namespace)
	if wanted && r.Outcome.wrote() {
		k.rivals[namespace] = k.rivals[namespace].wrote(c.at)
	}
	if r.Err != nil && wanted {
		k.failing[namespace] = true
	} else {
		delete(k.failing, namespace)
	}
	if wanted { // or its series would stay for ever
		k.metrics.wrote(r)
	}
	k.mu.Unlock()
	if wanted {
		k.said.outcome("namespace "+namespace, r.Err)
	}
	switch r.Outcome {
	case Created:
		k.Log.Info("created", "namespace", namespace)
	case Repaired:
		k.Log.Warn("repaired what somebody else changed", "namespace", namespace)
	case TakenOver, Replaced:
		k.Log.Warn("took over the secret of somebody else", "namespace", namespace, "outcome", string(r.Outcome))
	case Updated:
		k.Log.Debug("updated", "namespace", namespace)
	}
	for _, account := range r.Accounts {
		k.Log.Info("attached", "namespace", namespace, "account", account)
	}
	k.turned()
}

// turned tells health where things stand.
func (k *Keeper) turned() {
	k.mu.Lock()
	done := k.now != nil && k.listed == 0 && len(k.waiting) == 0
	k.mu.Unlock()
	k.health.Passed(done)
}
