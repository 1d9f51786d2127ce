package kube_test

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

const slicesPath = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

// controlPlane starts several servers of one cluster with the same keys.
func controlPlane(t *testing.T, options ...fake.APIServerOptions) []*fake.APIServer {
	t.Helper()
	first := embedded(t, options[0])
	all := []*fake.APIServer{first}
	for _, o := range options[1:] {
		o.SameCluster, o.Algorithm = first, "ES256"
		e := fake.StartAPIServer(t, o)
		e.ShareKeys(first)
		all = append(all, e)
	}
	return all
}

func allServers(t *testing.T, k fake.Kubeconfig) *kube.Source {
	t.Helper()
	return source(t, k, kube.Config{AllAPIServers: true})
}

func TestAllServersAgree(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 3)...)
	got := fetch(t, allServers(t, plane[0].Kubeconfig("publisher")))
	if !slices.Equal(got.Keys.IDs(), plane[0].KeyIDs()) || len(got.Warnings) != 0 || got.Canary == nil {
		t.Errorf("keys %v, canary %v, warnings %q", got.Keys.IDs(), got.Canary, got.Warnings)
	}
}

// TestAllServersClocks: both extremes are reported, and no Date of an answer that
// was kept in a cache.
func TestAllServersClocks(t *testing.T) {
	const (
		early = "Sat, 03 Jan 2026 04:05:06 GMT"
		late  = "Sun, 04 Jan 2026 04:05:06 GMT"
	)
	kept := []string{early, "30"} // Date and Age
	for name, tc := range map[string]struct {
		servers          [][]string
		earliest, latest string // "" for none
	}{
		"the first is early":  {[][]string{{early}, {late}}, early, late},
		"the second is early": {[][]string{{late}, {early}}, early, late},
		"the same":            {[][]string{{late}, {late}}, late, late},
		"the first was kept":  {[][]string{kept, {late}}, late, late},
		"the second was kept": {[][]string{{late}, kept}, late, late},
		"no date":             {[][]string{{"soon"}, {late}}, late, late},
		"none":                {[][]string{kept, kept}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			plane := controlPlane(t, make([]fake.APIServerOptions, len(tc.servers))...)
			for i, headers := range tc.servers {
				plane[i].Break("/openid/v1/jwks", func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Date", headers[0])
						if len(headers) > 1 {
							w.Header().Set("Age", headers[1])
						}
						next.ServeHTTP(w, r)
					})
				})
			}
			got := fetch(t, allServers(t, plane[0].Kubeconfig("publisher")))
			for date, want := range map[time.Time]string{got.Time: tc.earliest, got.LatestTime: tc.latest} {
				if want == "" && !date.IsZero() || want != "" && date.Format(http.TimeFormat) != want {
					t.Errorf("dates %v to %v, want %q and %q", got.Time, got.LatestTime, tc.earliest, tc.latest)
				}
			}
		})
	}
}

