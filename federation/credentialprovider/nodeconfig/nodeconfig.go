// Package nodeconfig writes what a node and its cluster need for kubelet to
// call the credential provider: kubelet's CredentialProviderConfig and the right
// to ask for tokens; and it says which pattern of a configuration would match an
// image. It is apart from the plugin, which starts faster without it.
package nodeconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubelet "k8s.io/kubelet/config/v1"
	"sigs.k8s.io/yaml"

	"oidc-publisher/federation/credentialprovider"
	"oidc-publisher/internal/httpx"
)

// Where the examples put things on a node.
const (
	// ConfigPath is the configuration's place.
	ConfigPath = "/etc/kubernetes/credential-provider.yaml"
	// BinDir is the plugin's.
	BinDir = "/usr/local/bin"
)

// Version is a minor version of Kubernetes 1.
type Version int

// The versions that make a difference.
const (
	// firstVersion had kubelet's tokens for plugins, behind a feature gate.
	firstVersion Version = 33
	// cacheTypeVersion has them switched on and demands a cacheType.
	cacheTypeVersion Version = 34
)

// ParseVersion reads 1.33, v1.34.2 or 1.34+.
func ParseVersion(text string) (Version, error) {
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(text, "v"), "+"), ".")
	if len(parts) < 2 || parts[0] != "1" {
		return 0, fmt.Errorf("%q is no version of Kubernetes like 1.34", text)
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0, fmt.Errorf("%q is no version of Kubernetes like 1.34", text)
	}
	if Version(minor) < firstVersion {
		return 0, fmt.Errorf("kubelet %s gives credential providers no service account token: that begins with 1.%d", text, firstVersion)
	}
	return Version(minor), nil
}

// Node is what a node is to do.
type Node struct {
	// Version is its kubelet's.
	Version Version
	// Provider is one of credentialprovider.Providers.
	Provider string
	// Name is the plugin's file, by default that which tells it its provider.
	// A second audience needs a second name.
	Name string
	// Audience is that of the tokens, as the service expects it.
	Audience string
	// Settings are the plugin's. What they pin, no annotation can ask for.
	Settings *credentialprovider.Settings
	// Args are the plugin's, and Env its environment.
	Args []string
	Env  []kubelet.ExecEnvVar
}

// program is the name of the plugin's file, and of what belongs to it.
func (n Node) program() string {
	if n.Name != "" {
		return n.Name
	}
	return credentialprovider.ProgramName + "-" + n.Provider
}

// args are the plugin's, with its provider where the name does not tell it.
func (n Node) args() []string {
	if credentialprovider.ProviderOf(n.program()) == n.Provider {
		return n.Args
	}
	return append([]string{n.Provider}, n.Args...)
}

// Config is the CredentialProviderConfig. In 1.33 its cacheType must be left
// out, as YAML does.
func (n Node) Config() kubelet.CredentialProviderConfig {
	required := true
	provider := kubelet.CredentialProvider{
		Name:                 n.program(),
		MatchImages:          n.matchImages(),
		DefaultCacheDuration: &metav1.Duration{}, // the plugin always says for how long
		APIVersion:           "credentialprovider.kubelet.k8s.io/v1",
		Args:                 n.args(),
		Env:                  n.Env,
		TokenAttributes: &kubelet.ServiceAccountTokenAttributes{
			ServiceAccountTokenAudience: n.Audience,
			RequireServiceAccount:       &required,
			// Optional: of a service account without a required one kubelet
			// says nothing at all and pulls without a credential.
			OptionalServiceAccountAnnotationKeys: n.annotations(),
		},
	}
	if n.Version >= cacheTypeVersion {
		provider.TokenAttributes.CacheType = kubelet.ServiceAccountServiceAccountTokenCacheType
	}
	return kubelet.CredentialProviderConfig{
		TypeMeta:  metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1", Kind: "CredentialProviderConfig"},
		Providers: []kubelet.CredentialProvider{provider},
	}
}

// matchImages are the registries, and just the organisation's part of
// Cloudsmith's own where there can be no other.
func (n Node) matchImages() []string {
	s := n.Settings
	hosts := slices.Clone(s.Registries)
	switch {
	case len(hosts) > 0:
	case n.Provider == credentialprovider.ProviderGCP:
		hosts = credentialprovider.GCPHosts()
	default:
		hosts = credentialprovider.CloudsmithHosts()
	}
	if n.Provider == credentialprovider.ProviderCloudsmith && s.Org.Pinned != "" {
		for i, host := range hosts {
			if slices.Contains(credentialprovider.CloudsmithHosts(), host) {
				hosts[i] = host + "/" + s.Org.Pinned + "/"
			}
		}
	}
	return hosts
}

