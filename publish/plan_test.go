package publish_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

const issuer = "https://issuer.example.com/prefix"

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// jwks makes a key set of new EC keys; keys of one name are the same within a test.
type keyring map[string]string

func (r keyring) key(id string) string {
	if r[id] == "" {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		raw, err := jose.JSONWebKey{Key: &private.PublicKey, KeyID: id, Algorithm: "ES256", Use: "sig"}.MarshalJSON()
		if err != nil {
			panic(err)
		}
		r[id] = string(raw)
	}
	return r[id]
}

func (r keyring) jwks(ids ...string) string {
	var keys []string
	for _, id := range ids {
		keys = append(keys, r.key(id))
	}
	return `{"keys":[` + strings.Join(keys, ",") + `]}`
}

// snapshot is what a cluster with these keys answers.
func (r keyring) snapshot(ids ...string) discovery.Snapshot {
	document, err := discovery.ParseDocument(fmt.Appendf(nil, `{"issuer":%q,"jwks_uri":"https://192.0.2.7:6443/openid/v1/jwks","x":1}`, issuer))
	if err != nil {
		panic(err)
	}
	keys, err := discovery.ParseKeySet([]byte(r.jwks(ids...)))
	if err != nil {
		panic(err)
	}
	return discovery.Snapshot{Document: document, Keys: keys, Cluster: []string{"uid:one", "ca:one"}}
}

// store is a backend reduced to what a plan sees: it applies a plan's writes.
type store struct {
	t       *testing.T
	objects map[string]publish.Object
	version int
}

func newStore(t *testing.T) *store { return &store{t: t, objects: map[string]publish.Object{}} }

func (s *store) held() publish.Held {
	get := func(name string) *publish.Object {
		if object, ok := s.objects[name]; ok {
			return &object
		}
		return nil
	}
	return publish.Held{State: get(publish.StateName), Keys: get(discovery.JWKSPath), Document: get(discovery.ConfigurationPath)}
}

func (s *store) put(name, body string) {
	s.version++
	s.objects[name] = publish.Object{Name: name, Body: []byte(body), Version: fmt.Sprint(s.version), BytesOnly: true}
}

// apply carries out a plan that must not be refused, checking its preconditions.
func (s *store) apply(plan publish.Plan) publish.Plan {
	s.t.Helper()
	if err := plan.Refused(); err != nil {
		s.t.Fatalf("refused: %v", err)
	}
	for _, write := range plan.Writes {
		version, wantsOne := write.Precondition.Version()
		held, exists := s.objects[write.Object.Name]
		if wantsOne != exists || held.Version != version {
			s.t.Fatalf("%s: precondition %q, held is %q", write.Object.Name, version, held.Version)
		}
		s.version++
		object := write.Object
		object.Version = fmt.Sprint(s.version)
		s.objects[object.Name] = object
	}
	return plan
}

func (s *store) plan(snapshot discovery.Snapshot, policy publish.Policy, after time.Duration) publish.Plan {
	return publish.NewPlan(s.held(), snapshot, policy, start.Add(after))
}

func (s *store) public() []string {
	s.t.Helper()
	keys, err := discovery.ParseKeySet(s.objects[discovery.JWKSPath].Body)
	if err != nil {
		s.t.Fatalf("public keys: %v", err)
	}
	return keys.IDs()
}

func wantIDs(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

var day = publish.Policy{Grace: 24 * time.Hour}

func TestFirstPublication(t *testing.T) {
	r, s := keyring{}, newStore(t)
	plan := s.apply(s.plan(r.snapshot("b", "a"), day, 0))

	var order []string
	for _, write := range plan.Writes {
		order = append(order, write.Object.Name)
	}
	wantIDs(t, "order of writes", order, publish.StateName, discovery.JWKSPath, discovery.ConfigurationPath)
	wantIDs(t, "added", plan.Changes.Added, "a", "b")

	keys, document := s.objects[discovery.JWKSPath], s.objects[discovery.ConfigurationPath]
	if got, want := string(keys.Body), r.jwks("a", "b"); got != want {
		t.Errorf("keys\n%s\nwant\n%s", got, want)
	}
	if keys.ContentType != "application/jwk-set+json" || keys.CacheControl != "public, max-age=60" {
		t.Errorf("keys are %q with %q", keys.ContentType, keys.CacheControl)
	}
	if want := fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%s/openid/v1/jwks","x":1}`, issuer, issuer); string(document.Body) != want {
		t.Errorf("document\n%s\nwant\n%s", document.Body, want)
	}
	if document.ContentType != "application/json" || document.CacheControl == "" {
		t.Errorf("the document is %q with %q", document.ContentType, document.CacheControl)
	}
	if state := s.objects[publish.StateName]; state.CacheControl != "no-store" {
		t.Errorf("the memory may be cached: %q", state.CacheControl)
	}
}

