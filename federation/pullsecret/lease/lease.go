// Package lease chooses one of several replicas, by a Lease of Kubernetes.
//
// The Lease is written and honoured as client-go's leaderelection does it, so
// that the two kinds can be rivals. That package itself is left out: it links
// every type of every API group, a third of this whole program.
package lease

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// The timing that Kubernetes' own components use. A leader that can't renew
// gives up renewDeadline after its last success, before others may take over.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Elector chooses one of several replicas by a Lease. The Lease is no fence: a
// leader that was frozen may write after another took over.
type Elector struct {
	identity string
	leases   leases
}

// Identity is a new one that no other replica has, and that tells a person
// which it is. Host and process ID alone would not do: pods in the network of
// their node share its name, and each is process 1.
func Identity() (string, error) {
	host, err := os.Hostname()
	return host + "_" + strings.ToLower(rand.Text()[:10]), err
}

// NewElector is New with a new Identity.
func NewElector(config *rest.Config, namespace, name string) (*Elector, error) {
	identity, err := Identity()
	if err != nil {
		return nil, err
	}
	return New(config, namespace, name, identity)
}

// NameFor names a Lease after what its holder writes, so that the replicas of
// one Deployment compete for it and no others.
func NameFor(prefix string, what ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(what, " ")))
	return prefix + "-" + hex.EncodeToString(sum[:5])
}

// New competes for the Lease namespace/name under an identity that no other
// replica has. It makes no request.
func New(config *rest.Config, namespace, name, identity string) (*Elector, error) {
	leases, err := newLeases(config, namespace, name)
	return &Elector{identity, leases}, err
}

// Candidate is who an Elector elects. All three are needed.
type Candidate struct {
	// Lead works until its context ends. Its error ends the candidacy for good;
	// after nil it is a candidate again.
	Lead func(context.Context) error
	// StandBy is told when another leads.
	StandBy func(leader string)
	// Told is told of every try to get or to keep the Lease, how it went: nil
	// for well, whoever holds it.
	Told func(error)
}

// Run leads whenever it is elected, until ctx ends, and then returns nil, or
// until Lead returns an error, which it returns. What the Lease's API server
// says ends nothing. The Lease is given up only after Lead has returned.
func (e *Elector) Run(ctx context.Context, c Candidate) error {
	t := term{Elector: e, Candidate: c}
	for t.win(ctx) {
		if err := t.serve(ctx); err != nil {
			return err
		}
	}
	return nil
}

// term is one candidacy after the other.
type term struct {
	*Elector
	Candidate
	// lease is the Lease as it was last seen, nil before that, and since when
	// it looks like this. Only the own clock decides whether it has expired:
	// the holder's may be wrong.
	lease *coordination.Lease
	since time.Time
	// mayHold is set from the first write on until an answer says that another
	// holds the Lease: a write whose answer was lost may have been done.
	mayHold bool
	// leader is who StandBy was told of.
	leader string
}

// win returns true once it holds the Lease, false when ctx ends: then it holds
// none.
func (t *term) win(ctx context.Context) bool {
	for ctx.Err() == nil {
		if t.try(ctx) == nil && t.holds() && ctx.Err() == nil {
			t.leader = t.identity
			return true
		}
		if leader := t.holder(); leader != "" && leader != t.identity && leader != t.leader {
			t.leader = leader
			t.StandBy(leader)
		}
		select {
		case <-ctx.Done():
		// Up to 2.2 periods, as client-go spreads its candidates.
		case <-time.After(retryPeriod + mathrand.N(retryPeriod*6/5)):
		}
	}
	if t.mayHold {
		t.release(context.WithoutCancel(ctx))
	}
	return false
}

// serve leads, and renews the Lease for as long as Lead is at work.
func (t *term) serve(ctx context.Context) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	// Whatever hangs meanwhile, the time in office ends in time, which counts
	// from when the Lease was asked for: the answer may have been slow.
	end := time.AfterFunc(renewDeadline-time.Since(t.since), stop)
	defer end.Stop()
	office, leave := context.WithCancel(context.WithoutCancel(ctx))
	outcome := make(chan error, 1)
	go func() {
		defer leave()
		outcome <- t.Lead(work)
	}()
	tick := time.NewTicker(retryPeriod)
	defer tick.Stop()
	for {
		select {
		case <-office.Done():
			t.release(context.WithoutCancel(ctx))
			return <-outcome
		case <-tick.C:
		}
		began := time.Now()
		switch err := t.try(office); {
		case err == nil && !t.holds():
			stop() // it was taken away
		case err == nil && work.Err() == nil:
			end.Reset(renewDeadline - time.Since(began))
		}
	}
}

