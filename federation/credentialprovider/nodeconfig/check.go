package nodeconfig

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"

	kubelet "k8s.io/kubelet/config/v1"

	"oidc-publisher/federation/credentialprovider"
)

// Match is one pattern of matchImages beside an image.
type Match struct {
	Provider string `json:"provider"`
	Pattern  string `json:"pattern"`
	Matches  bool   `json:"matches"`
	// Why says what is in the way; empty for a match.
	Why string `json:"why,omitempty"`
}

// CheckImage refuses what can be no reference to an image.
func CheckImage(image string) error {
	switch {
	case strings.Contains(image, "://"):
		return fmt.Errorf("%q is no reference to an image: leave the scheme out", image)
	case strings.ContainsFunc(image, unicode.IsSpace):
		return fmt.Errorf("%q is no reference to an image: there are no spaces in one", image)
	}
	if _, err := url.Parse("https://" + image); err != nil {
		return fmt.Errorf("%q is no reference to an image", image)
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
				m.Why = "the pattern can't be read: in the host, [ begins a class of characters"
			} else if !matched {
				m.Why = why(pattern, image)
			}
			all = append(all, m)
		}
	}
	return all
}

// why names the first rule that an image breaks.
func why(pattern, image string) string {
	p, errP := url.Parse("https://" + pattern)
	i, errI := url.Parse("https://" + image)
	if errP != nil || errI != nil {
		return "it is no reference to an image"
	}
	labels, want := strings.Count(i.Hostname(), ".")+1, strings.Count(p.Hostname(), ".")+1
	switch {
	case strings.Contains(pattern, "://"):
		return "a pattern has no scheme: leave https:// out"
	case labels != want:
		return fmt.Sprintf("%s has %d labels and the pattern %d: each * stands for one", i.Hostname(), labels, want)
	case p.Port() != i.Port():
		return fmt.Sprintf("the port of the pattern is %q and that of the image %q", p.Port(), i.Port())
	case strings.ContainsAny(p.Path, "*?"):
		return fmt.Sprintf("a path is taken literally, star and all: write %q", p.Host+literal(p.Path))
	case !strings.HasPrefix(i.Path, p.Path):
		return fmt.Sprintf("the path %q does not begin with %q", i.Path, p.Path)
	default:
		return fmt.Sprintf("the host %q is another", i.Host)
	}
}

// literal is a path up to the folder before its first star.
func literal(p string) string {
	p = p[:strings.IndexAny(p, "*?")]
	if folder := path.Dir(p + "x"); folder != "/" {
		return folder + "/"
	}
	return ""
}

// Report says what kubelet and the plugin do for an image.
type Report struct {
	Image string `json:"image"`
	// Called says whether kubelet calls the plugin, Patterns why.
	Called   bool    `json:"called"`
	Patterns []Match `json:"patterns"`
	// AuthKey is the key of the plugin's credential; without one, Why may say
	// why.
	AuthKey string `json:"authKey"`
	Why     string `json:"why"`
}

// Check compares an image with a configuration and asks the plugin for the key.
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

// AuthKey returns the key under which the plugin would give a credential for an
// image, "" for an image that is not its service's. What the settings leave to
// annotations is what the image suggests.
func (n Node) AuthKey(image string) (key string, err error) {
	settings, parsed := *n.Settings, credentialprovider.ParseImage(image)
	org, _, _ := strings.Cut(parsed.Path, "/")
	for choice, suggestion := range map[*credentialprovider.Choice]string{
		&settings.Org: org, &settings.Service: "any", &settings.Provider: anyProvider,
	} {
		if choice.Default == "" {
			choice.Default = suggestion
		}
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
