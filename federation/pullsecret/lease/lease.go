// Package lease elects one of several replicas by a Lease of Kubernetes.
//
// It writes and honours the Lease as client-go's leaderelection does, so that
// candidates of both kinds can compete. It does not use that package, which
// links every type of every API group: a third of the whole program.
package lease

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"oidc-publisher/internal/kubeerr"
)

// The timing of Kubernetes' own components. A leader that can't renew the Lease
// steps down renewDeadline after its last success, before others may take over.
const (
	leaseDuration  = 15 * time.Second
	renewDeadline  = 10 * time.Second
	retryPeriod    = 2 * time.Second
	requestTimeout = renewDeadline / 2
)

// Elector elects one of several replicas by a Lease. The Lease does not prevent
// late writes: a leader that was frozen may write after another took over.
type Elector struct {
	client                    rest.Interface
	explain                   Explain
	namespace, name, identity string
}

// Explain explains an error of the API server: what is wrong, where, and what to do.
// An answer that is about the object is returned as it is, as by
// kubeerr.Server.Explain.
type Explain func(context.Context, kubeerr.Request, error) error

// Identity returns a unique identity that begins with the host name. Host name
// and process ID are not unique: pods in the host network share the node's
// name, and each is process 1.
func Identity() (string, error) {
	host, err := os.Hostname()
	return host + "_" + strings.ToLower(rand.Text()[:10]), err
}

// NameFor derives the name of a Lease from what its holder writes, so that only
// the replicas of one Deployment compete for it.
func NameFor(prefix string, what ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(what, " ")))
	return prefix + "-" + hex.EncodeToString(sum[:5])
}

// New returns a candidate for the Lease namespace/name. The identity must be
// unique. It makes no request.
func New(client rest.Interface, explain Explain, namespace, name, identity string) *Elector {
	return &Elector{client, explain, namespace, name, identity}
}

// Candidate is what an Elector calls. All functions are required.
type Candidate struct {
	// Lead is called after the election and works until its context ends.
	Lead func(context.Context)
	// StandBy is called when another replica leads.
	StandBy func(leader string)
	// Tried is called after each attempt to get or keep the Lease: with nil if
	// it succeeded or another replica holds the Lease.
	Tried func(error)
}

// Run leads whenever it is elected, until ctx ends. No error of the API server
// ends it. It releases the Lease after Lead has returned.
func (e *Elector) Run(ctx context.Context, c Candidate) {
	t := term{Elector: e, Candidate: c}
	for t.win(ctx) {
		t.serve(ctx)
	}
}

// term is the state of an Elector that runs.
type term struct {
	*Elector
	Candidate
	// lease is the Lease as it was last read, and since is when it was first
	// read so. Expiry is computed from since, by the local clock: the holder's
	// clock may be wrong.
	lease *coordination.Lease
	since time.Time
	// mayHold is set from the first write until an answer shows another holder:
	// if the answer to a write is lost, the write may have succeeded.
	mayHold bool
	// leader is the argument of the last call of StandBy.
	leader string
}

// win returns true once this candidate holds the Lease, or false when ctx ends,
// without the Lease.
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
		// Between 1 and 2.2 periods, as in client-go.
		case <-time.After(retryPeriod + mathrand.N(retryPeriod*6/5)):
		}
	}
	if t.mayHold {
		t.release(context.WithoutCancel(ctx))
	}
	return false
}

// serve leads, and renews the Lease until Lead returns.
func (t *term) serve(ctx context.Context) {
	work, stop := context.WithCancel(ctx)
	defer stop()
	// The timer stops Lead in time even if a request hangs. It counts from the
	// start of the request that got the Lease: the answer may have been slow.
	end := time.AfterFunc(renewDeadline-time.Since(t.since), stop)
	defer end.Stop()
	leading, done := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer done()
		t.Lead(work)
	}()
	tick := time.NewTicker(retryPeriod)
	defer tick.Stop()
	for {
		select {
		case <-leading.Done():
			t.release(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		}
		began := time.Now()
		switch err := t.try(leading); {
		case err == nil && !t.holds():
			stop() // another replica took it
		case err == nil && work.Err() == nil:
			end.Reset(renewDeadline - time.Since(began))
		}
	}
}

