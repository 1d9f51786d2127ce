package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"

	"oidc-publisher/internal/cli"
)

// store is a kind of target that can be made to fail.
type store struct {
	server *testserver.S3Server // nil for other kinds
	// target is what --to names; requests go through the proxy.
	target func(name string) string
	// public serves the target to anonymous readers, without the proxy.
	public func(name string) http.Handler
	proxy  *fake.FaultProxy // nil for a directory
	// isWrite reports whether a request stores an object.
	isWrite func(*http.Request) bool
}

// store starts a store of a kind: dir, s3 or gcs.
func (l *lab) store(kind string) store {
	l.t.Helper()
	switch kind {
	case "dir":
		in := func(name string) string { return filepath.Join(l.dir, name) }
		return store{target: in, public: func(name string) http.Handler { return fake.Website(in(name)) }}
	case "s3":
		server, _, _ := l.s3()
		proxy := fake.NewFaultProxy(l.t, server.Endpoint)
		return store{
			server:  server,
			target:  func(name string) string { return strings.Replace(s3Target(proxy.Endpoint), "cluster-a", name, 1) },
			public:  func(name string) http.Handler { return fake.Upstream(server.Endpoint + "/issuers/" + name) },
			proxy:   proxy,
			isWrite: fake.Method(http.MethodPut),
		}
	case "gcs":
		server, _, _ := l.gcs()
		proxy := fake.NewFaultProxy(l.t, server.Endpoint)
		l.env = append(l.env, "STORAGE_EMULATOR_HOST="+proxy.Host)
		return store{
			target:  func(name string) string { return "gs://issuers/" + name },
			public:  func(name string) http.Handler { return fake.Upstream(server.Endpoint + "/issuers/" + name) },
			proxy:   proxy,
			isWrite: fake.Method(http.MethodPost),
		}
	}
	l.t.Fatalf("no store of kind %q", kind)
	return store{}
}

// documents are what is public of a target, byte for byte; empty where absent.
type documents struct{ keys, configuration string }

func (l *lab) documents(public http.Handler) documents {
	l.t.Helper()
	return documents{l.object(public, discovery.JWKSPath), l.object(public, discovery.ConfigurationPath)}
}

func (l *lab) object(public http.Handler, name string) string {
	l.t.Helper()
	answer := httptest.NewRecorder()
	public.ServeHTTP(answer, httptest.NewRequestWithContext(l.t.Context(), http.MethodGet, "/"+name, nil))
	switch answer.Code {
	case http.StatusOK:
		return answer.Body.String()
	case http.StatusNotFound, http.StatusForbidden: // S3 tells a stranger nothing of what is absent
		return ""
	}
	l.t.Fatalf("%s: HTTP status %d", name, answer.Code)
	return ""
}

