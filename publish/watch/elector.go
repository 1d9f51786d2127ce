package watch

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

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
	lock     resourcelock.Interface
	identity string
}

// NewElector competes for the Lease namespace/name under an identity that no
// other replica has.
func NewElector(config *rest.Config, namespace, name, identity string) (*Elector, error) {
	own := rest.CopyConfig(config)
	own.Timeout = renewDeadline / 2
	client, err := coordination.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	return &Elector{
		lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name},
			Client:     client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		identity: identity,
	}, nil
}

// run leads whenever it is elected, until ctx ends or lead returns an error.
// The Lease is given up only after lead has returned.
func (e *Elector) run(ctx context.Context, lead func(context.Context) error, standBy func(leader string)) error {
	for ctx.Err() == nil {
		if err := e.term(ctx, lead, standBy); err != nil {
			return err
		}
	}
	return nil
}

// term is one candidacy and, once elected, one time in office.
func (e *Elector) term(ctx context.Context, lead func(context.Context) error, standBy func(leader string)) error {
	office, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	var elected atomic.Bool
	var outcome error
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		if !elected.Load() {
			resign()
		}
	})
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            e.lock,
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(inOffice context.Context) {
				elected.Store(true)
				defer close(done)
				defer resign()
				work, cancel := context.WithCancel(inOffice)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				outcome = lead(work)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				if identity != e.identity && identity != "" {
					standBy(identity)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(office)
	if elected.Load() {
		<-done
	}
	return outcome
}
