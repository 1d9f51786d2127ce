package pullsecret

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
)

func TestParseRegistry(t *testing.T) {
	for given, want := range map[string]string{
		"docker.cloudsmith.io":       "docker.cloudsmith.io",
		"docker.cloudsmith.io/":      "docker.cloudsmith.io",
		"docker.cloudsmith.io/acme":  "docker.cloudsmith.io/acme/",
		"docker.cloudsmith.io/acme/": "docker.cloudsmith.io/acme/",
		"127.0.0.1:5000":             "127.0.0.1:5000",
		"[::1]:5000/a/b":             "[::1]:5000/a/b/",
		"":                           "", "https://docker.cloudsmith.io": "", "Docker.Cloudsmith.io": "", "user@host": "", "host:": "", "host/a//b": "",
		"host name": "", "host?x=y": "", "host#x": "", "*.host": "", "/path": "", "host/\"": "",
	} {
		got, err := ParseRegistry(given)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", given, got, err, want)
		}
	}
}

// FuzzParseRegistry: an accepted registry is a host that parses to itself
// again, and matches no more than was given.
func FuzzParseRegistry(f *testing.F) {
	for _, seed := range []string{"docker.cloudsmith.io", "docker.cloudsmith.io/acme/", "[::1]:5000/a", "https://x", "a:b", "%41.com/%2f"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		key, err := ParseRegistry(given)
		if err != nil {
			return
		}
		again, err := ParseRegistry(key)
		if err != nil || again != key {
			t.Errorf("%q became %q, and that %q, %v", given, key, again, err)
		}
		u, err := url.Parse("https://" + key)
		if err != nil || u.Host == "" || !strings.HasPrefix(key, u.Host) || strings.Trim(key, "/") != strings.Trim(given, "/") {
			t.Errorf("%q became %q", given, key)
		}
	})
}

// FuzzDockerConfig: every client reads back exactly the user, password and
// registry.
func FuzzDockerConfig(f *testing.F) {
	f.Add("docker.cloudsmith.io", "token", "eyJ.a-b.c_d")
	f.Add("host/path/", "oauth2accesstoken", "ya29.<&>\"\\")
	f.Fuzz(func(t *testing.T, registry, user, secret string) {
		if registry != strings.ToValidUTF8(registry, "") || user != strings.ToValidUTF8(user, "") || secret != strings.ToValidUTF8(secret, "") {
			return // JSON has none
		}
		data, err := DockerConfig([]string{registry}, exchange.Credential{Username: user, Password: discovery.NewSecret(secret)})
		if err != nil {
			t.Fatal(err)
		}
		var read dockerConfig
		if err := json.Unmarshal(data, &read); err != nil {
			t.Fatal(err)
		}
		entry := read.Auths[registry]
		auth, err := base64.StdEncoding.DecodeString(entry.Auth)
		if err != nil || len(read.Auths) != 1 || entry.Username != user || entry.Password != secret || string(auth) != user+":"+secret {
			t.Errorf("%q for %q became %s", user, registry, data)
		}
	})
}

// FuzzReadTable: an accepted row has every field that decisions depend on.
func FuzzReadTable(f *testing.F) {
	f.Add([]byte(`{"kind":"Table","columnDefinitions":[{"name":"Name"},{"name":"Type"}],"rows":[{"cells":["a","Opaque"],"object":{"metadata":{"uid":"u","name":"a","namespace":"n"}}}]}`))
	for _, seed := range []string{"", "null", "{}", `{"kind":"Table","rows":[]}`, `{"kind":"Table","rows":[{"cells":[],"object":{}}]}`, `{"kind":"Secret","data":{"a":"Yg=="}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rows, err := readTable(body)
		for _, row := range rows {
			if err != nil || row.kind == "" || row.meta.UID == "" {
				t.Errorf("%s is read as %+v, %v", body, row, err)
			}
		}
	})
}

// FuzzFields: ownership never depends on fields that can't be parsed, and no
// other manager's record makes a changed secret look intact.
func FuzzFields(f *testing.F) {
	f.Add([]byte(`{"f:data":{".":{},"f:.dockerconfigjson":{}},"f:metadata":{"f:annotations":{"f:oidc-publisher/expires-at":{},"f:oidc-publisher/exchanged-at":{}}}}`))
	f.Add([]byte(`{"f:data":{"f:.dockerconfigjson":{}},"f:metadata":{"f:annotations":{"f:oidc-publisher/expires-at":{}}}}`))
	f.Add([]byte(`{"f:data":null}`))
	f.Add([]byte(`[]`))
	s := Secret{Name: "regcred", Owner: "me", Registries: []string{"host"}}
	c := credential{exchange.Credential{Expiry: time.Unix(2e9, 0)}, time.Unix(1e9, 0)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		entry := metav1.ManagedFieldsEntry{Manager: Manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(string(raw))}
		meta := metav1.ObjectMeta{Labels: map[string]string{LabelManagedBy: Manager}, Annotations: s.annotations(c), ManagedFields: []metav1.ManagedFieldsEntry{entry}}
		fields := readFields(entry)
		if intact := s.intact(meta); intact != (fields.content() && fields.annotation(AnnotationExpiresAt) && fields.annotation(AnnotationExchangedAt)) || intact && !json.Valid(raw) {
			t.Errorf("intact is %t for %s", intact, raw)
		}
		for _, other := range []metav1.ManagedFieldsEntry{
			{Manager: "kubectl", Operation: entry.Operation, FieldsV1: entry.FieldsV1},
			{Manager: Manager, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: entry.FieldsV1},
		} {
			meta.ManagedFields = []metav1.ManagedFieldsEntry{other}
			if s.intact(meta) {
				t.Errorf("intact by %s's %s of %s", other.Manager, other.Operation, raw)
			}
		}
	})
}
