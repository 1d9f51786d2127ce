package verify

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
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
	if s := httpx.Clip(strings.Repeat("é", 500)); len(s) > 220 || strings.ContainsRune(s, '\ufffd') {
		t.Errorf("clipped to %q", s)
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
