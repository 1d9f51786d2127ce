// Package lease chooses one of several replicas, by a Lease of Kubernetes.
package lease

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The timing that Kubernetes' own components use. A leader that can't renew
// gives up renewDeadline after its last success, before others may take over.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Elector chooses one of several replicas by a Lease. The Lease is no fence: a
// leader that was frozen may write after another took over, which the
// conditions on every write make harmless.
type Elector struct {
	lock resourcelock.Interface
}

// New competes for the Lease namespace/name under an identity that no
// other replica has.
func New(config *rest.Config, namespace, name, identity string) (*Elector, error) {
	own := rest.CopyConfig(config)
	own.Timeout = renewDeadline / 2
	client, err := coordination.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	return &Elector{&resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name},
		Client:     client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
	}}, nil
}

// Candidate is who an Elector elects. All three are needed.
type Candidate struct {
	// Lead works until its context ends. Its error ends the candidacy for good;
	// after nil it is a candidate again.
	Lead func(context.Context) error
	// StandBy is told when another leads.
	StandBy func(leader string)
	// Told is told of every try to read or write the Lease, how it went: nil
	// for well.
	Told func(error)
}

// Run leads whenever it is elected, until ctx ends, and then returns nil, or
// until Lead returns an error, which it returns. What the Lease's API server
// says ends nothing. The Lease is given up only after Lead has returned.
func (e *Elector) Run(ctx context.Context, c Candidate) error {
	for ctx.Err() == nil {
		if err := e.term(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// term is one candidacy and, once elected, one time in office.
func (e *Elector) term(ctx context.Context, c Candidate) error {
	office, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	t := &term{done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() {
		if t.withdraw() {
			resign()
		}
	})
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            tellingLock{e.lock, c.Told},
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(inOffice context.Context) {
				if !t.begin() {
					return
				}
				defer close(t.done)
				defer resign()
				work, cancel := context.WithCancel(inOffice)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				t.outcome = c.Lead(work)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				if identity != e.lock.Identity() && identity != "" {
					c.StandBy(identity)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(office)
	if t.withdraw() {
		return nil
	}
	<-t.done
	return t.outcome
}

// term decides, whatever the order of events, whether its time in office ever
// begins.
type term struct {
	mu               sync.Mutex
	begun, withdrawn bool
	done             chan struct{} // closed when it has begun and ended
	outcome          error
}

// begin reports whether the time in office begins.
func (t *term) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = !t.withdrawn
	return t.begun
}

// withdraw reports whether it has not begun, and now never will.
func (t *term) withdraw() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.withdrawn = !t.begun
	return t.withdrawn
}

// tellingLock tells how each request for the Lease went: client-go itself
// retries for ever in silence, also where RBAC forbids what it needs.
type tellingLock struct {
	resourcelock.Interface
	tell func(error)
}

func (l tellingLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if !apierrors.IsNotFound(err) {
		l.told(ctx, err)
	}
	return record, raw, err
}

func (l tellingLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, record)
	l.told(ctx, err)
	return err
}

func (l tellingLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Update(ctx, record)
	l.told(ctx, err)
	return err
}

// told leaves out what is no fault: another was faster, or it is over.
func (l tellingLock) told(ctx context.Context, err error) {
	if ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		l.tell(err)
	}
}
