package explain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
)

// Trust is what to configure at a service so that it trusts a token.
type Trust struct {
	Service verify.RelyingParty
	Values  []Value
	// Commands do the same in a shell. Words in capitals are placeholders.
	Commands []string
}

// Value is one setting.
type Value struct{ Name, Value string }

// Lines renders the values and commands.
func (t Trust) Lines() []string {
	if len(t.Values) == 0 {
		return nil
	}
	lines := []string{"configure at " + display(t.Service) + ":"}
	width := 0
	for _, v := range t.Values {
		width = max(width, len(v.Name))
	}
	for _, v := range t.Values {
		lines = append(lines, fmt.Sprintf("  %-*s  %s", width, v.Name, v.Value))
	}
	for _, command := range t.Commands {
		lines = append(lines, "  "+command)
	}
	return lines
}

func display(service verify.RelyingParty) string {
	if service == verify.GCP {
		return "Google Cloud"
	}
	return "Cloudsmith"
}

// Trusts returns what to configure at the services so that they trust the token.
// It is empty for services without an exchange and for a token that can't be read.
func Trusts(services []verify.RelyingParty, token discovery.Token) (all []Trust) {
	for _, service := range services {
		if trust, err := TrustOf(Options{Service: service, Token: token}); err == nil && len(trust.Values) > 0 {
			all = append(all, trust)
		}
	}
	return all
}

// TrustOf returns what to configure at the service so that it trusts the token,
// which is not verified. It is empty for services without an exchange.
func TrustOf(opts Options) (Trust, error) {
	claims, err := opts.Token.Claims()
	if err != nil {
		return Trust{}, err
	}
	return trustOf(claims, opts), nil
}

func trustOf(claims discovery.Claims, opts Options) Trust {
	switch opts.Service {
	case verify.Cloudsmith:
		return cloudsmithTrust(claims, opts)
	case verify.GCP:
		return gcpTrust(claims, opts)
	default:
		return Trust{}
	}
}

func cloudsmithTrust(claims discovery.Claims, opts Options) Trust {
	required := map[string]string{"aud": first(claims.Audience), "sub": claims.Subject}
	text, err := json.Marshal(required)
	if err != nil { // strings always marshal
		return Trust{}
	}
	return Trust{Service: verify.Cloudsmith, Values: []Value{
		{"provider URL", line(claims.Issuer)},
		{"claims", line(string(text))},
		{"service account", cmp.Or(opts.ServiceSlug, "SERVICE_SLUG")},
	}}
}

func gcpTrust(claims discovery.Claims, opts Options) Trust {
	_, _, _, known := parts(claims, opts)
	t := Trust{Service: verify.GCP, Values: []Value{
		{"issuer", line(claims.Issuer)},
		{"allowed audience", line(first(claims.Audience))},
		{"attribute mapping", "google.subject=assertion.sub"},
		{"principal", line(principal(claims, opts))},
	}}
	if !known {
		t.Values = append(t.Values, Value{"(fill in)", "NUMBER, POOL and PROVIDER: the token's audience does not contain them"})
	}
	t.Commands = []string{createCommand(claims, opts), bindCommand(claims, opts)}
	return t
}

// parts returns the parts of the provider's name, or placeholders if unknown.
func parts(claims discovery.Claims, opts Options) (project, pool, provider string, known bool) {
	for _, candidate := range slices.Concat([]string{opts.Provider}, claims.Audience) {
		if name, err := exchange.ParseProvider(candidate); err == nil {
			p := strings.Split(name, "/")
			return p[1], p[5], p[7], true
		}
	}
	return "NUMBER", "POOL", "PROVIDER", false
}

func principal(claims discovery.Claims, opts Options) string {
	project, pool, _, _ := parts(claims, opts)
	return fmt.Sprintf("principal://iam.googleapis.com/projects/%s/locations/global/workloadIdentityPools/%s/subject/%s", project, pool, claims.Subject)
}

func createCommand(claims discovery.Claims, opts Options) string {
	project, pool, provider, _ := parts(claims, opts)
	command := fmt.Sprintf("gcloud iam workload-identity-pools providers create-oidc %s --project=%s --location=global --workload-identity-pool=%s --issuer-uri=%s --attribute-mapping=google.subject=assertion.sub",
		provider, project, pool, word(claims.Issuer))
	name := fmt.Sprintf("projects/%s/locations/global/workloadIdentityPools/%s/providers/%s", project, pool, provider)
	if aud := first(claims.Audience); aud != "https://iam.googleapis.com/"+name && aud != "//iam.googleapis.com/"+name {
		command += " --allowed-audiences=" + word(aud)
	}
	return command
}

// bindCommand grants the token's subject the use of the service account or,
// without one, of a registry.
func bindCommand(claims discovery.Claims, opts Options) string {
	member := word(principal(claims, opts))
	if opts.ServiceAccount != "" {
		return "gcloud iam service-accounts add-iam-policy-binding " + word(opts.ServiceAccount) + " --role=roles/iam.workloadIdentityUser --member=" + member
	}
	return "gcloud artifacts repositories add-iam-policy-binding REPOSITORY --location=LOCATION --role=roles/artifactregistry.reader --member=" + member
}

// word quotes foreign text as one word of a shell.
func word(s string) string {
	s = line(s)
	plain := func(r rune) bool {
		return r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_./:@=", r))
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
