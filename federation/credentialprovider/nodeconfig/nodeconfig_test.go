package nodeconfig_test

import (
	"strings"
	"testing"

	kubelet "k8s.io/kubelet/config/v1"

	"oidc-publisher/federation/credentialprovider"
	"oidc-publisher/federation/credentialprovider/nodeconfig"
)

func node(version nodeconfig.Version, provider string) nodeconfig.Node {
	return nodeconfig.Node{Version: version, Provider: provider, Audience: "https://example.com/a:b", Settings: credentialprovider.NewSettings()}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]nodeconfig.Version{
		"1.33": 33, "v1.34.2": 34, "1.34+": 34, "1.36.3-rc.1": 36, "1.32": 0, "1": 0, "": 0, "2.34": 0, "1.x": 0, "1.34beta": 0,
	} {
		got, err := nodeconfig.ParseVersion(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

// TestConfigByVersion: 1.33 does not know cacheType and 1.34 demands it; what
// is printed is read again by the rules of kubelet.
func TestConfigByVersion(t *testing.T) {
	for version, want := range map[nodeconfig.Version]bool{33: false, 34: true, 36: true} {
		for _, provider := range credentialprovider.Providers() {
			text, err := node(version, provider).ConfigYAML()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(text), "cacheType"); got != want {
				t.Errorf("1.%d: cacheType: %t\n%s", version, got, text)
			}
			if got := strings.Contains(string(text), "feature-gates"); got == want {
				t.Errorf("1.%d: feature gate: %t", version, got)
			}
			config, err := nodeconfig.ParseConfig(text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if config.Providers[0].TokenAttributes.ServiceAccountTokenAudience != "https://example.com/a:b" || config.Providers[0].DefaultCacheDuration == nil {
				t.Errorf("%s", text)
			}
		}
	}
}

// TestPinned: no annotation is requested for a pinned setting, or for one that
// no longer matters.
func TestPinned(t *testing.T) {
	n := node(34, credentialprovider.ProviderCloudsmith)
	n.Settings.Org.Pinned = "acme"
	provider := n.Config().Providers[0]
	if keys := provider.TokenAttributes.OptionalServiceAccountAnnotationKeys; len(keys) != 1 || keys[0] != "cloudsmith.io/service-slug" {
		t.Errorf("annotations %q", keys)
	}
	if images := provider.MatchImages; len(images) != 1 || images[0] != "docker.cloudsmith.io/acme/" {
		t.Errorf("images %q", images)
	}
}

func TestRightsAreExact(t *testing.T) {
	role, binding := node(34, credentialprovider.ProviderGCP).Rights()
	if len(role.Rules) != 1 || len(role.Rules[0].Resources) != 1 || role.Rules[0].Resources[0] != "https://example.com/a:b" {
		t.Errorf("%+v", role.Rules)
	}
	if len(binding.Subjects) != 1 || binding.Subjects[0].Name != "system:nodes" || binding.RoleRef.Name != role.Name {
		t.Errorf("%+v", binding)
	}
}

func TestCheck(t *testing.T) {
	const image = "docker.cloudsmith.io/acme/app:1"
	for pattern, why := range map[string]string{
		"docker.cloudsmith.io":         "",
		"docker.cloudsmith.io/acme/":   "",
		"docker.cloudsmith.io/ac":      "", // the path is a prefix of text
		"*.cloudsmith.io":              "",
		"d*r.*.io":                     "",
		"docker.cloudsmith.io/*":       `use "docker.cloudsmith.io"`,
		"docker.cloudsmith.io/acme/*":  `use "docker.cloudsmith.io/acme/"`,
		"docker.cloudsmith.io/ac*":     `use "docker.cloudsmith.io"`,
		"*.io":                         "3 labels and the pattern 2",
		"docker.cloudsmith.io:443":     "the port",
		"docker.cloudsmith.io/other":   `does not begin with "/other"`,
		"https://docker.cloudsmith.io": "no scheme",
		"docker.example.io":            "differs",
		"docker.[.io":                  "",
	} {
		config := kubelet.CredentialProviderConfig{Providers: []kubelet.CredentialProvider{{Name: "p", MatchImages: []string{pattern}}}}
		got := nodeconfig.Check(config, image)[0]
		if pattern == "docker.[.io" {
			if got.Matches || !strings.Contains(got.Why, "invalid pattern") {
				t.Errorf("%q: %+v", pattern, got)
			}
			continue
		}
		if got.Matches != (why == "") || !strings.Contains(got.Why, why) {
			t.Errorf("%q: %+v, want %q", pattern, got, why)
		}
	}
}

func TestCheckImage(t *testing.T) {
	for image, want := range map[string]string{
		"docker.cloudsmith.io/acme/app:1@sha256:00": "",
		"[::1]:5000/a":   "",
		"ubuntu":         "",
		"https://host/x": "remove the scheme",
		"Not An Image":   "contains spaces",
		"host/x\n":       "contains spaces",
		"host:port/x":    "not an image reference",
		"[host/x":        "not an image reference",
	} {
		err := nodeconfig.CheckImage(image)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", image, err, want)
		}
	}
}

func TestAuthKey(t *testing.T) {
	for image, want := range map[string]string{
		"docker.cloudsmith.io/acme/app:1": "docker.cloudsmith.io/acme/",
		"docker.example.com/acme/app:1":   "",
	} {
		got, err := node(34, credentialprovider.ProviderCloudsmith).AuthKey(image)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", image, got, err)
		}
	}
	got, err := node(34, credentialprovider.ProviderGCP).AuthKey("eu.gcr.io/p/app")
	if err != nil || got != "eu.gcr.io" {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzParseConfig: a file is refused, or every pattern of it has a verdict.
func FuzzParseConfig(f *testing.F) {
	text, err := node(34, credentialprovider.ProviderCloudsmith).ConfigYAML()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, "docker.cloudsmith.io/acme/app:1")
	f.Add([]byte("kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders: [{name: a, matchImages: ['x/*', '[', 'https://b', ':']}]"), "x/y")
	f.Fuzz(func(t *testing.T, data []byte, image string) {
		config, err := nodeconfig.ParseConfig(data)
		if err != nil {
			return
		}
		for _, m := range nodeconfig.Check(config, image) {
			if m.Matches != (m.Why == "") {
				t.Errorf("%+v", m)
			}
		}
	})
}