func TestSecondPassWritesNothing(t *testing.T) {
	r, s := keyring{}, newStore(t)
	s.apply(s.plan(r.snapshot("a", "b"), day, 0))
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		if plan := s.plan(r.snapshot(order...), day, time.Hour); len(plan.Writes) > 0 || plan.Refused() != nil {
			t.Errorf("listed as %v: writes %v, refused %v", order, plan.Writes, plan.Refused())
		}
	}
}

// TestDrift: whatever was done to the public objects, one pass restores them.
func TestDrift(t *testing.T) {
	r := keyring{}
	for name, edit := range map[string]func(*store){
		"keys deleted":         func(s *store) { delete(s.objects, discovery.JWKSPath) },
		"keys damaged":         func(s *store) { s.put(discovery.JWKSPath, "<html>") },
		"keys emptied":         func(s *store) { s.put(discovery.JWKSPath, `{"keys":[]}`) },
		"a foreign key added":  func(s *store) { s.put(discovery.JWKSPath, r.jwks("a", "b", "evil")) },
		"a key removed":        func(s *store) { s.put(discovery.JWKSPath, r.jwks("a")) },
		"document deleted":     func(s *store) { delete(s.objects, discovery.ConfigurationPath) },
		"document edited":      func(s *store) { s.put(discovery.ConfigurationPath, `{"issuer":"https://evil.example.com"}`) },
		"content type changed": func(s *store) { changeType(s, discovery.JWKSPath) },
		"everything public":    func(s *store) { delete(s.objects, discovery.JWKSPath); delete(s.objects, discovery.ConfigurationPath) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.apply(s.plan(r.snapshot("a", "b"), day, 0))
			s.apply(s.plan(r.snapshot("b"), day, time.Hour)) // a is in its grace period period
			keys, document := string(s.objects[discovery.JWKSPath].Body), string(s.objects[discovery.ConfigurationPath].Body)
			edit(s)
			s.apply(s.plan(r.snapshot("b"), day, 2*time.Hour))
			if got := string(s.objects[discovery.JWKSPath].Body); got != keys {
				t.Errorf("keys\n%s\nwere\n%s", got, keys)
			}
			if got := string(s.objects[discovery.ConfigurationPath].Body); got != document {
				t.Errorf("document\n%s\nwas\n%s", got, document)
			}
			if got := s.objects[discovery.JWKSPath].ContentType; got != "application/jwk-set+json" && got != "" {
				t.Errorf("content type %q", got)
			}
		})
	}
}

func changeType(s *store, name string) {
	object := s.objects[name]
	object.ContentType = "text/plain"
	s.objects[name] = object
}

// TestLifeOfKeys walks through rotations hour by hour.
func TestLifeOfKeys(t *testing.T) {
	type step struct {
		hour    int
		cluster []string
		policy  publish.Policy
		public  []string
	}
	revoke := func(id string) publish.Policy { p := day; p.Revoke = []string{id}; return p }
	for name, steps := range map[string][]step{
		"the official rotation": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"a", "b"}, day, []string{"a", "b"}},
			{9, []string{"b"}, day, []string{"a", "b"}},
			{32, []string{"b"}, day, []string{"a", "b"}},
			{33, []string{"b"}, day, []string{"b"}},
		},
		"the blunt rotation": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"b"}, day, []string{"a", "b"}},
			{24, []string{"b"}, day, []string{"a", "b"}},
			{25, []string{"b"}, day, []string{"b"}},
		},
		"a half-rolled control plane answers in turns": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"b"}, day, []string{"a", "b"}},
			{2, []string{"a"}, day, []string{"a", "b"}},
			{26, []string{"b"}, day, []string{"a", "b"}}, // a was last listed at 2 and retires now
			{27, []string{"a"}, day, []string{"a", "b"}}, // b in turn
			{50, []string{"a"}, day, []string{"a", "b"}},
			{51, []string{"a"}, day, []string{"a"}},
		},
		"nobody looked for a week": {
			{0, []string{"a"}, day, []string{"a"}},
			{168, []string{"b"}, day, []string{"a", "b"}}, // its last token may be an hour old
			{192, []string{"b"}, day, []string{"b"}},
		},
		"no grace": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"b"}, publish.Policy{}, []string{"b"}},
		},
		"a shorter grace counts from the same time": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"b"}, day, []string{"a", "b"}},
			{4, []string{"b"}, publish.Policy{Grace: 3 * time.Hour}, []string{"b"}},
		},
		"revoked after a blunt rotation": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"b"}, day, []string{"a", "b"}},
			{2, []string{"b"}, revoke("a"), []string{"b"}},
			{3, []string{"b"}, revoke("a"), []string{"b"}}, // revoking it again is not an error
			{4, []string{"b"}, day, []string{"b"}},
		},
		"revoked while the cluster lists it": {
			{0, []string{"a", "b"}, day, []string{"a", "b"}},
			{1, []string{"a", "b"}, revoke("a"), []string{"b"}},
			{2, []string{"a", "b"}, day, []string{"b"}}, // it stays revoked
			{99, []string{"a", "b"}, day, []string{"b"}},
		},
		"a dropped key comes back": {
			{0, []string{"a"}, day, []string{"a"}},
			{1, []string{"b"}, day, []string{"a", "b"}},
			{30, []string{"b"}, day, []string{"b"}},
			{31, []string{"a", "b"}, day, []string{"a", "b"}},
		},
		"a stamp of a clock that was ahead is lowered": {
			{510, []string{"a"}, day, []string{"a"}},
			{520, []string{"b"}, day, []string{"a", "b"}},
			{20, []string{"b"}, day, []string{"a", "b"}},
			{43, []string{"b"}, day, []string{"a", "b"}},
			{44, []string{"b"}, day, []string{"b"}},
		},
		"no grace drops a key whatever its stamp": {
			{510, []string{"a"}, day, []string{"a"}},
			{520, []string{"b"}, day, []string{"a", "b"}},
			{20, []string{"b"}, publish.Policy{}, []string{"b"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := keyring{}, newStore(t)
			for _, step := range steps {
				plan := s.apply(s.plan(r.snapshot(step.cluster...), step.policy, time.Duration(step.hour)*time.Hour))
				if got := s.public(); !slices.Equal(got, step.public) {
					t.Fatalf("hour %d: cluster has %v, public are %v, want %v", step.hour, step.cluster, got, step.public)
				}
				if !slices.Equal(plan.Changes.Published, step.public) {
					t.Errorf("hour %d: the plan says %v is public", step.hour, plan.Changes.Published)
				}
			}
		})
	}
}