// wantWhole demands that both documents are public, belong together, and
// have exactly these keys, and that the memory beside them agrees.
func (l *lab) wantWhole(public http.Handler, issuer string, ids ...string) {
	l.t.Helper()
	got := l.documents(public)
	document, err := discovery.ParseDocument([]byte(got.configuration))
	if err != nil {
		l.t.Fatal(err)
	}
	if string(document.Issuer()) != issuer || document.JWKSURI() != issuer+"/openid/v1/jwks" {
		l.t.Errorf("document of %q with keys at %q", document.Issuer(), document.JWKSURI())
	}
	keys, err := discovery.ParseKeySet([]byte(got.keys))
	if err != nil {
		l.t.Fatal(err)
	}
	wantList(l.t, "public keys", sorted(keys.IDs()...), sorted(ids...)...)
	var memory struct {
		Probe string
		Keys  []struct {
			KID string
			JWK json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(l.object(public, publish.StateName)), &memory); err != nil {
		l.t.Fatal(err)
	}
	var remembered []string
	for _, key := range memory.Keys {
		if key.JWK != nil {
			remembered = append(remembered, key.KID)
		}
	}
	wantList(l.t, "remembered keys", sorted(remembered...), sorted(ids...)...)
	if memory.Probe != "" {
		l.t.Error("the store's conditions are still in question")
	}
}

// TestManyPublishersAtOnce runs several processes against one target, two of
// them by one API server and one by another with other keys. Every other round
// is a first publication; in the rounds between the second API server has one
// more key.
func TestManyPublishersAtOnce(t *testing.T) {
	t.Parallel()
	for kind, rounds := range map[string]int{"dir": 20, "s3": 6, "gcs": 6} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			first, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256"})
			second, secondKubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES384", SameCluster: first})
			s := l.store(kind)
			for round := range rounds {
				name := fmt.Sprintf("target-%d", round/2)
				l.internet.Route("issuer.example.com", routed(s.public(name)))
				if round%2 == 1 {
					if _, err := second.AddKey("ES256"); err != nil {
						t.Fatal(err)
					}
				}
				var publishers []*running
				for _, config := range []string{kubeconfig, secondKubeconfig, kubeconfig} {
					publishers = append(publishers, l.start(nil, "publish", "--kubeconfig", config, "--to", s.target(name)))
				}
				for i, publisher := range publishers {
					if got := publisher.wait(); got.code != cli.ExitDone {
						t.Errorf("round %d: publisher %d: exit code %d\n%s%s", round, i, got.code, got.stdout, got.stderr)
					}
				}
				l.wantWhole(s.public(name), labIssuer, append(first.KeyIDs(), second.KeyIDs()...)...)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// scene is a publication that writes all three objects.
type scene struct {
	*lab
	store
	api  *fake.APIServer
	name string // of the target
	args []string
}

// everyWrite tries something with the first, the second and each later write
// of a first publication (the probe of the store's conditions among them), and
// with those of a rotation, until try finds that there are no more.
func everyWrite(t *testing.T, try func(s scene, n int) (noMore bool)) {
	for _, kind := range []string{"s3", "gcs"} {
		for when, least := range map[string]int{"first": 7, "rotation": 3} {
			t.Run(kind+" "+when, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, kind)
				if when == "rotation" {
					s.publish(s.args...)
				}
				for n := 1; ; n++ {
					if when == "first" {
						s.move(fmt.Sprintf("first-%d", n))
					} else {
						s.rotate(n)
					}
					noMore := try(s, n)
					if t.Failed() {
						t.Fatalf("that was write %d", n)
					}
					if noMore && n <= least {
						t.Errorf("%d writes, want %d or more", n-1, least)
					}
					if noMore {
						return
					}
				}
			})
		}
	}
}

func newScene(t *testing.T, kind string) scene {
	t.Helper()
	l := newLab(t)
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256"})
	s := scene{lab: l, store: l.store(kind), api: api}
	s.args = []string{"--kubeconfig", kubeconfig, "--grace", "0", "--log-level", "debug", "--to", ""}
	s.move("target")
	return s
}

// move goes on with another target.
func (s *scene) move(name string) {
	s.name = name
	s.args[len(s.args)-1] = s.target(name)
	s.internet.Route("issuer.example.com", routed(s.public(name)))
}

// rotate replaces the key by one of another algorithm, which changes the
// document too.
func (s scene) rotate(n int) {
	s.t.Helper()
	if _, err := s.api.Replace([]string{"ES256", "ES384"}[n%2]); err != nil {
		s.t.Fatal(err)
	}
}

// wantHealed demands that the next run succeeds and the one after it has
// nothing left to do.
func (s scene) wantHealed() {
	s.t.Helper()
	s.publish(s.args...)
	s.wantWhole(s.public(s.name), labIssuer, s.api.KeyIDs()...)
	s.wantIdle()
}

func (s scene) wantIdle() {
	s.t.Helper()
	if again := s.publish(s.args...); again.Changed {
		s.t.Errorf("the next run wrote %q", again.Targets[0].Written)
	}
}

// TestLostAcknowledgement: the store has written and the answer is lost.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	everyWrite(t, func(s scene, n int) bool {
		writes := 0
		s.proxy.Inject(1, func(r *http.Request) bool { return s.isWrite(r) && s.count(&writes) == n }, fake.LoseAck)
		s.publish(s.args...)
		s.proxy.Clear()
		s.wantWhole(s.public(s.name), labIssuer, s.api.KeyIDs()...)
		s.wantIdle()
		return writes < n
	})
}

func (store) count(writes *int) int { *writes++; return *writes }

// TestOutage: from some write on the store is gone, that write done or not.
// Documents never point to keys that are not there, and never change before
// the keys did.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, atLast := range map[string]fake.ProxyFault{"before the write": fake.Cut, "after the write": fake.LoseAck} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyWrite(t, func(s scene, n int) bool {
				before := s.documents(s.public(s.name))
				writes := 0
				s.proxy.Inject(1, func(r *http.Request) bool { return s.isWrite(r) && s.count(&writes) == n }, atLast)
				s.proxy.Inject(math.MaxInt, func(*http.Request) bool { return writes >= n }, fake.Cut)
				// One attempt of the S3 client: its pauses would make this test long.
				got := s.runWith([]string{"AWS_MAX_ATTEMPTS=1"}, append([]string{"publish", "--timeout", "1500ms"}, s.args...)...)
				s.proxy.Clear()
				during := s.documents(s.public(s.name))
				failed := got.code == cli.ExitFailed && strings.Contains(got.stderr, s.target(s.name)+": ") && strings.Contains(got.stderr, "no answer")
				if writes >= n && !failed {
					s.t.Errorf("exit code %d, want %d and a word on the store\n%s", got.code, cli.ExitFailed, got.stderr)
				}
				s.wantHealed()
				after := s.documents(s.public(s.name))
				if !slices.Contains([]documents{before, {after.keys, before.configuration}, after}, during) {
					s.t.Errorf("half published: %+v\nbefore: %+v\nafter: %+v", during, before, after)
				}
				return got.code == cli.ExitDone
			})
		})
	}
}

