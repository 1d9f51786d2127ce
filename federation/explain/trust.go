package explain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/httpx"
)

// Trust is what to configure at a service so that it trusts a token.
type Trust struct {
	Service verify.RelyingParty
	Values  []Value
	// Commands are shell commands that do the same. Words in capitals are
	// placeholders.
	Commands []string
}

// Value is one setting.
type Value struct{ Name, Value string }

// Lines renders the values and commands.
func (t Trust) Lines() []string {
	if len(t.Values) == 0 {
		return nil
	}
	names := map[verify.RelyingParty]string{verify.Cloudsmith: "Cloudsmith", verify.GCP: "Google Cloud"}
	lines := []string{"configure at " + names[t.Service] + ":"}
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

// Trusts returns what to configure at the services so that they trust the token.
// It is empty for services without an exchange and for a token that can't be read.
func Trusts(services []verify.RelyingParty, token discovery.Token) (all []Trust) {
	claims, err := token.Claims()
	if err != nil {
		return nil
	}
	for _, service := range services {
		if trust := TrustOf(claims, Options{Service: service}); len(trust.Values) > 0 {
			all = append(all, trust)
		}
	}
	return all
}

// TrustOf returns what to configure at the service so that it trusts a token with these
// claims. It is empty for services without an exchange.
func TrustOf(claims discovery.Claims, opts Options) Trust {
	switch opts.Service {
	case verify.Cloudsmith:
		required, _ := json.Marshal(map[string]string{"aud": first(claims.Audience), "sub": claims.Subject}) // can't happen: can't happen: can't happen: can't happen: strings always marshal
		return Trust{Service: verify.Cloudsmith, Values: []Value{
			{"provider URL", line(claims.Issuer)},
			{"claims", line(string(required))},
			{"service account", cmp.Or(opts.ServiceSlug, "SERVICE_SLUG")},
		}}
	case verify.GCP:
		return gcpTrust(claims, opts)
	default:
		return Trust{}
	}
}

func gcpTrust(claims discovery.Claims, opts Options) Trust {
	provider, audience := providerOf(claims, opts), first(claims.Audience)
	t := Trust{Service: verify.GCP, Values: []Value{
		{"issuer", line(claims.Issuer)},
		{"allowed audience", line(audience)},
		{"attribute mapping", "google.subject=assertion.sub"},
		{"principal", line(principal(claims, opts))},
	}}
	if provider == unknownProvider {
		t.Values = append(t.Values, Value{"(fill in)", "NUMBER, POOL and PROVIDER: the token's audience does not contain them"})
	}
	parts := strings.Split(provider, "/")
	create := fmt.Sprintf("gcloud iam workload-identity-pools providers create-oidc %s --project=%s --location=global --workload-identity-pool=%s --issuer-uri=%s --attribute-mapping=google.subject=assertion.sub",
		parts[7], parts[1], parts[5], word(claims.Issuer))
	if strings.TrimPrefix(audience, "https:") != "//iam.googleapis.com/"+provider {
		create += " --allowed-audiences=" + word(audience)
	}
	t.Commands = []string{create, bindCommand(claims, opts)}
	return t
}

const unknownProvider = "projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER"

// providerOf returns the name of the workload identity provider.
func providerOf(claims discovery.Claims, opts Options) string {
	for _, candidate := range slices.Concat([]string{opts.Provider}, claims.Audience) {
		if name, err := exchange.ParseProvider(candidate); err == nil {
			return name
		}
	}
	return unknownProvider
}

func principal(claims discovery.Claims, opts Options) string {
	pool, _, _ := strings.Cut(providerOf(claims, opts), "/providers/")
	return "principal://iam.googleapis.com/" + pool + "/subject/" + claims.Subject
}

// bindCommand returns the command that lets the token's subject use the service
// account or, if there is none, a registry.
func bindCommand(claims discovery.Claims, opts Options) string {
	member := word(principal(claims, opts))
	if opts.ServiceAccount != "" {
		return "gcloud iam service-accounts add-iam-policy-binding " + word(opts.ServiceAccount) + " --role=roles/iam.workloadIdentityUser --member=" + member
	}
	return "gcloud artifacts repositories add-iam-policy-binding REPOSITORY --location=LOCATION --role=roles/artifactregistry.reader --member=" + member
}

// word quotes untrusted text as one word of a shell.
func word(s string) string { return httpx.ShellQuote(line(s)) }
