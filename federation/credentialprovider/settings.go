package credentialprovider

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"oidc-publisher/federation/exchange"
)

// The providers.
const (
	ProviderCloudsmith = "cloudsmith"
	ProviderGCP        = "gcp"
)

// Providers returns the names of the providers.
func Providers() []string { return []string{ProviderCloudsmith, ProviderGCP} }

// ProgramName is the name of the small program. If the name of a provider follows,
// the program needs no argument.
const ProgramName = "oidc-publisher-credential-provider"

// cloudsmithsOwnName is the name of Cloudsmith's own plugin. Installed under this
// name, the program replaces it without a change of the node's configuration.
const cloudsmithsOwnName = "cloudsmith-kubernetes-credential-provider"

// ProviderOf returns the provider in the name of a program, "" for none.
func ProviderOf(program string) string {
	program = strings.TrimSuffix(path.Base(program), ".exe")
	if program == cloudsmithsOwnName {
		return ProviderCloudsmith
	}
	provider, found := strings.CutPrefix(program, ProgramName+"-")
	if !found || !slices.Contains(Providers(), provider) {
		return ""
	}
	return provider
}

// Settings are the settings of a node's administrator.
type Settings struct {
	// Registries are the hosts of the images, the service's own if none.
	Registries []string
	// Timeout bounds an answer.
	Timeout time.Duration

	// Org and Service are Cloudsmith's; Provider and ServiceAccount are Google's.
	Org, Service, Provider, ServiceAccount Choice

	// The addresses of the services, by default their own.
	CloudsmithURL, STSURL, IAMURL string
}

// NewSettings returns the defaults.
func NewSettings() *Settings {
	return &Settings{
		Timeout:        Budget,
		Org:            Choice{Flag: "org", Annotation: CloudsmithOrgAnnotation, usage: "`SLUG` of the Cloudsmith organisation", env: []string{"CLOUDSMITH_ORG_SLUG", "CLOUDSMITH_ORG"}},
		Service:        Choice{Flag: "service-slug", Annotation: CloudsmithServiceAnnotation, usage: "`SLUG` of the Cloudsmith service account", env: []string{"CLOUDSMITH_SERVICE_SLUG"}},
		Provider:       Choice{Flag: "provider", Annotation: GCPProviderAnnotation, usage: "full `NAME` of the workload identity provider"},
		ServiceAccount: Choice{Flag: "service-account", Annotation: GCPServiceAccountAnnotation, usage: "`EMAIL` of the Google service account", optional: true},
	}
}

// Choices returns the choices of a provider.
func (s *Settings) Choices(provider string) []*Choice {
	return map[string][]*Choice{ProviderCloudsmith: {&s.Org, &s.Service}, ProviderGCP: {&s.Provider, &s.ServiceAccount}}[provider]
}

// Hosts returns the registries of a provider, as patterns.
func (s *Settings) Hosts(provider string) []string {
	if len(s.Registries) > 0 {
		return s.Registries
	}
	return map[string][]string{ProviderCloudsmith: {CloudsmithHost}, ProviderGCP: {"gcr.io", "*.gcr.io", "*.pkg.dev"}}[provider]
}

// Flag is a setting on the command line.
type Flag struct {
	Name, Usage string
	// Env are its environment variables; the first that is set counts.
	Env []string
	// Many is set for a repeatable flag; in the environment commas separate
	// the values.
	Many bool
	// Set parses and sets a value.
	Set func(value string) error
}

