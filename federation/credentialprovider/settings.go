package credentialprovider

import (
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

	// See CloudsmithSettings and GCPSettings.
	Org, Service, Provider, ServiceAccount Choice

	// The addresses of the services, by default their own.
	CloudsmithURL, STSURL, IAMURL string
	// Calling configures the requests.
	Calling exchange.Calling
}

// NewSettings returns the defaults.
func NewSettings() *Settings {
	return &Settings{
		Timeout:        Budget,
		Org:            Choice{Flag: "org", Annotation: CloudsmithOrgAnnotation},
		Service:        Choice{Flag: "service-slug", Annotation: CloudsmithServiceAnnotation},
		Provider:       Choice{Flag: "provider", Annotation: GCPProviderAnnotation},
		ServiceAccount: Choice{Flag: "service-account", Annotation: GCPServiceAccountAnnotation},
	}
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
	switch provider {
	case ProviderCloudsmith:
		flags = append(flags, choiceFlags(&s.Org, "`SLUG` of the Cloudsmith organisation", "CLOUDSMITH_ORG_SLUG", "CLOUDSMITH_ORG")...)
		flags = append(flags, choiceFlags(&s.Service, "`SLUG` of the Cloudsmith service account", "CLOUDSMITH_SERVICE_SLUG")...)
		flags = append(flags, textFlag("cloudsmith-url", "base `URL` of Cloudsmith's API (default: "+exchange.CloudsmithURL+")", &s.CloudsmithURL))
	case ProviderGCP:
		flags = append(flags, choiceFlags(&s.Provider, "full `NAME` of the workload identity provider")...)
		flags = append(flags, choiceFlags(&s.ServiceAccount, "`EMAIL` of the Google service account")...)
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

// choiceFlags returns --NAME, which pins the value, and --default-NAME.
func choiceFlags(c *Choice, usage string, env ...string) []Flag {
	pinned := textFlag(c.Flag, usage+"; others are refused", &c.Pinned)
	otherwise := textFlag("default-"+c.Flag, "default "+usage+", without annotation "+c.Annotation, &c.Default)
	otherwise.Env = env
	return []Flag{pinned, otherwise}
}

func textFlag(name, usage string, value *string) Flag {
	return Flag{Name: name, Usage: usage, Set: func(given string) error { *value = given; return nil }}
}

func (s *Settings) addRegistry(host string) error {
	s.Registries = append(s.Registries, host)
	return checkRegistry(host)
}

func (s *Settings) setTimeout(given string) error {
	// Kubelet waits no longer.
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
		if given(flag.Name) {
			continue
		}
		if err := flag.readEnv(getenv); err != nil {
			return err
		}
	}
	return nil
}

func (f Flag) readEnv(getenv func(string) string) error {
	for _, name := range f.Env {
		value := getenv(name)
		if value == "" {
			continue
		}
		values := []string{value}
		if f.Many {
			values = strings.Split(value, ",")
		}
		for _, one := range values {
			if err := f.Set(one); err != nil {
				return fmt.Errorf("environment variable %s: %w", name, err)
			}
		}
		return nil
	}
	return nil
}

// CloudsmithAudience is the audience in Cloudsmith's guides.
const CloudsmithAudience = exchange.CloudsmithURL

// Audience returns the default audience of tokens for the service. For Google
// Cloud it is the workload identity provider; "" if only annotations name it. The
// error means that the name is not one of a provider.
func (s *Settings) Audience(provider string) (string, error) {
	if provider == ProviderCloudsmith {
		return CloudsmithAudience, nil
	}
	audience := ""
	for _, given := range []string{s.Provider.Default, s.Provider.Pinned} {
		if given == "" {
			continue
		}
		name, err := exchange.ParseProvider(given)
		if err != nil {
			return "", err
		}
		audience = "https://iam.googleapis.com/" + name
	}
	return audience, nil
}

// Plugin returns the plugin of a provider.
func (s *Settings) Plugin(provider string) (*Plugin, error) {
	p := &Plugin{Budget: s.Timeout, Now: time.Now, Transport: s.Calling.Transport}
	switch provider {
	case ProviderCloudsmith:
		p.Service = Cloudsmith(CloudsmithSettings{Registries: s.Registries, Org: s.Org, Service: s.Service, New: s.cloudsmith})
	case ProviderGCP:
		p.Service = GCP(GCPSettings{Registries: s.Registries, Provider: s.Provider, ServiceAccount: s.ServiceAccount, New: s.gcp})
	default:
		return nil, fmt.Errorf("unknown provider %q: use %s", provider, strings.Join(Providers(), " or "))
	}
	return p, nil
}

func (s *Settings) cloudsmith(org, service string) (exchange.Exchanger, error) {
	return exchange.Cloudsmith(exchange.CloudsmithConfig{Org: org, Service: service, URL: s.CloudsmithURL, Calling: s.Calling})
}

func (s *Settings) gcp(provider, account string) (exchange.Exchanger, error) {
	return exchange.GCP(exchange.GCPConfig{Provider: provider, ServiceAccount: account, STSURL: s.STSURL, IAMURL: s.IAMURL, Calling: s.Calling})
}
