// Package nodeconfig renders the configuration of the credential provider:
// kubelet's CredentialProviderConfig, and the RBAC that lets nodes request
// tokens. It also checks which pattern of a configuration matches an image. The
// plugin does not link it, so that it starts faster.
package nodeconfig

import (
	"bytes"
	"cmp"
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

// The paths on a node in the examples.
const (
	// ConfigPath is the configuration.
	ConfigPath = "/etc/kubernetes/credential-provider.yaml"
	// BinDir is the directory of the plugin.
	BinDir = "/usr/local/bin"
)

// Version is a minor version of Kubernetes 1.
type Version int

// The versions of Kubernetes in which the configuration differs.
const (
	// firstVersion sends tokens to plugins, behind a feature gate.
	firstVersion Version = 33
	// cacheTypeVersion sends them by default, and requires a cacheType.
	cacheTypeVersion Version = 34
)

// ParseVersion parses 1.33, v1.34.2 or 1.34+.
func ParseVersion(text string) (Version, error) {
	major, rest, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(text, "v"), "+"), ".")
	digits, _, _ := strings.Cut(rest, ".")
	minor, err := strconv.Atoi(digits)
	if err != nil || major != "1" {
		return 0, fmt.Errorf("%q is not a version of Kubernetes, such as 1.34", text)
	}
	if Version(minor) < firstVersion {
		return 0, fmt.Errorf("kubelet %s sends no service account tokens to credential providers: use 1.%d or later", text, firstVersion)
	}
	return Version(minor), nil
}

// Node is the configuration of a node.
type Node struct {
	// Version is the version of its kubelet.
	Version Version
	// Provider is one of credentialprovider.Providers.
	Provider string
	// Name is the file name of the plugin. The default name contains the
	// provider. Each further audience needs its own name.
	Name string
	// Audience is the audience of the tokens, as the service expects it.
	Audience string
	// Settings are the settings of the plugin. No annotation is requested for
	// a pinned one.
	Settings *credentialprovider.Settings
	// Args are the arguments of the plugin, and Env its environment.
	Args []string
	Env  []kubelet.ExecEnvVar
}

// program is the name of the plugin and of its RBAC objects.
func (n Node) program() string {
	return cmp.Or(n.Name, credentialprovider.ProgramName+"-"+n.Provider)
}

// Config returns the CredentialProviderConfig. Kubelet 1.33 refuses a cacheType.
func (n Node) Config() kubelet.CredentialProviderConfig {
	args := n.Args
	if credentialprovider.ProviderOf(n.program()) != n.Provider {
		args = append([]string{n.Provider}, args...)
	}
	// Optional: for a service account without a required one kubelet pulls without
	// a credential, and logs nothing.
	var optional []string
	for _, choice := range n.Settings.Choices(n.Provider) {
		if choice.Pinned == "" {
			optional = append(optional, choice.Annotation)
		}
	}
	provider := kubelet.CredentialProvider{
		Name:                 n.program(),
		MatchImages:          n.matchImages(),
		DefaultCacheDuration: &metav1.Duration{}, // the plugin always sends a duration
		APIVersion:           "credentialprovider.kubelet.k8s.io/v1",
		Args:                 args,
		Env:                  n.Env,
		TokenAttributes: &kubelet.ServiceAccountTokenAttributes{
			ServiceAccountTokenAudience:          n.Audience,
			RequireServiceAccount:                new(true),
			OptionalServiceAccountAnnotationKeys: optional,
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

// matchImages returns the registries. If the organisation is pinned, it returns
// only its path on Cloudsmith's own host.
func (n Node) matchImages() []string {
	hosts := slices.Clone(n.Settings.Hosts(n.Provider))
	if org := n.Settings.Org.Pinned; org != "" && n.Provider == credentialprovider.ProviderCloudsmith {
		if at := slices.Index(hosts, credentialprovider.CloudsmithHost); at >= 0 {
			hosts[at] += "/" + org + "/"
		}
	}
	return hosts
}

// Rights returns the RBAC that lets nodes request tokens for this audience only
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

// KubeletFlags returns the flags that kubelet needs.
func (n Node) KubeletFlags() []string {
	flags := []string{"--image-credential-provider-config=" + ConfigPath, "--image-credential-provider-bin-dir=" + BinDir}
	if n.Version < cacheTypeVersion {
		flags = append(flags, "--feature-gates=KubeletServiceAccountTokenForCredentialProviders=true")
	}
	return flags
}

// ConfigYAML returns the file for the node.
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

// RightsYAML returns the RBAC for kubectl apply.
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

// toYAML omits an empty cacheType, which kubelet 1.33 refuses.
func toYAML(object any) ([]byte, error) {
	data, err := yaml.Marshal(object)
	return bytes.ReplaceAll(data, []byte("    cacheType: \"\"\n"), nil), err
}

// maxConfig bounds the file in bytes.
const maxConfig = 1 << 20

// ReadConfig reads a CredentialProviderConfig from a file.
func ReadConfig(path string) (kubelet.CredentialProviderConfig, error) {
	data, err := httpx.ReadFile(path, maxConfig)
	if err != nil {
		return kubelet.CredentialProviderConfig{}, err
	}
	return ParseConfig(data)
}

// ParseConfig parses a CredentialProviderConfig strictly, as kubelet does.
func ParseConfig(data []byte) (kubelet.CredentialProviderConfig, error) {
	var config kubelet.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return config, fmt.Errorf("not a CredentialProviderConfig: %w", err)
	}
	if config.Kind != "CredentialProviderConfig" || !strings.HasPrefix(config.APIVersion, "kubelet.config.k8s.io/") {
		return config, fmt.Errorf("it is a %.60q of %.60q, not a CredentialProviderConfig of kubelet.config.k8s.io/v1", config.Kind, config.APIVersion)
	}
	if len(config.Providers) == 0 {
		return config, errors.New("it has no providers")
	}
	return config, nil
}