// Flags returns the flags of a provider.
func (s *Settings) Flags(provider string) []Flag {
	flags := []Flag{
		{Name: "registry", Many: true, Usage: "registry `HOST` of the images, such as *.example.com; repeatable (default: the service's own)", Set: s.addRegistry},
		{Name: "timeout", Usage: fmt.Sprintf("`DURATION` limit for an answer, all attempts together (default: %v)", Budget), Set: s.setTimeout},
	}
	for _, c := range s.Choices(provider) {
		otherwise := textFlag("default-"+c.Flag, "default "+c.usage+", without annotation "+c.Annotation, &c.Default)
		otherwise.Env = c.env
		flags = append(flags, textFlag(c.Flag, c.usage+"; others are refused", &c.Pinned), otherwise)
	}
	switch provider {
	case ProviderCloudsmith:
		flags = append(flags, textFlag("cloudsmith-url", "base `URL` of Cloudsmith's API (default: "+exchange.CloudsmithURL+")", &s.CloudsmithURL))
	case ProviderGCP:
		flags = append(flags,
			textFlag("sts-url", "base `URL` of Google's Security Token Service", &s.STSURL),
			textFlag("iam-url", "base `URL` of Google's IAM Credentials API", &s.IAMURL))
	}
	for i := range flags {
		own := "OIDC_PUBLISHER_" + strings.ToUpper(strings.ReplaceAll(flags[i].Name, "-", "_"))
		flags[i].Env = append([]string{own}, flags[i].Env...)
	}
	return flags
}

func textFlag(name, usage string, value *string) Flag {
	return Flag{Name: name, Usage: usage, Set: func(given string) error { *value = given; return nil }}
}

// addRegistry refuses a value that is not a host.
func (s *Settings) addRegistry(host string) error {
	if _, err := path.Match(host, ""); err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf("--registry %q is not a host: use HOST or HOST:PORT, like docker.example.com", host)
	}
	s.Registries = append(s.Registries, host)
	return nil
}

func (s *Settings) setTimeout(given string) error {
	// Kubelet does not wait longer.
	const most = 55 * time.Second
	d, err := time.ParseDuration(given)
	if _, number := strconv.ParseUint(given, 10, 32); err != nil && number == nil {
		return fmt.Errorf("--timeout %s: use a unit, such as 25s", given)
	}
	if err != nil || d <= 0 || d > most {
		return fmt.Errorf("--timeout %q: must be a duration up to %v, such as 25s", given, most)
	}
	s.Timeout = d
	return nil
}

// ReadEnv sets the flags that were not given from the environment.
func (s *Settings) ReadEnv(provider string, given func(flag string) bool, getenv func(string) string) error {
	for _, flag := range s.Flags(provider) {
		at := slices.IndexFunc(flag.Env, func(name string) bool { return getenv(name) != "" })
		if at < 0 || given(flag.Name) {
			continue
		}
		values := []string{getenv(flag.Env[at])}
		if flag.Many {
			values = strings.Split(values[0], ",")
		}
		for _, value := range values {
			if err := flag.Set(value); err != nil {
				return fmt.Errorf("environment variable %s: %w", flag.Env[at], err)
			}
		}
	}
	return nil
}

// Audience returns the default audience of tokens for the service. For Google
// Cloud it is the workload identity provider; "" if only annotations name it.
// It returns an error if the name is not that of a provider.
func (s *Settings) Audience(provider string) (string, error) {
	if provider == ProviderCloudsmith {
		return exchange.CloudsmithURL, nil // as in Cloudsmith's guides
	}
	given := cmp.Or(s.Provider.Pinned, s.Provider.Default)
	if given == "" {
		return "", nil
	}
	name, err := exchange.ParseProvider(given)
	if err != nil {
		return "", err
	}
	return "https://iam.googleapis.com/" + name, nil
}

// Plugin returns the plugin of a provider.
func (s *Settings) Plugin(provider string) (*Plugin, error) {
	access, known := map[string]Service{ProviderCloudsmith: s.cloudsmith, ProviderGCP: s.gcp}[provider]
	if !known {
		return nil, fmt.Errorf("unknown provider %q: use %s", provider, strings.Join(Providers(), " or "))
	}
	service := func(image Image, annotations map[string]string) (*Access, error) {
		if !slices.ContainsFunc(s.Hosts(provider), func(pattern string) bool { return matchHost(pattern, image.Host) }) {
			return nil, nil
		}
		return access(image, annotations)
	}
	return &Plugin{Budget: s.Timeout, Now: time.Now, Service: service}, nil
}
