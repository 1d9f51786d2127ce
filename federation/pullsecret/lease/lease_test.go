package lease_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"oidc-publisher/federation/pullsecret"
	"oidc-publisher/federation/pullsecret/lease"
	"oidc-publisher/federation/pullsecret/lease/leasetest"
	"oidc-publisher/internal/kubeerr"
	"oidc-publisher/internal/testserver"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	m.Run()
}

// office is what two or more candidates compete for.
type office struct {
	t     *testing.T
	mu    sync.Mutex
	now   []string // who leads
	ever  []string
	tried []error
	// standing maps each candidate to the leader it last stood by for.
	standing map[string]string
}

func newOffice(t *testing.T) *office { return &office{t: t, standing: map[string]string{}} }

func (o *office) enter(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now, o.ever = append(o.now, name), append(o.ever, name); len(o.now) > 1 {
		o.t.Errorf("%v lead at once", o.now)
	}
}

func (o *office) leave(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = slices.DeleteFunc(o.now, func(s string) bool { return s == name })
}

func (o *office) leads() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.now, ",")
}

// candidate leads until it is told to stop.
func (o *office) candidate(name string) lease.Candidate {
	return lease.Candidate{
		Lead: func(ctx context.Context) {
			o.enter(name)
			defer o.leave(name)
			<-ctx.Done()
		},
		StandBy: func(leader string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.standing[name] = leader
		},
		Tried: func(err error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.tried = append(o.tried, err)
		},
	}
}

// kind is one of the two electors, which must get along.
type kind func(o *office, config *rest.Config, name string) (stop func())

// ours runs this package's elector.
func ours(o *office, config *rest.Config, name string) (stop func()) {
	o.t.Helper()
	elector := electorOf(o.t, config, name)
	return o.run(func(ctx context.Context) { elector.Run(ctx, o.candidate(name)) })
}

// electorOf connects to the API server as pull-secret does.
func electorOf(t *testing.T, config *rest.Config, identity string) *lease.Elector {
	t.Helper()
	address, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := pullsecret.Connect(config, kubeerr.Server{URL: address}.Explain)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.Elector("default", "issuer", identity)
}

// theirs runs client-go's, with the same timing.
func theirs(o *office, config *rest.Config, name string) (stop func()) {
	o.t.Helper()
	config = rest.CopyConfig(config)
	config.ContentType = "application/json"
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		o.t.Fatal(err)
	}
	candidate := o.candidate(name)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: "default", Name: "issuer"}, Client: clients.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: candidate.Lead,
			OnStoppedLeading: func() {},
			OnNewLeader:      candidate.StandBy,
		},
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return o.run(elector.Run)
}

func (o *office) run(run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(o.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	return func() { cancel(); <-done }
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var pairs = []struct {
	name          string
	first, second kind
}{{"ours and ours", ours, ours}, {"ours, then client-go's", ours, theirs}, {"client-go's, then ours", theirs, ours}}

// TestCompetingCandidates: whatever the kinds, one leads at a time, and the other takes over
// soon where the Lease is given up, and 15 s after its last renewal where not.
func TestCompetingCandidates(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, server := newOffice(t), new(leasetest.Server)
				first, second := server.Connect(), server.Connect()
				stopFirst := pair.first(o, first.Config(), "first")
				after(time.Second)
				stopSecond := pair.second(o, second.Config(), "second")
				after(time.Hour)
				if o.leads() != "first" || server.Holder() != "first" || o.standing["second"] != "first" {
					t.Errorf("%q leads, %q holds, %v stand by", o.leads(), server.Holder(), o.standing)
				}
				stopFirst()
				after(5 * time.Second)
				if o.leads() != "second" || server.Holder() != "second" {
					t.Errorf("after the Lease was given up %q leads, %q holds", o.leads(), server.Holder())
				}
				stopFirst = pair.first(o, first.Config(), "first")
				after(time.Minute)
				second.Cut(errors.New("no route to host"))
				after(12 * time.Second) // its deadline, and a period
				if got := o.leads(); got != "" {
					t.Errorf("%q leads though the leader was cut off for less than the Lease lasts", got)
				}
				after(12 * time.Second) // 15 s since it was seen renewed, and two looks at it
				if o.leads() != "first" || server.Holder() != "first" {
					t.Errorf("after the leader was cut off %q leads, %q holds", o.leads(), server.Holder())
				}
				stopFirst()
				second.Cut(nil)
				stopSecond()
				if got := server.Holder(); got != "" {
					t.Errorf("%q holds the Lease that all gave up", got)
				}
			})
		})
	}
}

