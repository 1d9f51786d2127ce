package verify

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery"
)

func manyKeys(t *testing.T, n int) discovery.KeySet {
	t.Helper()
	var keys []discovery.Key
	for i := range n {
		modulus := make([]byte, 256)
		modulus[0], modulus[1], modulus[255] = 0x80, byte(i), 1
		key, err := discovery.ParseKey(fmt.Appendf(nil, `{"kty":"RSA","kid":"k%d","e":"AQAB","n":"%s"}`, i, base64.RawURLEncoding.EncodeToString(modulus)))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return discovery.KeySet{}.WithKeys(keys)
}

func TestReportIsShort(t *testing.T) {
	v := view{set: manyKeys(t, 50)}
	if evidence := v.keysValid().Evidence; len(evidence) > 500 {
		t.Errorf("%d characters", len(evidence))
	}
	if s := clip(strings.Repeat("é", 500)); len(s) > 220 || strings.ContainsRune(s, '\ufffd') {
		t.Errorf("clipped to %q", s)
	}
}

func TestFreshness(t *testing.T) {
	const date = "Mon, 02 Jan 2006 15:04:05 GMT"
	for _, tc := range []struct {
		header string
		known  bool
		life   time.Duration
		age    time.Duration
	}{
		{"", false, 0, 0},
		{"Cache-Control: public", false, 0, 0},
		{"Cache-Control: public, max-age=60", true, time.Minute, 0},
		{"Cache-Control: MAX-AGE=60", true, time.Minute, 0},
		{`Cache-Control: max-age="60"`, true, time.Minute, 0},
		{"Cache-Control: max-age=60|Cache-Control: s-maxage=120", true, 2 * time.Minute, 0},
		{"Cache-Control: max-age=60|Age: 20", true, time.Minute, 20 * time.Second},
		{"Cache-Control: max-age=60, no-store", true, 0, 0},
		{"Cache-Control: no-cache|Age: 5", true, 0, 5 * time.Second},
		{"Cache-Control: max-age=-1", true, 0, 0},
		{"Cache-Control: max-age=soon", true, 0, 0},
		{"Cache-Control: max-age=99999999999", true, maxLifetime, 0},
		{"Cache-Control: max-age=9999999999999999999999", true, maxLifetime, 0},
		{"Expires: Mon, 02 Jan 2006 15:06:05 GMT|Date: " + date, true, 2 * time.Minute, 0},
		{"Expires: Mon, 02 Jan 2006 15:03:05 GMT|Date: " + date, true, 0, 0},
		{"Expires: 0|Date: " + date, true, 0, 0},
		{"Cache-Control: max-age=60|Expires: Mon, 02 Jan 2006 15:06:05 GMT|Date: " + date, true, time.Minute, 0},
	} {
		h := http.Header{}
		for line := range strings.SplitSeq(tc.header, "|") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h.Add(name, value)
			}
		}
		if f := freshnessOf(h); f.known != tc.known || f.lifetime != tc.life || f.age != tc.age {
			t.Errorf("%q: %+v", tc.header, f)
		}
	}
}

func TestReach(t *testing.T) {
	for host, want := range map[string]reach{
		"issuer.example.com": public, "8.8.8.8": public, "2001:4860:4860::8888": public,
		"localhost": loopback, "a.localhost": loopback, "127.8.8.8": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback,
		"10.0.0.1": private, "192.168.1.1": private, "172.16.0.1": private, "169.254.1.1": private, "100.64.0.1": private,
		"fd00::1": private, "fe80::1": private, "0.0.0.0": private,
		"kubernetes.default.svc": inCluster, "kubernetes.default.svc.cluster.local.": inCluster,
		"kubernetes": internal, "nas.local": internal, "ip-10-0-0-1.ec2.internal": internal, "API.Corp.Internal": internal,
	} {
		if got := reachOf(host); got != want {
			t.Errorf("%s is %q, want %q", host, got, want)
		}
	}
}