// TestAClockThatIsAhead: this machine's clock is ahead of the API server's. No
// key is dropped before its grace period is over by both clocks, because the
// times of tokens come from the API server.
func TestAClockThatIsAhead(t *testing.T) {
	const warning = "clock is ahead"
	for name, tc := range map[string]struct {
		hour    int // after the key was retired, by this machine's clock
		ahead   time.Duration
		unsaid  bool // the source has no clock
		policy  publish.Policy
		dropped bool
		warns   bool
	}{
		"right":                        {hour: 25, policy: day, dropped: true},
		"a moment ahead":               {hour: 25, ahead: 30 * time.Second, policy: day, dropped: true},
		"a day ahead":                  {hour: 25, ahead: 24 * time.Hour, policy: day, warns: true},
		"a day ahead, over by both":    {hour: 49, ahead: 24 * time.Hour, policy: day, dropped: true, warns: true},
		"a day ahead of nobody":        {hour: 25, ahead: 24 * time.Hour, unsaid: true, policy: day, dropped: true},
		"a day ahead, and no grace":    {hour: 25, ahead: 24 * time.Hour, policy: publish.Policy{}, dropped: true},
		"a day ahead, and revoked":     {hour: 25, ahead: 24 * time.Hour, policy: publish.Policy{Grace: day.Grace, Revoke: []string{"a"}}, dropped: true, warns: true},
		"a day behind":                 {hour: 23, ahead: -24 * time.Hour, policy: day},
		"a day behind, over by itself": {hour: 25, ahead: -24 * time.Hour, policy: day, dropped: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := keyring{}, newStore(t)
			s.apply(s.plan(r.snapshot("a"), day, -time.Hour))
			s.apply(s.plan(r.snapshot("b"), day, 0))
			snapshot, passed := r.snapshot("b"), time.Duration(tc.hour)*time.Hour
			if !tc.unsaid {
				snapshot.Time = start.Add(passed - tc.ahead)
			}
			plan := s.apply(s.plan(snapshot, tc.policy, passed))
			if dropped := slices.Contains(plan.Changes.Dropped, "a"); dropped != tc.dropped {
				t.Errorf("dropped: %t", dropped)
			}
			if warns := strings.Contains(strings.Join(plan.Warnings, "\n"), warning); warns != tc.warns {
				t.Errorf("warnings: %q", plan.Warnings)
			}
		})
	}
}