// TestCompetingCandidatesAtARealServer hand a real Lease over to each other, of which an
// administrator's labels survive.
func TestCompetingCandidatesAtARealServer(t *testing.T) {
	cluster := testserver.Kube(t, testserver.KubeOptions{})
	cluster.Apply(t, testserver.Object{
		"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
		"metadata": map[string]any{"name": "issuer", "namespace": "default", "labels": map[string]any{"team": "a"}},
	})
	admin := cluster.Servers[0].Kubeconfig("admin")
	config := &rest.Config{Host: admin.Server, BearerToken: admin.Token, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CA}}
	o := newOffice(t)
	lead := func(name string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for o.leads() != name {
			if time.Now().After(deadline) {
				t.Fatalf("%q leads, want %q", o.leads(), name)
			}
			time.Sleep(20 * time.Millisecond)
		}
		spec, _ := cluster.Get(t, "/apis/coordination.k8s.io/v1/namespaces/default/leases/issuer")["spec"].(map[string]any)
		if spec["holderIdentity"] != name || spec["leaseDurationSeconds"] != 15.0 {
			t.Errorf("the Lease says %v", spec)
		}
	}
	stop := ours(o, config, "a")
	lead("a")
	for i, next := range []kind{theirs, ours, ours} {
		name := string(rune('b' + i))
		before := stop
		stop = next(o, config, name)
		before()
		lead(name)
	}
	stop()
	got := cluster.Get(t, "/apis/coordination.k8s.io/v1/namespaces/default/leases/issuer")
	spec, _ := got["spec"].(map[string]any)
	metadata, _ := got["metadata"].(map[string]any)
	labels, _ := metadata["labels"].(map[string]any)
	if spec["leaseTransitions"] != 3.0 || spec["holderIdentity"] != "" && spec["holderIdentity"] != nil || labels["team"] != "a" {
		t.Errorf("the Lease is left as %v, labels %v", spec, labels)
	}
}

// TestLeaderWithHangingRequests stops in time, without an answer.
func TestLeaderWithHangingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, link := newOffice(t), new(leasetest.Server).Connect()
		config := link.Config()
		hang := &hanging{next: config.Transport}
		config.Transport = hang
		stop := ours(o, config, "a")
		after(time.Minute)
		hang.set(true)
		after(10 * time.Second)
		if got := o.leads(); got != "" {
			t.Errorf("%q leads 10 s after the last answer", got)
		}
		hang.set(false)
		after(10 * time.Second)
		if o.leads() != "a" || len(o.ever) != 2 {
			t.Errorf("%q leads, after %v", o.leads(), o.ever)
		}
		stop()
	})
}

// TestLeaseTakenByAnother: the leader stops when it next renews, and does not
// give up what is another's.
func TestLeaseTakenByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, server := newOffice(t), new(leasetest.Server)
		stop := ours(o, server.Connect().Config(), "a")
		after(time.Minute)
		server.Give("b")
		after(2 * time.Second) // a period
		if got := o.leads(); got != "" || server.Holder() != "b" {
			t.Errorf("%q leads, and %q holds the Lease", got, server.Holder())
		}
		stop()
		if got := server.Holder(); got != "b" {
			t.Errorf("%q holds the Lease that b has", got)
		}
	})
}

// TestLostRaceIsNoFailure: it is not reported.
func TestLostRaceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := &rest.Config{Host: "https://kubernetes.example.com", Transport: faster{}}
		o := newOffice(t)
		stop := ours(o, config, "a")
		after(time.Minute)
		stop()
		if err := errors.Join(o.tried...); err != nil || len(o.tried) < 10 || len(o.ever) > 0 {
			t.Errorf("in a minute it was told %d times: %v; led: %v", len(o.tried), err, o.ever)
		}
	})
}

// faster is a server at which another candidate always wins.
type faster struct{}

func (faster) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return answer{http.StatusNotFound, "{}"}.RoundTrip(r)
	}
	return answer{http.StatusConflict, "{}"}.RoundTrip(r)
}

// TestLeaderWithSlowAnswers: its term begins with its request, because others
// count from the write at the server.
func TestLeaderWithSlowAnswers(t *testing.T) {
	for name, writes := range map[string]int{"never renewed": 1, "renewed": 2, "renewed often": 8} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, link := newOffice(t), new(leasetest.Server).Connect()
				config := link.Config()
				slow := &late{next: config.Transport, by: 3 * time.Second, writes: writes}
				config.Transport = slow
				stop := ours(o, config, "a")
				var led time.Time
				for range 2 * 60 * 10 {
					after(100 * time.Millisecond)
					if o.leads() != "" {
						led = time.Now()
					}
				}
				stop()
				if in := led.Sub(slow.asked); slow.writes != 0 || in < 9*time.Second || in > 10*time.Second {
					t.Errorf("it led until %v after it asked for the Lease for the last time with success, want 10 s", in)
				}
			})
		})
	}
}

// late executes requests at once and answers late. After a number of writes it
// fails.
type late struct {
	next   http.RoundTripper
	by     time.Duration
	mu     sync.Mutex
	writes int
	// asked is when the last write was.
	asked time.Time
}

func (l *late) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := l.count(r); err != nil {
		return nil, err
	}
	resp, err := l.next.RoundTrip(r)
	time.Sleep(l.by)
	return resp, err
}

func (l *late) count(r *http.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Method == http.MethodGet {
		return nil
	}
	if l.writes == 0 {
		return errors.New("no route to host")
	}
	l.writes--
	l.asked = time.Now()
	return nil
}

// hanging answers nothing for a while, even after a request ended, as a
// credential plugin may.
type hanging struct {
	next  http.RoundTripper
	mu    sync.Mutex
	until chan struct{}
}

