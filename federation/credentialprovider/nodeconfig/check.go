package nodeconfig

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"

	kubelet "k8s.io/kubelet/config/v1"

	"oidc-publisher/federation/credentialprovider"
)

// Match is the result of one pattern of matchImages for an image.
type Match struct {
	Provider string `json:"provider"`
	Pattern  string `json:"pattern"`
	Matches  bool   `json:"matches"`
	// Why is the reason for no match.
	Why string `json:"why,omitempty"`
}

// CheckImage refuses an invalid image reference.
func CheckImage(image string) error {
	switch {
	case strings.Contains(image, "://"):
		return fmt.Errorf("%q is not an image reference: remove the scheme", image)
	case strings.ContainsFunc(image, unicode.IsSpace):
		return fmt.Errorf("%q is not an image reference: it contains spaces", image)
	}
	if _, err := url.Parse("https://" + image); err != nil {
		return fmt.Errorf("%q is not an image reference", image)
	}
	return nil
}

// Check compares an image with every pattern of a configuration, by kubelet's
// rules.
func Check(config kubelet.CredentialProviderConfig, image string) []Match {
	var all []Match
	for _, provider := range config.Providers {
		for _, pattern := range provider.MatchImages {
			matched, err := credentialprovider.Matches(pattern, image)
			m := Match{Provider: provider.Name, Pattern: pattern, Matches: matched}
			if err != nil {
				m.Why = "invalid pattern: [ in the host begins a character class"
			} else if !matched {
				m.Why = why(pattern, image)
			}
			all = append(all, m)
		}
	}
	return all
}

// why returns the first reason why the pattern does not match. Both can be
// parsed.
func why(pattern, image string) string {
	p, _ := url.Parse("https://" + pattern)
	i, _ := url.Parse("https://" + image)
	labels, want := strings.Count(i.Hostname(), ".")+1, strings.Count(p.Hostname(), ".")+1
	switch {
	case strings.Contains(pattern, "://"):
		return "a pattern has no scheme: remove https://"
	case labels != want:
		return fmt.Sprintf("%s has %d labels and the pattern %d: each * matches one", i.Hostname(), labels, want)
	case p.Port() != i.Port():
		return fmt.Sprintf("the port of the pattern is %q and that of the image %q", p.Port(), i.Port())
	case strings.ContainsAny(p.Path, "*?"):
		return fmt.Sprintf("a path is matched literally, without wildcards: use %q", p.Host+literal(p.Path))
	case !strings.HasPrefix(i.Path, p.Path):
		return fmt.Sprintf("the path %q does not begin with %q", i.Path, p.Path)
	default:
		return fmt.Sprintf("the host %q differs", i.Host)
	}
}

// literal returns the path up to the folder before its first wildcard.
func literal(p string) string {
	p = p[:strings.IndexAny(p, "*?")]
	if folder := path.Dir(p + "x"); folder != "/" {
		return folder + "/"
	}
	return ""
}

// Report is what kubelet and the plugin do for an image.
type Report struct {
	Image string `json:"image"`
	// Called is set if kubelet calls the plugin; Patterns show why.
	Called   bool    `json:"called"`
	Patterns []Match `json:"patterns"`
	// AuthKey is the key of the plugin's credential; if empty, Why may have
	// the reason.
	AuthKey string `json:"authKey"`
	Why     string `json:"why"`
}

// Check compares an image with a configuration and gets the key from the plugin.
func (n Node) Check(config kubelet.CredentialProviderConfig, image string) Report {
	report := Report{Image: image, Patterns: Check(config, image)}
	for _, m := range report.Patterns {
		report.Called = report.Called || m.Matches
	}
	var err error
	if report.AuthKey, err = n.AuthKey(image); err != nil {
		report.Why = err.Error()
	}
	return report
}

// AuthKey returns the key of the plugin's credential for an image, "" for an image
// of another registry. Settings that are left to annotations are derived from the
// image.
func (n Node) AuthKey(image string) (key string, err error) {
	settings, parsed := *n.Settings, credentialprovider.ParseImage(image)
	org, _, _ := strings.Cut(parsed.Path, "/")
	for choice, suggestion := range map[*credentialprovider.Choice]string{
		&settings.Org: org, &settings.Service: "any", &settings.Provider: anyProvider,
	} {
		choice.Default = cmp.Or(choice.Default, suggestion)
	}
	plugin, err := settings.Plugin(n.Provider)
	if err != nil {
		return "", err
	}
	access, err := plugin.Service(parsed, nil)
	if err != nil || access == nil {
		return "", err
	}
	return access.Key, nil
}

const anyProvider = "projects/1/locations/global/workloadIdentityPools/pool/providers/provider"