// try gets or keeps the Lease if that may be, and tells of it.
func (t *term) try(ctx context.Context) error {
	err := t.attempt(ctx)
	if errors.Is(err, errConflict) { // another was faster, and that is no fault
		t.Told(nil)
	} else if ctx.Err() == nil {
		t.Told(err)
	}
	return err
}

func (t *term) attempt(ctx context.Context) error {
	if t.holds() {
		if t.write(ctx, t.lease) == nil {
			return nil
		}
	}
	seen, err := t.leases.do(ctx, http.MethodGet, nil)
	// To take the Lease is not broken off: it might be done after release has
	// looked whether it was.
	taking := context.WithoutCancel(ctx)
	if errors.Is(err, errNotFound) {
		return t.write(taking, nil)
	}
	if err != nil {
		return err
	}
	if t.lease == nil || !reflect.DeepEqual(t.lease.Spec, seen.Spec) {
		t.since = time.Now()
	}
	t.lease = seen
	if holder := t.holder(); holder != "" && holder != t.identity && !t.expired() {
		t.mayHold = false
		return nil
	}
	return t.write(taking, seen)
}

// write takes the Lease that was, nil for none, or renews it.
func (t *term) write(ctx context.Context, was *coordination.Lease) error {
	now, method := metav1.NowMicro(), http.MethodPut
	spec := coordination.LeaseSpec{
		HolderIdentity: &t.identity, LeaseDurationSeconds: new(int32(leaseDuration / time.Second)),
		AcquireTime: &now, RenewTime: &now, LeaseTransitions: new(int32(0)),
	}
	switch {
	case was == nil:
		was, method = new(coordination.Lease), http.MethodPost
	case t.holder() == t.identity:
		spec.AcquireTime, spec.LeaseTransitions = was.Spec.AcquireTime, was.Spec.LeaseTransitions
	case was.Spec.LeaseTransitions != nil:
		*spec.LeaseTransitions = *was.Spec.LeaseTransitions + 1
	}
	return t.put(ctx, method, was, spec)
}

func (t *term) put(ctx context.Context, method string, was *coordination.Lease, spec coordination.LeaseSpec) error {
	next := was.DeepCopy()
	next.Spec = spec
	// It counts from before the others can have seen it.
	began := time.Now()
	t.mayHold = true
	written, err := t.leases.do(ctx, method, next)
	if err == nil {
		t.lease, t.since = written, began
	}
	return err
}

// release gives the Lease up, if it is still held, so that another need not
// wait for its end.
func (t *term) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, renewDeadline)
	defer cancel()
	for ctx.Err() == nil {
		// What became of the last renewal may be unknown.
		seen, err := t.leases.do(ctx, http.MethodGet, nil)
		if err != nil {
			return
		}
		t.lease, t.since = seen, time.Now()
		if t.holder() != t.identity {
			return
		}
		now := metav1.NowMicro()
		if !errors.Is(t.put(ctx, http.MethodPut, seen, coordination.LeaseSpec{
			HolderIdentity: new(""), LeaseDurationSeconds: new(int32(1)),
			AcquireTime: &now, RenewTime: &now, LeaseTransitions: seen.Spec.LeaseTransitions,
		}), errConflict) {
			return
		}
	}
}

// holds reports whether this candidate holds the Lease, as far as it knows.
func (t *term) holds() bool { return t.holder() == t.identity && !t.expired() }

func (t *term) holder() string {
	if t.lease == nil || t.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *t.lease.Spec.HolderIdentity
}

func (t *term) expired() bool {
	var seconds int32
	if d := t.lease.Spec.LeaseDurationSeconds; d != nil {
		seconds = *d
	}
	return time.Since(t.since) >= time.Duration(seconds)*time.Second
}