// try gets or keeps the Lease if possible, and reports to Tried.
func (t *term) try(ctx context.Context) error {
	err := t.attempt(ctx)
	if lostRace(err) { // is no failure
		t.Tried(nil)
	} else if ctx.Err() == nil {
		t.Tried(err)
	}
	return err
}

func (t *term) attempt(ctx context.Context) error {
	if t.holds() && t.write(ctx, t.lease) == nil {
		return nil
	}
	seen, err := t.do(ctx, http.MethodGet, nil)
	// A request that takes the Lease is not canceled: it could succeed after
	// release has read the Lease.
	taking := context.WithoutCancel(ctx)
	if apierrors.IsNotFound(err) {
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

// write creates the Lease (was is nil), takes it or renews it.
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
	// The Lease counts from a time before other candidates can have read it.
	began := time.Now()
	t.mayHold = true
	written, err := t.do(ctx, method, next)
	if err == nil {
		t.lease, t.since = written, began
	}
	return err
}

// release gives up the Lease if it is still held, so that others need not wait
// until it expires.
func (t *term) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, renewDeadline)
	defer cancel()
	for ctx.Err() == nil {
		// Read it first: the answer to the last renewal may be lost.
		seen, err := t.do(ctx, http.MethodGet, nil)
		if err != nil {
			return
		}
		t.lease, t.since = seen, time.Now()
		if t.holder() != t.identity {
			return
		}
		now := metav1.NowMicro()
		if !lostRace(t.put(ctx, http.MethodPut, seen, coordination.LeaseSpec{
			HolderIdentity: new(""), LeaseDurationSeconds: new(int32(1)),
			AcquireTime: &now, RenewTime: &now, LeaseTransitions: seen.Spec.LeaseTransitions,
		})) {
			return
		}
	}
}

// holds reports whether the Lease, as last read, is held by this candidate.
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

func lostRace(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// verbs are RBAC's names of the methods.
var verbs = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update"}

// do makes one request: GET, or POST or PUT of a Lease. Its error explains what to do,
// except for an absent Lease and a lost race.
func (e *Elector) do(ctx context.Context, method string, sent *coordination.Lease) (*coordination.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	path := []string{"/apis/coordination.k8s.io/v1/namespaces", e.namespace, "leases"}
	if method != http.MethodPost {
		path = append(path, e.name)
	}
	request := e.client.Verb(method).AbsPath(path...).MaxRetries(0)
	if sent != nil {
		sent.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		sent.Namespace, sent.Name = e.namespace, e.name
		body, err := json.Marshal(sent)
		if err != nil {
			return nil, err
		}
		request = request.SetHeader("Content-Type", "application/json").Body(body)
	}
	result := request.Do(ctx)
	var got coordination.Lease
	switch err := result.Error(); { // it has the API server's message, which that of Raw lacks
	case err == nil:
		if answer, _ := result.Raw(); json.Unmarshal(answer, &got) == nil && got.Kind == "Lease" {
			return &got, nil
		}
		return nil, e.error(errors.New("the answer is not a Lease: check proxies on the way to the API server"))
	case apierrors.IsNotFound(err) && method == http.MethodPost:
		return nil, e.error(errors.New("the namespace does not exist, or the API server has no Leases"))
	case lostRace(err):
		return nil, e.error(err)
	default:
		// Without the name: RBAC can't restrict create by name.
		rule := kubeerr.Rule{Verbs: []string{"get", "create", "update"}, Resource: "leases.coordination.k8s.io", Namespace: e.namespace}
		return nil, e.error(e.explain(ctx, kubeerr.Request{Verb: verbs[method], Object: "leases in namespace " + e.namespace, Allow: rule.Allow, Timeout: requestTimeout}, err))
	}
}

func (e *Elector) error(err error) error {
	return fmt.Errorf("lease %s/%s: %w", e.namespace, e.name, err)
}
