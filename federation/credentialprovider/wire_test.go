package credentialprovider

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
)

// TestWireIsTheOfficialOne: the same fields with the same tags in the same
// order, so that a field of a newer kubelet fails here when its module moves.
func TestWireIsTheOfficialOne(t *testing.T) {
	for _, pair := range [][2]any{
		{wireRequest{}, v1.CredentialProviderRequest{}}, {wireResponse{}, v1.CredentialProviderResponse{}}, {wireAuth{}, v1.AuthConfig{}},
	} {
		got, want := fieldsOf(reflect.TypeOf(pair[0])), fieldsOf(reflect.TypeOf(pair[1]))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%T has %q\nand %T %q", pair[0], got, pair[1], want)
		}
	}
	if apiVersion != v1.SchemeGroupVersion.String() || byRegistry != string(v1.RegistryPluginCacheKeyType) {
		t.Error("a constant is not the official one")
	}
}

// fieldsOf are the tags and the kinds of what stands in JSON. The official
// duration is text there.
func fieldsOf(message reflect.Type) (all []string) {
	for i := range message.NumField() {
		field := message.Field(i)
		kind := strings.TrimPrefix(field.Type.String(), "*")
		switch {
		case field.Type == reflect.TypeFor[metav1.TypeMeta]():
			all = append(all, fieldsOf(field.Type)...)
			continue
		case field.Type == reflect.TypeFor[*metav1.Duration](), field.Type.Kind() == reflect.String:
			kind = "string"
		case field.Type.Kind() == reflect.Map && field.Type.Elem().Kind() == reflect.Struct:
			kind = "map of objects"
		}
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",omitempty")
		all = append(all, tag+" "+kind+map[bool]string{true: " or none"}[strings.HasSuffix(field.Tag.Get("json"), ",omitempty")])
	}
	return all
}

// TestResponseIsTheOfficialOne compares bytes.
func TestResponseIsTheOfficialOne(t *testing.T) {
	for _, keep := range []time.Duration{0, time.Second, 55 * time.Minute, 3*time.Hour + 59*time.Second} {
		for _, key := range []string{"", "docker.cloudsmith.io/acme/"} {
			ours, theirs := response(keep, nil), v1.CredentialProviderResponse{
				TypeMeta:     metav1.TypeMeta{APIVersion: v1.SchemeGroupVersion.String(), Kind: "CredentialProviderResponse"},
				CacheKeyType: v1.RegistryPluginCacheKeyType, CacheDuration: &metav1.Duration{Duration: keep},
			}
			if key != "" {
				ours.Auth, theirs.Auth = map[string]wireAuth{key: {"u", "p"}}, map[string]v1.AuthConfig{key: {Username: "u", Password: "p"}}
			}
			got, err := json.Marshal(ours)
			if err != nil {
				t.Fatal(err)
			}
			want, err := json.Marshal(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	}
}