// TestAllServersMaxAge: the shortest max-age counts, and a server without one
// does not remove it.
func TestAllServersMaxAge(t *testing.T) {
	for name, tc := range map[string]struct {
		servers []string
		want    time.Duration
	}{
		"the first names none":  {[]string{"no-store", "max-age=60"}, time.Minute},
		"the second names none": {[]string{"max-age=60", ""}, time.Minute},
		"the shortest":          {[]string{"max-age=3600", "max-age=60"}, time.Minute},
		"none":                  {[]string{"", "no-cache"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			plane := controlPlane(t, make([]fake.APIServerOptions, len(tc.servers))...)
			for i, server := range plane {
				server.Break("/openid/v1/jwks", withCacheControl(tc.servers[i]))
			}
			if got := fetch(t, allServers(t, plane[0].Kubeconfig("publisher"))).MaxAge; got != tc.want {
				t.Errorf("max-age %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAllServersHalfRolled(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 2)...)
	old := plane[0].SigningKeyID()
	fresh, err := plane[1].Replace("RS256")
	if err != nil {
		t.Fatal(err)
	}
	got := fetch(t, allServers(t, plane[0].Kubeconfig("publisher")))
	for _, id := range []string{old, fresh} {
		if _, found := got.Keys.Lookup(id); !found {
			t.Errorf("key %q is lost", id)
		}
	}
	for i, missing := range []string{fresh, old} {
		want := fmt.Sprintf("API server %s does not publish %q", plane[i].Address(), missing)
		if !slices.ContainsFunc(got.Warnings, func(w string) bool { return strings.HasPrefix(w, want) }) {
			t.Errorf("%q is not in %q", want, got.Warnings)
		}
	}
}

func TestAllServersSigningKeyOfOneIsNotPublished(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 3)...)
	if _, err := plane[1].Rotate("ES256"); err != nil {
		t.Fatal(err)
	}
	plane[1].RemoveKey(plane[1].SigningKeyID())
	got := fetch(t, allServers(t, plane[0].Kubeconfig("publisher")))
	if got.Canary == nil || got.Canary.KeyID != plane[1].SigningKeyID() {
		t.Errorf("canary %+v, want key %q", got.Canary, plane[1].SigningKeyID())
	}
}

func TestAllServersIssuersDiffer(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 2)...)
	plane[1].SetIssuer("https://issuer.example.com/")
	wantError(t, allServers(t, plane[0].Kubeconfig("publisher")), "different issuers",
		plane[0].Address()+` has "https://issuer.example.com"`, plane[1].Address()+` has "https://issuer.example.com/"`, "--service-account-issuer")
}

func TestAllServersOneIsDown(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 3)...)
	s := allServers(t, plane[0].Kubeconfig("publisher"))
	plane[2].Stop()
	wantError(t, s, "API server "+plane[2].Address(), "can't connect")

	plane[2].Leave()
	if got := fetch(t, s); len(got.Warnings) != 0 {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestAllServersOneLeavesDuringTheFetch(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 3)...)
	s := allServers(t, plane[0].Kubeconfig("publisher"))
	late := plane[1]
	late.Leave()
	plane[2].Break("", func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			plane[2].Leave()
			late.Enter() // its successor, with a key of its own
			panic(http.ErrAbortHandler)
		})
	})
	fresh, err := late.Rotate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	got := fetch(t, s)
	if _, found := got.Keys.Lookup(fresh); !found {
		t.Error("the server that came meanwhile was not asked")
	}
	if len(got.Warnings) == 0 || !strings.Contains(got.Warnings[0], plane[2].Address()+" left the endpoints") {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestAllServersThatKeepChanging(t *testing.T) {
	plane := controlPlane(t, make([]fake.APIServerOptions, 5)...)
	for i, e := range plane[1:] {
		if i > 0 {
			e.Leave()
		}
		e.Break("", func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				e.Leave()
				plane[min(i+2, len(plane)-1)].Enter()
				panic(http.ErrAbortHandler)
			})
		})
	}
	wantError(t, allServers(t, plane[0].Kubeconfig("publisher")), "changed 3 times")
}

func TestAllServersForbidden(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	e.Grant("reader", fake.RightDiscovery)
	wantError(t, allServers(t, e.Kubeconfig("reader")), `user "reader"`, "list "+slicesPath, "HTTP 403",
		"kubectl create role oidc-publisher-endpoints --namespace=default --verb=get,list --resource=endpointslices.discovery.k8s.io",
		"kubectl create rolebinding oidc-publisher-endpoints --namespace=default --role=oidc-publisher-endpoints --user=reader")
}