// TestAClockThatIsBehind: this machine's clock is behind the API server's. That
// shortens no grace period, which a publisher with the right clock would then
// end too early.
func TestAClockThatIsBehind(t *testing.T) {
	for name, tc := range map[string]struct {
		behind time.Duration
		warns  bool
	}{
		"a moment": {behind: 30 * time.Second},
		"a day":    {behind: 24 * time.Hour, warns: true},
		"a year":   {behind: 365 * 24 * time.Hour, warns: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := keyring{}, newStore(t)
			s.apply(s.plan(r.snapshot("a"), day, -time.Hour))
			at := func(passed time.Duration) discovery.Snapshot {
				snapshot := r.snapshot("b")
				snapshot.Time = start.Add(passed)
				return snapshot
			}
			plan := s.apply(s.plan(at(0), day, -tc.behind))
			if warns := strings.Contains(strings.Join(plan.Warnings, "\n"), "clock is behind"); warns != tc.warns {
				t.Errorf("warnings: %q", plan.Warnings)
			}
			for _, next := range []struct {
				passed  time.Duration
				dropped bool
			}{{0, false}, {23 * time.Hour, false}, {25 * time.Hour, true}} {
				plan := s.plan(at(next.passed), day, next.passed)
				if dropped := slices.Contains(plan.Changes.Dropped, "a"); dropped != next.dropped {
					t.Errorf("after %v, by the right clock, dropped: %t", next.passed, dropped)
				}
			}
		})
	}
}

// TestGraceByAllClocks: a grace period starts by the latest of all clocks and
// ends by the earliest.
func TestGraceByAllClocks(t *testing.T) {
	r, s := keyring{}, newStore(t)
	s.apply(s.plan(r.snapshot("a"), day, -time.Hour))
	at := func(earliest, latest time.Duration) discovery.Snapshot {
		snapshot := r.snapshot("b")
		snapshot.Time, snapshot.LatestTime = start.Add(earliest), start.Add(latest)
		return snapshot
	}
	plan := s.apply(s.plan(at(-2*time.Hour, 3*time.Hour), day, 0))
	if got, want := plan.GraceEnds["a"], start.Add(27*time.Hour); !got.Equal(want) {
		t.Errorf("it ends at %v, want %v", got, want)
	}
	if got := strings.Join(plan.Warnings, "\n"); !strings.Contains(got, "clock is ahead") || !strings.Contains(got, "clock is behind") {
		t.Errorf("warnings %q", got)
	}
	for _, tc := range []struct {
		earliest, latest, local time.Duration
		dropped                 bool
	}{
		{26 * time.Hour, 30 * time.Hour, 28 * time.Hour, false},
		{28 * time.Hour, 30 * time.Hour, 26 * time.Hour, false},
		{27 * time.Hour, 30 * time.Hour, 28 * time.Hour, true},
	} {
		plan := s.plan(at(tc.earliest, tc.latest), day, tc.local)
		if got := slices.Contains(plan.Changes.Dropped, "a"); got != tc.dropped {
			t.Errorf("at %+v, dropped: %t", tc, got)
		}
	}
}

func TestDiff(t *testing.T) {
	r, s := keyring{}, newStore(t)
	s.apply(s.plan(r.snapshot("a", "b"), day, 0))
	s.apply(s.plan(r.snapshot("b"), day, time.Hour))
	plan := s.apply(s.plan(r.snapshot("c"), day, 25*time.Hour))
	wantIDs(t, "published", plan.Changes.Published, "b", "c")
	wantIDs(t, "added", plan.Changes.Added, "c")
	wantIDs(t, "retired", plan.Changes.Retired, "b")
	wantIDs(t, "dropped", plan.Changes.Dropped, "a")
	if got, want := plan.GraceEnds["b"], start.Add(49*time.Hour); !got.Equal(want) {
		t.Errorf("b's grace ends at %v, want %v", got, want)
	}
}