func (h *hanging) set(hang bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if hang {
		h.until = make(chan struct{})
		return
	}
	close(h.until)
	h.until = nil
}

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	until := h.until
	h.mu.Unlock()
	if until != nil {
		<-until
	}
	return h.next.RoundTrip(r)
}

// TestHangingRequestIsRetried gives it up and makes another.
func TestHangingRequestIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, config := newOffice(t), new(leasetest.Server).Connect().Config()
		config.Transport = &silentAtFirst{next: config.Transport}
		stop := ours(o, config, "a")
		after(10 * time.Second)
		if o.leads() != "a" || len(o.tried) < 2 || o.tried[0] == nil {
			t.Errorf("%q leads 10 s after a request that is never answered; told %v", o.leads(), o.tried)
		}
		stop()
	})
}

// silentAtFirst never answers the first request.
type silentAtFirst struct {
	next http.RoundTripper
	once sync.Once
}

func (s *silentAtFirst) RoundTrip(r *http.Request) (*http.Response, error) {
	s.once.Do(func() { <-r.Context().Done() })
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return s.next.RoundTrip(r)
}

// TestStoppedCandidateReleasesTheLease while its first write is under way, or when its
// answer was lost, leaves no Lease behind that another would have to wait for.
func TestStoppedCandidateReleasesTheLease(t *testing.T) {
	for name, link := range map[string]slowWrites{
		"before it is done":     {before: time.Second},
		"after it is done":      {after: time.Second},
		"its answer gets lost":  {before: time.Second, lost: true},
		"its answer never came": {lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, server := newOffice(t), new(leasetest.Server)
				config := server.Connect().Config()
				link.next = config.Transport
				config.Transport = link
				stop := ours(o, config, "a")
				after(500 * time.Millisecond)
				stop()
				after(10 * time.Second) // whatever is still on its way
				if got := server.Holder(); got != "" || len(o.ever) > 0 {
					t.Errorf("%q holds the Lease, %v led", got, o.ever)
				}
			})
		})
	}
}

// slowWrites delays before and after each write. It writes even if the client
// has gone, as a server does, and may then send no answer.
type slowWrites struct {
	next          http.RoundTripper
	before, after time.Duration
	lost          bool
}

func (s slowWrites) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return s.next.RoundTrip(r)
	}
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		time.Sleep(s.before)
		resp, err := s.next.RoundTrip(r)
		time.Sleep(s.after)
		if s.lost {
			resp, err = nil, io.ErrUnexpectedEOF
		}
		done <- result{resp, err}
	}()
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case got := <-done:
		return got.resp, got.err
	}
}

// TestIdentities: two processes of one host and one process ID differ, as two
// pods in their node's network have both.
func TestIdentities(t *testing.T) {
	one, err := lease.Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := lease.Identity()
	if host, _ := os.Hostname(); err != nil || one == other || !strings.HasPrefix(one, host+"_") {
		t.Errorf("%q and %q: %v", one, other, err)
	}
}

// TestAnswersAreExplained: they say what to do, and contain neither text of the
// remote side nor a password in the address.
func TestAnswersAreExplained(t *testing.T) {
	const forbidden = `{"kind":"Status","status":"Failure","reason":"Forbidden","code":403,"message":"leases is forbidden: User \"jane\" cannot get resource: stranger"}`
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"unknown", http.StatusUnauthorized, "no", "credentials were not accepted"},
		{"forbidden", http.StatusForbidden, forbidden, `user "jane" is not allowed to get leases in namespace default (HTTP 403): an administrator can allow it with: kubectl create role`},
		{"forbidden by a stranger", http.StatusForbidden, "no", "not allowed to get leases"},
		{"elsewhere", http.StatusTemporaryRedirect, "no", "HTTP 307"},
		{"busy", http.StatusTooManyRequests, "no", "429"},
		{"a stranger", http.StatusOK, "<html>stranger", "is not a Lease"},
		{"another object", http.StatusOK, `{"kind":"stranger"}`, "is not a Lease"},
		{"far too much", http.StatusOK, strings.Repeat("stranger", 9<<20), "larger than 64 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			config := &rest.Config{Host: "https://user:hunter2@kubernetes.example.com", Transport: answer{c.status, c.body}}
			candidate := newOffice(t).candidate("a")
			var got error
			candidate.Tried = func(err error) { got = err; cancel() }
			electorOf(t, config, "a").Run(ctx, candidate)
			if got == nil || !strings.Contains(got.Error(), c.want) || !strings.Contains(got.Error(), "default/issuer") {
				t.Errorf("error %v, want %q", got, c.want)
			}
			for _, secret := range []string{"stranger", "hunter2"} {
				if got != nil && strings.Contains(got.Error(), secret) {
					t.Errorf("error %v", got)
				}
			}
		})
	}
}

// answer is what a server says to everything.
type answer struct {
	status int
	body   string
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	header := http.Header{"Location": {"https://stranger.example.com/"}} // which only a redirect means
	return &http.Response{StatusCode: a.status, Header: header, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}