func TestAllServersEndpointLists(t *testing.T) {
	slice := func(address, port, ready string) string {
		return `{"items":[{"addressType":"IPv4","endpoints":[{"addresses":["` + address + `"],"conditions":{` + ready + `}}],"ports":[` + port + `]}]}`
	}
	const https = `{"name":"https","port":6443}`
	many := strings.Repeat(`{"addresses":["192.0.2.1"]},`, 40)
	for i := range 40 {
		many = strings.Replace(many, `"192.0.2.1"`, fmt.Sprintf(`"198.51.100.%d"`, i), 1)
	}
	for _, c := range []struct{ name, body, want string }{
		{"none", `{"items":[]}`, "none is ready"},
		{"none ready", slice("192.0.2.1", https, `"ready":false`), "none is ready"},
		{"no port", slice("192.0.2.1", "", `"ready":true`), "not an IP address with an https port"},
		{"two ports, none https", slice("192.0.2.1", `{"name":"a","port":1},{"name":"b","port":2}`, ""), "not an IP address with an https port"},
		{"host name", slice("api.example.com", https, ""), `"api.example.com"`},
		{"too many", `{"items":[{"endpoints":[` + strings.TrimSuffix(many, ",") + `],"ports":[` + https + `]}]}`, "limit of 32"},
		{"no JSON", "[]", "not the expected JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := embedded(t, fake.APIServerOptions{})
			e.Break(slicesPath, fake.FaultBody(200, "application/json", c.body))
			wantError(t, allServers(t, e.Kubeconfig("publisher")), e.Address(), c.want)
		})
	}
}

func TestAllServersByTheNamesOfTheirCertificates(t *testing.T) {
	for _, c := range []struct {
		name  string
		names []string
	}{
		{"internal name", []string{"kubernetes.default.svc"}},
		{"address", []string{"127.0.0.1"}},
		{"name of the kubeconfig", []string{"api.example.com"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := controlPlane(t, fake.APIServerOptions{Names: []string{"api.example.com"}}, fake.APIServerOptions{Names: c.names})
			plane[0].Leave()
			k := plane[0].Kubeconfig("publisher")
			k.TLSServerName = "api.example.com"
			if got := fetch(t, allServers(t, k)); len(got.Warnings) != 0 {
				t.Errorf("warnings %q", got.Warnings)
			}
		})
	}
	plane := controlPlane(t, fake.APIServerOptions{}, fake.APIServerOptions{Names: []string{"other.example.com"}})
	wantError(t, allServers(t, plane[0].Kubeconfig("publisher")), plane[1].Address(), "other names")
}

func TestAllServersOfAnotherCAGetNoCredentials(t *testing.T) {
	e := embedded(t, fake.APIServerOptions{})
	stranger := embedded(t, fake.APIServerOptions{})
	var reached atomic.Bool
	stranger.Break("", fake.FaultBefore(func() { reached.Store(true) }))
	host, port, _ := net.SplitHostPort(stranger.Address())
	e.Break(slicesPath, fake.FaultBody(200, "application/json",
		`{"items":[{"endpoints":[{"addresses":["`+host+`"]}],"ports":[{"name":"https","port":`+port+`}]}]}`))
	wantError(t, allServers(t, e.Kubeconfig("publisher")), stranger.Address(), "not issued by the CA")
	if reached.Load() {
		t.Error("a stranger was sent a request")
	}
}

func TestAllServersIPv6(t *testing.T) {
	plane := controlPlane(t, fake.APIServerOptions{}, fake.APIServerOptions{Listen: loopback6(t)})
	s := allServers(t, plane[0].Kubeconfig("publisher"))
	fetch(t, s)
	plane[1].Stop()
	wantError(t, s, "API server [::1]:")
}

// loopback6 is the address ::1 if this machine has it. Where it has not, the
// test of IPv6 is left with the parsing of addresses.
func loopback6(t *testing.T) string {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		testserver.Missing(t, "this machine has no IPv6 loopback address")
	}
	listener.Close()
	return "[::1]:0"
}

func wantError(t *testing.T, s *kube.Source, wants ...string) {
	t.Helper()
	_, err := s.Fetch(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// withCacheControl sends the answer with another Cache-Control, "" for none.
func withCacheControl(value string) fake.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r)
			maps.Copy(w.Header(), answer.Header())
			w.Header().Del("Cache-Control")
			if value != "" {
				w.Header().Set("Cache-Control", value)
			}
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		})
	}
}