func (n Node) annotations() []string {
	choices := []credentialprovider.Choice{n.Settings.Org, n.Settings.Service}
	if n.Provider == credentialprovider.ProviderGCP {
		choices = []credentialprovider.Choice{n.Settings.Provider, n.Settings.ServiceAccount}
	}
	var keys []string
	for _, choice := range choices {
		if choice.Pinned == "" {
			keys = append(keys, choice.Annotation)
		}
	}
	return keys
}

// Rights let nodes ask for tokens of the one audience, and of no other
// (NodeRestriction, ServiceAccountNodeAudienceRestriction).
func (n Node) Rights() (rbac.ClusterRole, rbac.ClusterRoleBinding) {
	meta := metav1.ObjectMeta{Name: n.program()}
	role := rbac.ClusterRole{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbac.SchemeGroupVersion.String(), Kind: "ClusterRole"},
		ObjectMeta: meta,
		Rules:      []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{n.Audience}, Verbs: []string{"request-serviceaccounts-token-audience"}}},
	}
	if n.Version < cacheTypeVersion {
		// The node authorizer of 1.33 allows this only with the feature gate on the API server, too.
		role.Rules = append(role.Rules, rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"get"}})
	}
	return role, rbac.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbac.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: meta,
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects:   []rbac.Subject{{Kind: rbac.GroupKind, APIGroup: rbac.GroupName, Name: "system:nodes"}},
	}
}

// KubeletFlags are those that a kubelet needs.
func (n Node) KubeletFlags() []string {
	flags := []string{"--image-credential-provider-config=" + ConfigPath, "--image-credential-provider-bin-dir=" + BinDir}
	if n.Version < cacheTypeVersion {
		flags = append(flags, "--feature-gates=KubeletServiceAccountTokenForCredentialProviders=true")
	}
	return flags
}

// ConfigYAML is the file for the node.
func (n Node) ConfigYAML() ([]byte, error) {
	body, err := toYAML(n.Config())
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	fmt.Fprintf(&head, "# For kubelet 1.%d%s on each node: this file as %s,\n# the program as %s/%s, and the flags\n",
		n.Version, map[bool]string{true: " and later"}[n.Version >= cacheTypeVersion], ConfigPath, BinDir, n.program())
	for _, flag := range n.KubeletFlags() {
		fmt.Fprintf(&head, "#   %s\n", flag)
	}
	return append([]byte(head.String()), body...), nil
}

// RightsYAML is for kubectl apply.
func (n Node) RightsYAML() ([]byte, error) {
	role, binding := n.Rights()
	first, err := toYAML(role)
	if err != nil {
		return nil, err
	}
	second, err := toYAML(binding)
	if err != nil {
		return nil, err
	}
	return slices.Concat(first, []byte("---\n"), second), nil
}

// toYAML leaves out what has no value: kubelet 1.33 refuses even an empty
// cacheType.
func toYAML(object any) ([]byte, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	return yaml.Marshal(withoutEmpty(fields))
}

func withoutEmpty(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, part := range value {
			if part == nil || key == "cacheType" && part == "" || key == "creationTimestamp" {
				delete(value, key)
				continue
			}
			value[key] = withoutEmpty(part)
		}
	case []any:
		for i, part := range value {
			value[i] = withoutEmpty(part)
		}
	}
	return value
}

// maxConfig bounds the file in bytes.
const maxConfig = 1 << 20

// ReadConfig reads the file of a CredentialProviderConfig.
func ReadConfig(path string) (kubelet.CredentialProviderConfig, error) {
	data, err := httpx.ReadFile(path, maxConfig)
	if err != nil {
		return kubelet.CredentialProviderConfig{}, err
	}
	return ParseConfig(data)
}

// ParseConfig reads a CredentialProviderConfig, as kubelet does: strictly.
func ParseConfig(data []byte) (kubelet.CredentialProviderConfig, error) {
	var config kubelet.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return config, fmt.Errorf("it is no CredentialProviderConfig: %w", err)
	}
	if config.Kind != "CredentialProviderConfig" || !strings.HasPrefix(config.APIVersion, "kubelet.config.k8s.io/") {
		return config, fmt.Errorf("it is a %.60q of %.60q, not a CredentialProviderConfig of kubelet.config.k8s.io/v1", config.Kind, config.APIVersion)
	}
	if len(config.Providers) == 0 {
		return config, errors.New("it has no providers")
	}
	return config, nil
}