// TestStoreRefuses: the response of the store, the error that it causes, and that
// nothing public changes.
func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	answer := func(status int, header http.Header, body string) func(*testing.T, *scene) {
		return func(_ *testing.T, s *scene) {
			s.proxy.Inject(math.MaxInt, func(*http.Request) bool { return true }, fake.Answer(status, header, body))
		}
	}
	silent := func(_ *testing.T, s *scene) {
		s.proxy.Inject(math.MaxInt, func(*http.Request) bool { return true }, fake.Delay(time.Hour))
	}
	gone := func(_ *testing.T, s *scene) { s.proxy.Down() }
	noBucket := func(_ *testing.T, s *scene) {
		to := &s.args[len(s.args)-1]
		*to = strings.Replace(*to, "//issuers", "//nowhere", 1)
	}
	credentials := func(key, secret string) func(*testing.T, *scene) {
		return func(_ *testing.T, s *scene) {
			s.env = append(s.env, "AWS_ACCESS_KEY_ID="+key, "AWS_SECRET_ACCESS_KEY="+secret)
			if secret != "" {
				s.secrets = append(s.secrets, secret)
			}
		}
	}
	// The S3 client tries three times, with pauses of seconds, before it says
	// why; the other tries until the time is over.
	const long, short = 30 * time.Second, 8 * time.Second
	for name, test := range map[string]struct {
		kind    string
		timeout time.Duration
		spoil   func(*testing.T, *scene)
		want    []string
	}{
		"s3 stranger": {"s3", long, func(t *testing.T, s *scene) {
			credentials("stranger", s.server.CreateUser(t, "stranger"))(t, s)
		}, []string{"access denied", "s3:GetObject", "arn:aws:s3:::issuers/target/*"}},
		"s3 wrong secret":   {"s3", long, credentials("owner", "not-the-secret"), []string{"AWS credentials were refused (SignatureDoesNotMatch)", "renew"}},
		"s3 no credentials": {"s3", long, credentials("", ""), []string{"no AWS credentials", "AWS_ACCESS_KEY_ID"}},
		"s3 no bucket":      {"s3", long, noBucket, []string{"bucket nowhere does not exist", "create it first"}},
		"s3 wrong region": {"s3", long, answer(http.StatusMovedPermanently, http.Header{"X-Amz-Bucket-Region": {"eu-central-1"}},
			"<Error><Code>PermanentRedirect</Code></Error>"), []string{"is in region eu-central-1, not us-east-1", "?region=eu-central-1"}},
		"s3 overloaded":  {"s3", long, answer(http.StatusServiceUnavailable, nil, "<Error><Code>SlowDown</Code></Error>"), []string{"slow down", "try again later"}},
		"s3 silent":      {"s3", short, silent, []string{"no answer in time"}},
		"s3 gone":        {"s3", long, gone, []string{"no answer", "connection refused"}},
		"gcs stranger":   {"gcs", short, answer(http.StatusForbidden, nil, `{"error": {"code": 403}}`), []string{"access denied", "roles/storage.objectUser", "bucket issuers"}},
		"gcs no bucket":  {"gcs", short, noBucket, []string{"bucket nowhere does not exist", "create it first"}},
		"gcs overloaded": {"gcs", short, answer(http.StatusServiceUnavailable, nil, ""), []string{"HTTP status 503", "try again later"}},
		"gcs silent":     {"gcs", short, silent, []string{"no answer in time"}},
		"gcs gone":       {"gcs", short, gone, []string{"no answer", "connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, test.kind)
			s.publish(s.args...)
			before := s.documents(s.public(s.name))
			s.rotate(1)
			spoiled := s
			spoiled.lab, spoiled.args = s.in(t), slices.Clone(s.args)
			test.spoil(t, &spoiled)

			begun := time.Now()
			got := spoiled.must(cli.ExitFailed, append([]string{"publish", "--timeout", test.timeout.String()}, spoiled.args...)...)
			if took := time.Since(begun); took > test.timeout+10*time.Second {
				t.Errorf("--timeout %v took %v", test.timeout, took)
			}
			for _, want := range append(test.want, spoiled.args[len(s.args)-1]) {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("the error does not say %q:\n%s", want, got.stderr)
				}
			}
			if after := s.documents(s.public(s.name)); after != before {
				t.Errorf("what is public changed from %+v to %+v", before, after)
			}
		})
	}
}

// TestStoreIgnoresConditions: some S3 clones accept conditional writes and
// write regardless. That is found out before any document is published, every
// time.
func TestStoreIgnoresConditions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer})
	server := testserver.S3rver(t)
	server.CreateBucket(t, "issuers")
	l.env = append(l.env, "AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey)
	for _, run := range []string{"first", "second"} {
		got := l.must(cli.ExitFailed, "publish", "--kubeconfig", kubeconfig, "--to", s3Target(server.Endpoint))
		if !strings.Contains(got.stderr, publish.ErrUnconditional.Error()) || !strings.Contains(got.stderr, "Use a store with conditional writes") {
			t.Errorf("the %s run says %s", run, got.stderr)
		}
		for _, name := range []string{discovery.JWKSPath, discovery.ConfigurationPath} {
			input := s3.GetObjectInput{Bucket: aws.String("issuers"), Key: aws.String("cluster-a/" + name)}
			if _, err := server.Client().GetObject(t.Context(), &input); err == nil {
				t.Errorf("after the %s run %s is there", run, name)
			}
		}
	}
}