func TestRefusals(t *testing.T) {
	r := keyring{}
	other := func(ids ...string) discovery.Snapshot {
		snapshot := r.snapshot(ids...)
		snapshot.Cluster = []string{"uid:two", "ca:one"} // clusters may share a CA
		return snapshot
	}
	nameless := func(ids ...string) discovery.Snapshot {
		snapshot := r.snapshot(ids...)
		snapshot.Cluster = nil
		return snapshot
	}
	signing := func(kid, iss string) discovery.Snapshot {
		snapshot := r.snapshot("a")
		snapshot.Canary = &discovery.Canary{KeyID: kid, Algorithm: "ES256", Issuer: iss}
		return snapshot
	}
	swapped := keyring{}
	swapped.key("a")
	owned := publish.Policy{Grace: time.Hour, Owner: "team-a"}
	for _, tc := range []struct {
		name     string
		before   func(*store)
		snapshot discovery.Snapshot
		policy   publish.Policy
		fault    string // "" if it must be allowed
	}{
		{"another issuer is wanted", nil, r.snapshot("a"), publish.Policy{Issuer: issuer + "/"}, "--service-account-issuer=" + issuer + "/"},
		{"another issuer, ahead of the change", nil, r.snapshot("a"), publish.Policy{Issuer: issuer + "/", AheadOfIssuerChange: true}, ""},
		{"the same issuer is wanted", nil, r.snapshot("a"), publish.Policy{Issuer: issuer}, ""},

		{"a second cluster", published(r, "a"), other("b"), day, `it belongs to "uid:one", and this is "uid:two"`},
		{"a second cluster with the same key", published(r, "a"), other("a"), day, `belongs to "uid:one"`},
		{"files that take over leave the cluster outside", takenOver(r), r.snapshot("a"), day, `belongs to a source without a name`},
		{"a second cluster takes over", published(r, "a"), other("b"), publish.Policy{TakeOver: true}, ""},
		{"the CA was replaced, the UID is unreadable, a key is known", published(r, "a"), cluster(r.snapshot("a", "b"), "ca:new"), day, ""},
		{"the CA was replaced, the UID is unreadable, no key is known", published(r, "a"), cluster(r.snapshot("b"), "ca:new"), day, `this is "ca:new"`},
		{"the CA was replaced, the UID is the same", published(r, "a"), cluster(r.snapshot("b"), "uid:one", "ca:new"), day, ""},
		{"files with a known key", published(r, "a"), nameless("a"), day, ""},
		{"files without a known key", published(r, "a"), nameless("b"), day, `none of its keys ("a") is among those given`},
		{"somebody else's keys and no memory", foreign(r, "x", "y"), r.snapshot("a"), day, `keys of another issuer ("x", "y")`},
		{"our keys and no memory", foreign(r, "x", "a"), r.snapshot("a"), day, ""},
		{"damaged keys and no memory", func(s *store) { s.put(discovery.JWKSPath, "{}") }, r.snapshot("a"), day, "belongs to another cluster"},
		{"another owner's name", publishedBy(r, owned, "a"), r.snapshot("a"), publish.Policy{Owner: "team-b"}, `belongs to "team-a", and this is "team-b"`},
		{"the owner's name in a new cluster", publishedBy(r, owned, "a"), other("b"), owned, ""},
		{"the owner's cluster without the name", publishedBy(r, owned, "a"), r.snapshot("b"), day, ""},
		{"the cluster gets a name", published(r, "a"), r.snapshot("b"), owned, ""},
		{"a second cluster claims the name it never had", published(r, "a"), other("b"), owned, `belongs to "uid:one"`},

		{"another issuer's target", published(r, "a"), issuerOf(r, "https://other.example.com"), day, "publishes the issuer"},
		{"damaged memory", func(s *store) { published(r, "a")(s); s.put(publish.StateName, "{") }, r.snapshot("a"), day, "is damaged"},
		{"damaged memory, taken over", func(s *store) { published(r, "a")(s); s.put(publish.StateName, "{") }, r.snapshot("a"), publish.Policy{TakeOver: true}, ""},
		{"memory of a newer program", func(s *store) { s.put(publish.StateName, `{"version":99}`) }, r.snapshot("a"), day, "newer oidc-publisher"},
		{"a key under another key's ID", published(r, "a"), swapped.snapshot("a"), day, `key "a": was seen with other key material`},

		{"revoking a key that this target never had", published(r, "a"), r.snapshot("a"), publish.Policy{Revoke: []string{"nope"}}, ""},
		{"another issuer's document and keys elsewhere", foreignDocument("https://other.example.com"), r.snapshot("a"), day, `names the issuer "https://other.example.com"`},
		{"another issuer's document and a key in common", func(s *store) { foreign(r, "a")(s); foreignDocument("https://other.example.com")(s) }, r.snapshot("a"), day, "other.example.com"},
		{"another issuer's document, taken over", foreignDocument("https://other.example.com"), r.snapshot("a"), publish.Policy{TakeOver: true}, ""},
		{"this issuer's document without keys", foreignDocument(issuer), r.snapshot("a"), day, ""},
		{"a document that is none", func(s *store) { s.put(discovery.ConfigurationPath, "<html>") }, r.snapshot("a"), day, "was not written by this tool"},
		{"told by its CA alone", publishedAs(r, []string{"ca:one"}, "a"), cluster(r.snapshot("b"), "ca:one"), day, ""},
		{"told by another CA", publishedAs(r, []string{"ca:one"}, "a"), cluster(r.snapshot("b"), "ca:two"), day, `it belongs to "ca:one"`},
		{"the UID was remembered through a run that could not read it", func(s *store) {
			published(r, "a")(s)
			s.apply(s.plan(cluster(r.snapshot("a"), "ca:one"), day, 0))
		}, other("b"), day, `it belongs to "uid:one"`},
		{"the owner's name was remembered through a run without it", func(s *store) {
			publishedBy(r, owned, "a")(s)
			published(r, "a")(s)
		}, r.snapshot("a"), publish.Policy{Owner: "team-b"}, `it belongs to "team-a"`},
		{"memory whose keys are not what it says", func(s *store) {
			published(r, "a")(s)
			state := s.objects[publish.StateName]
			s.put(publish.StateName, strings.Replace(string(state.Body), `"thumbprint": "`, `"thumbprint": "x`, 1))
		}, r.snapshot("a"), day, "is damaged"},
		{"revoking a key whose material was swapped", published(r, "a", "b"), swappedWith(r, swapped, "a", "b"), publish.Policy{Revoke: []string{"a"}}, ""},
		{"accepting a key whose material was swapped", published(r, "a"), swapped.snapshot("a"), publish.Policy{TakeOver: true}, ""},
		{"revoking the last key", published(r, "a"), r.snapshot("a"), publish.Policy{Revoke: []string{"a"}}, "no key would be left"},

		{"the signing key is listed", nil, signing("a", issuer), day, ""},
		{"the signing key is not listed", nil, signing("z", issuer), day, `signs tokens with key "z"`},
		{"tokens name another issuer", nil, signing("a", "https://other.example.com"), day, "a new token has the issuer"},
		{"tokens name another issuer, ahead of the change", nil, signing("a", issuer), publish.Policy{Issuer: "https://new.example.com", AheadOfIssuerChange: true}, ""},
		{"the signing key is retired", func(s *store) { published(r, "z")(s) }, signing("z", issuer), day, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			if tc.before != nil {
				tc.before(s)
			}
			plan := s.plan(tc.snapshot, tc.policy, time.Hour)
			err := plan.Refused()
			if tc.fault == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				s.apply(plan)
				return
			}
			if !errors.Is(err, publish.ErrRefused) || !strings.Contains(err.Error(), tc.fault) {
				t.Errorf("refusal %v, want %q in it", err, tc.fault)
			}
			if len(plan.Writes) > 0 {
				t.Errorf("a refused plan writes %v", plan.Writes)
			}
		})
	}
}

