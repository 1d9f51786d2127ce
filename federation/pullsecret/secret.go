package pullsecret

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"oidc-publisher/federation/exchange"
)

// Manager is the field manager of the secrets, and their LabelManagedBy.
const Manager = "oidc-publisher"

// Labels and annotations of the secrets.
const (
	// LabelManagedBy is the label that Kubernetes recommends for the manager.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// AnnotationOwner is Secret.Owner.
	AnnotationOwner = "oidc-publisher/owner"
	// AnnotationInputs is a hash of Secret.Source and Secret.Registries.
	AnnotationInputs = "oidc-publisher/inputs"
	// AnnotationExchangedAt is the time of the exchange (RFC 3339).
	AnnotationExchangedAt = "oidc-publisher/exchanged-at"
	// AnnotationExpiresAt is when the credential expires (RFC 3339); absent if
	// the service states no expiry.
	AnnotationExpiresAt = "oidc-publisher/expires-at"
)

const (
	secretType = "kubernetes.io/dockerconfigjson" //nolint:gosec // G101: the name of a type
	secretKey  = ".dockerconfigjson"              //nolint:gosec // G101: the name of a key
)

// ErrRefused marks a secret that is not written because it has another owner.
var ErrRefused = errors.New("refused")

// Secret is the pull secret of every namespace.
type Secret struct {
	// Name is its name.
	Name string
	// Registries are keys of auths (see ParseRegistry).
	Registries []string
	// Owner distinguishes users of this program that choose the same Name.
	Owner string
	// Source describes the exchange. When it changes, a single pass writes
	// secrets that are still fresh.
	Source string
}

// credential is a credential and the time of its exchange.
type credential struct {
	exchange.Credential
	at time.Time
}

func (c credential) expired(now time.Time) bool { return !c.Expiry.IsZero() && !now.Before(c.Expiry) }

// inputs is the value of AnnotationInputs.
func (s Secret) inputs() string {
	registries := slices.Sorted(slices.Values(s.Registries))
	text, _ := json.Marshal([]any{s.Source, registries}) // strings are always JSON
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// annotations returns the annotations of a secret with the credential.
func (s Secret) annotations(c credential) map[string]string {
	a := map[string]string{
		AnnotationOwner:       s.Owner,
		AnnotationInputs:      s.inputs(),
		AnnotationExchangedAt: c.at.UTC().Format(time.RFC3339Nano),
	}
	if !c.Expiry.IsZero() {
		a[AnnotationExpiresAt] = c.Expiry.UTC().Format(time.RFC3339)
	}
	return a
}

// manifest is the secret for server-side apply. With the UID and the
// resourceVersion that were read, the API server refuses to write another one.
type manifest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Type              string            `json:"type"`
	Data              map[string][]byte `json:"data"`
}

func (s Secret) manifest(namespace string, c credential, over *found) ([]byte, error) {
	content, err := DockerConfig(s.Registries, c.Credential)
	if err != nil {
		return nil, err
	}
	m := manifest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: namespace, Labels: map[string]string{LabelManagedBy: Manager}, Annotations: s.annotations(c)},
		Type:       secretType,
		Data:       map[string][]byte{secretKey: content},
	}
	if over != nil {
		m.UID, m.ResourceVersion = over.meta.UID, over.meta.ResourceVersion
	}
	return json.Marshal(m)
}

// found is a secret with that name in the cluster.
type found struct {
	kind string // its type
	meta metav1.ObjectMeta
}

// version identifies the content of a secret: any write changes it.
type version struct {
	uid      types.UID
	resource string
}

func versionOf(meta metav1.ObjectMeta) version { return version{meta.UID, meta.ResourceVersion} }

// refuse returns why the secret belongs to another owner, or nil.
func (s Secret) refuse(f found) error {
	var why string
	switch owner := f.meta.Annotations[AnnotationOwner]; {
	case f.kind != secretType:
		why = fmt.Sprintf("is of type %q, which can't be changed", f.kind)
	case f.meta.Labels[LabelManagedBy] != Manager:
		why = "has another owner: it has no label " + LabelManagedBy + "=" + Manager
		if writers := managers(f.meta, func(metav1.ManagedFieldsEntry) bool { return true }); writers != "" {
			why += ", and was written by " + writers
		}
	case owner != s.Owner:
		why = fmt.Sprintf("belongs to owner %q, not to %q", owner, s.Owner)
	default:
		// One-off updates are overwritten.
		others := managers(f.meta, func(entry metav1.ManagedFieldsEntry) bool {
			return entry.Operation == metav1.ManagedFieldsOperationApply && entry.Manager != Manager && readFields(entry).content()
		})
		if others == "" {
			return nil
		}
		why = "is also applied by " + others
	}
	return fmt.Errorf("%w: secret %s/%s %s: choose another --secret-name, or use --take-over to overwrite it", ErrRefused, f.meta.Namespace, f.meta.Name, why)
}

// managers quotes the field managers with such an entry, for messages.
func managers(meta metav1.ObjectMeta, such func(metav1.ManagedFieldsEntry) bool) string {
	var names []string
	for _, entry := range meta.ManagedFields {
		if name := fmt.Sprintf("%.80q", entry.Manager); such(entry) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// intact reports whether the secret still has everything that was applied from
// the same inputs: when another manager changes a field, the API server no
// longer lists it as ours. A single pass has no other record.
func (s Secret) intact(meta metav1.ObjectMeta) bool {
	if meta.Labels[LabelManagedBy] != Manager || meta.Annotations[AnnotationOwner] != s.Owner || meta.Annotations[AnnotationInputs] != s.inputs() {
		return false
	}
	return slices.ContainsFunc(meta.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		fields := readFields(entry)
		return entry.Manager == Manager && entry.Operation == metav1.ManagedFieldsOperationApply &&
			fields.content() && fields.annotation(AnnotationExchangedAt) && (meta.Annotations[AnnotationExpiresAt] == "" || fields.annotation(AnnotationExpiresAt))
	})
}

// freshUntil returns when the credential of the secret expires; zero if that is
// unknown, or the secret was changed.
func (s Secret) freshUntil(f found) time.Time {
	if f.kind != secretType || !s.intact(f.meta) {
		return time.Time{}
	}
	return annotatedTime(f.meta, AnnotationExpiresAt)
}

func annotatedTime(meta metav1.ObjectMeta, key string) time.Time {
	t, _ := time.Parse(time.RFC3339, meta.Annotations[key]) // zero on an error
	return t
}

// fields are those fields of a manager that are needed here, in the format of
// FieldsV1 (sigs.k8s.io/structured-merge-diff/fieldpath): keys that begin with
// "f:".
type fields struct {
	Data     map[string]json.RawMessage `json:"f:data"`
	Metadata struct {
		Annotations map[string]json.RawMessage `json:"f:annotations"`
	} `json:"f:metadata"`
}

func readFields(entry metav1.ManagedFieldsEntry) (f fields) {
	if entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &f) != nil {
		return fields{}
	}
	return f
}

func (f fields) content() bool {
	_, owns := f.Data["f:"+secretKey]
	return owns
}

func (f fields) annotation(key string) bool {
	_, owns := f.Metadata.Annotations["f:"+key]
	return owns
}
