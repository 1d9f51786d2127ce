package credentialprovider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	strict "sigs.k8s.io/json"
)

// FuzzAnswer: every request gets either a response that kubelet accepts, or
// only an error of one line; neither holds the token, and a credential is only
// given for the registry of the image.
func FuzzAnswer(f *testing.F) {
	for _, path := range goldens(f) {
		f.Add([]byte(readGolden(f, path)["request.json"]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		err := telling(t, []string{ProviderCloudsmith, "--default-org", "acme", "--service-slug", "puller", "--registry", "docker.cloudsmith.io", "--registry", "*.example.com"}, time.Hour).
			Answer(t.Context(), bytes.NewReader(data), &out)
		var sent v1.CredentialProviderRequest
		_ = json.Unmarshal(data, &sent) // to know the token
		if err != nil {
			if out.Len() > 0 {
				t.Errorf("an error and %q", &out)
			}
			leaks(t, sent, err.Error())
			return
		}
		leaks(t, sent, out.String())
		var response v1.CredentialProviderResponse
		unknown, err := strict.UnmarshalStrict(out.Bytes(), &response)
		if err != nil || len(unknown) > 0 || response.APIVersion != apiVersion || response.Kind != responseKind ||
			response.CacheKeyType != v1.RegistryPluginCacheKeyType || response.CacheDuration == nil || response.CacheDuration.Duration < 0 {
			t.Errorf("kubelet would refuse it: %v %v: %s", err, unknown, &out)
		}
		for key := range response.Auth {
			if host, _, _ := strings.Cut(key, "/"); host != ParseImage(sent.Image).Host {
				t.Errorf("a credential for %q, and the image is %q", key, sent.Image)
			}
		}
	})
}

// leaks searches the output for the token. It ignores tokens of a few
// characters and those that the rest of the request repeats.
func leaks(t *testing.T, sent v1.CredentialProviderRequest, told string) {
	t.Helper()
	token := sent.ServiceAccountToken
	if len(token) < 20 || !strings.Contains(told, token) || strings.Contains(fmt.Sprint(sent.Image, sent.ServiceAccountAnnotations), token) {
		return
	}
	t.Errorf("the token is told: %s", told)
}

// FuzzMatches: a key that grants a folder never matches another one's images,
// and nothing makes the matcher panic.
func FuzzMatches(f *testing.F) {
	f.Add("docker.cloudsmith.io/acme/", "docker.cloudsmith.io/acme-other/app")
	f.Add("*.pkg.dev", "europe-docker.pkg.dev/p/r/app")
	f.Add("host:5000/*", "host:5000/app")
	f.Fuzz(func(t *testing.T, pattern, image string) {
		matched, err := Matches(pattern, image)
		if err != nil || !matched {
			return
		}
		if _, path, found := strings.Cut(pattern, "/"); found && !strings.ContainsAny(pattern+image, "%?#@\\") {
			if _, of, _ := strings.Cut(image, "/"); !strings.HasPrefix(of, path) {
				t.Errorf("%q matches %q", pattern, image)
			}
		}
	})
}