func published(r keyring, ids ...string) func(*store) { return publishedBy(r, day, ids...) }

func publishedBy(r keyring, policy publish.Policy, ids ...string) func(*store) {
	return func(s *store) { s.apply(s.plan(r.snapshot(ids...), policy, 0)) }
}

// takenOver is cluster one's target after a take-over by files with key x,
// which name no cluster.
func takenOver(r keyring) func(*store) {
	return func(s *store) {
		published(r, "a")(s)
		s.apply(s.plan(cluster(r.snapshot("x")), publish.Policy{Grace: day.Grace, TakeOver: true}, 0))
	}
}

func publishedAs(r keyring, names []string, ids ...string) func(*store) {
	return func(s *store) { s.apply(s.plan(cluster(r.snapshot(ids...), names...), day, 0)) }
}

// swappedWith lists the key of another ring under an ID of the first.
func swappedWith(r, other keyring, swapped, kept string) discovery.Snapshot {
	mixed := keyring{swapped: other.key(swapped), kept: r.key(kept)}
	return mixed.snapshot(swapped, kept)
}

// foreignDocument is a document as ccoctl writes it: its keys are elsewhere.
func foreignDocument(issuer string) func(*store) {
	return func(s *store) {
		s.put(discovery.ConfigurationPath, fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%s/keys.json"}`, issuer, issuer))
	}
}

// foreign leaves keys that were published by other means.
func foreign(r keyring, ids ...string) func(*store) {
	return func(s *store) { s.put(discovery.JWKSPath, r.jwks(ids...)) }
}

func cluster(snapshot discovery.Snapshot, names ...string) discovery.Snapshot {
	snapshot.Cluster = names
	return snapshot
}

func issuerOf(r keyring, issuer discovery.Issuer) discovery.Snapshot {
	snapshot := r.snapshot("a")
	snapshot.Document = snapshot.Document.WithIssuer(issuer)
	return snapshot
}

// TestAllRefusalsAreReported: the user can fix everything at once.
func TestAllRefusalsAreReported(t *testing.T) {
	r, s := keyring{}, newStore(t)
	foreign(r, "x")(s)
	snapshot := r.snapshot("a")
	snapshot.Canary = &discovery.Canary{KeyID: "z", Issuer: issuer}
	plan := s.plan(snapshot, publish.Policy{Issuer: "https://typo.example.com", Revoke: []string{"nope"}}, 0)
	if len(plan.Refusals) < 3 {
		t.Errorf("%d refusals: %v", len(plan.Refusals), plan.Refused())
	}
}

func TestAdoptionKeepsForeignKeysForTheirGrace(t *testing.T) {
	r, s := keyring{}, newStore(t)
	foreign(r, "old", "a")(s)
	s.apply(s.plan(r.snapshot("a"), day, 0))
	wantIDs(t, "at adoption", s.public(), "a", "old")
	s.apply(s.plan(r.snapshot("a"), day, 24*time.Hour))
	wantIDs(t, "after the grace", s.public(), "a")
}

// TestAlgorithmsOfRetiredKeysStayListed: relying parties accept no token whose
// algorithm the document does not list, so that list lives as long as the key.
func TestAlgorithmsOfRetiredKeysStayListed(t *testing.T) {
	r, s := keyring{}, newStore(t)
	snapshot := func(alg string, ids ...string) discovery.Snapshot {
		snapshot := r.snapshot(ids...)
		document, err := discovery.ParseDocument(fmt.Appendf(nil, `{"issuer":%q,"jwks_uri":"x","id_token_signing_alg_values_supported":[%q]}`, issuer, alg))
		if err != nil {
			t.Fatal(err)
		}
		snapshot.Document = document
		return snapshot
	}
	r["rsa"] = rsaKey
	listed := func() string { return string(s.objects[discovery.ConfigurationPath].Body) }
	s.apply(s.plan(snapshot("RS256", "rsa"), day, 0))
	s.apply(s.plan(snapshot("ES256", "ec"), day, time.Hour))
	if !strings.Contains(listed(), `["ES256","RS256"]`) {
		t.Errorf("in the grace: %s", listed())
	}
	s.apply(s.plan(snapshot("ES256", "ec"), day, 25*time.Hour))
	if !strings.Contains(listed(), `["ES256"]`) {
		t.Errorf("after the grace: %s", listed())
	}
}

// rsaKey is the example of RFC 7638 section 3.1.
const rsaKey = `{"kty":"RSA","kid":"rsa","alg":"RS256","e":"AQAB","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`

func TestTakeOverKeepsTheOthersKeysForTheirGrace(t *testing.T) {
	r, s := keyring{}, newStore(t)
	published(r, "a")(s)
	second := cluster(r.snapshot("b"), "uid:two", "ca:two")
	takeOver := publish.Policy{Grace: time.Hour, TakeOver: true}
	s.apply(s.plan(second, takeOver, 0))
	wantIDs(t, "after the take-over", s.public(), "a", "b")
	s.apply(s.plan(second, publish.Policy{Grace: time.Hour}, time.Hour))
	wantIDs(t, "after the grace", s.public(), "b")
	if err := s.plan(r.snapshot("a"), day, time.Hour).Refused(); err == nil {
		t.Error("the first cluster may take it back without asking")
	}
}

func TestRevokedSigningKeyIsNotRefused(t *testing.T) {
	r, s := keyring{}, newStore(t)
	snapshot := r.snapshot("a", "b")
	snapshot.Canary = &discovery.Canary{KeyID: "a", Issuer: issuer}
	s.apply(s.plan(snapshot, day, 0))
	plan := s.apply(s.plan(snapshot, publish.Policy{Revoke: []string{"a"}}, 0))
	wantIDs(t, "public", s.public(), "b")
	if !strings.Contains(strings.Join(plan.Warnings, "\n"), `key "a" is revoked and the cluster still lists it`) {
		t.Errorf("warnings %q", plan.Warnings)
	}
}

// TestMemoryIsBounded: key IDs that come and go for years do not accumulate.
func TestMemoryIsBounded(t *testing.T) {
	r, s := keyring{}, newStore(t)
	for i := range 150 {
		s.apply(s.plan(r.snapshot(fmt.Sprintf("k%03d", i)), publish.Policy{}, time.Duration(i)*time.Hour))
	}
	var state struct {
		Keys []struct {
			Kid string `json:"kid"`
			JWK string `json:"jwk"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(s.objects[publish.StateName].Body, &state); err != nil {
		t.Fatal(err)
	}
	if len(state.Keys) != 101 || state.Keys[0].Kid != "k149" || state.Keys[1].Kid != "k148" || state.Keys[1].JWK != "" {
		t.Errorf("%d keys are remembered, the first %v", len(state.Keys), state.Keys[:2])
	}
}

func TestTooManyKeys(t *testing.T) {
	r, s := keyring{}, newStore(t)
	ids := func(prefix string, n int) (ids []string) {
		for i := range n {
			ids = append(ids, fmt.Sprint(prefix, i))
		}
		return ids
	}
	s.apply(s.plan(r.snapshot(ids("a", 60)...), day, 0))
	err := s.plan(r.snapshot(ids("b", 60)...), day, time.Hour).Refused()
	if err == nil || !strings.Contains(err.Error(), "120 keys would be public") {
		t.Errorf("refusal %v", err)
	}
}

// TestRevokedKeyIsNeverForgotten: a hundred other keys come and go, and even a
// take-over happens.
func TestRevokedKeyIsNeverForgotten(t *testing.T) {
	r, s := keyring{}, newStore(t)
	s.apply(s.plan(r.snapshot("leaked", "a"), publish.Policy{Revoke: []string{"leaked"}}, 0))
	for i := range 150 {
		s.apply(s.plan(r.snapshot(fmt.Sprint("k", i)), publish.Policy{}, time.Duration(i+1)*time.Hour))
	}
	other := keyring{}
	s.apply(s.plan(swappedWith(r, other, "leaked", "a"), publish.Policy{TakeOver: true}, 1000*time.Hour))
	s.apply(s.plan(r.snapshot("leaked", "a"), day, 1001*time.Hour))
	wantIDs(t, "public", s.public(), "a")
}

func TestRevokingAKeyThatIsNotThereYet(t *testing.T) {
	r, s := keyring{}, newStore(t)
	plan := s.apply(s.plan(r.snapshot("a"), publish.Policy{Revoke: []string{"later"}}, 0))
	wantIDs(t, "unknown", plan.Unknown, "later")
	s.apply(s.plan(r.snapshot("a", "later"), day, time.Hour))
	wantIDs(t, "public", s.public(), "a")
}

// TestKeysKeepTheirBytes through retirement, whatever they contain.
func TestKeysKeepTheirBytes(t *testing.T) {
	r, s := keyring{}, newStore(t)
	odd := strings.Replace(r.key("odd"), "{", "{ \"note\":\"<&>\\u00e9\",\n\t", 1)
	r["odd"] = odd
	s.apply(s.plan(r.snapshot("odd"), day, 0))
	s.apply(s.plan(r.snapshot("a"), day, time.Hour))
	s.apply(s.plan(r.snapshot("a"), day, 2*time.Hour))
	if got := string(s.objects[discovery.JWKSPath].Body); !strings.Contains(got, odd) {
		t.Errorf("the retired key changed: %s", got)
	}
}

func TestDocumentAheadOfAnIssuerChange(t *testing.T) {
	r, s := keyring{}, newStore(t)
	s.apply(s.plan(r.snapshot("a"), publish.Policy{Issuer: "https://new.example.com", AheadOfIssuerChange: true}, 0))
	const want = `{"issuer":"https://new.example.com","jwks_uri":"https://new.example.com/openid/v1/jwks","x":1}`
	if got := string(s.objects[discovery.ConfigurationPath].Body); got != want {
		t.Errorf("document %s, want %s", got, want)
	}
}

func TestSigningWithARetiredKeyIsReported(t *testing.T) {
	r, s := keyring{}, newStore(t)
	published(r, "z")(s)
	snapshot := r.snapshot("a")
	snapshot.Canary = &discovery.Canary{KeyID: "z", Issuer: issuer}
	plan := s.apply(s.plan(snapshot, day, time.Hour))
	if !strings.Contains(strings.Join(plan.Warnings, " "), `signs tokens with key "z", which it no longer lists`) {
		t.Errorf("warnings %q", plan.Warnings)
	}
}

// TestTakeOverOfAnotherIssuer: its keys sign no token of this issuer, so they
// must never be trusted for it.
func TestTakeOverOfAnotherIssuer(t *testing.T) {
	takeOver := publish.Policy{Grace: day.Grace, TakeOver: true}
	for name, before := range map[string]func(keyring) func(*store){
		"with memory": func(r keyring) func(*store) {
			return func(s *store) { s.apply(s.plan(issuerOf(r, "https://other.example.com"), day, 0)) }
		},
		"without memory": func(r keyring) func(*store) {
			return func(s *store) { foreign(r, "a")(s); foreignDocument("https://other.example.com")(s) }
		},
	} {
		r, s := keyring{}, newStore(t)
		before(r)(s)
		s.apply(s.plan(r.snapshot("b"), takeOver, 0))
		wantIDs(t, name, s.public(), "b")
	}
}

// TestDriftIsReported: a repair removes the traces of the other writer.
func TestDriftIsReported(t *testing.T) {
	other := keyring{}
	for name, tc := range map[string]struct {
		public func(keyring) string
		want   string
		added  []string
	}{
		"a key too many": {func(r keyring) string { return r.jwks("a", "evil") }, `the public key "evil" was never the cluster's`, nil},
		"a key replaced": {func(keyring) string { return other.jwks("a") }, `the public key "a" was replaced`, []string{"a"}},
	} {
		r, s := keyring{}, newStore(t)
		published(r, "a")(s)
		s.put(discovery.JWKSPath, tc.public(r))
		plan := s.apply(s.plan(r.snapshot("a"), day, time.Hour))
		if !strings.Contains(strings.Join(plan.Warnings, " "), tc.want) {
			t.Errorf("%s: warnings %q", name, plan.Warnings)
		}
		wantIDs(t, name+": added", plan.Changes.Added, tc.added...)
		wantIDs(t, name, s.public(), "a")
	}
}
