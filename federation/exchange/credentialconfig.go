package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"oidc-publisher/internal/httpx"
)

// credentialConfig is the file that configures the token exchange of Google's
// client libraries (google.aip.dev/auth/4117), with a subject token from a
// file.
type credentialConfig struct {
	Type             string `json:"type"`
	UniverseDomain   string `json:"universe_domain,omitempty"`
	Audience         string `json:"audience"`
	SubjectTokenType string `json:"subject_token_type"`
	TokenURL         string `json:"token_url"`
	ImpersonationURL string `json:"service_account_impersonation_url,omitempty"`
	Impersonation    struct {
		LifetimeSeconds int `json:"token_lifetime_seconds"`
	} `json:"service_account_impersonation,omitzero"`
	Source struct {
		File   string `json:"file"`
		Format struct {
			Type  string `json:"type"`
			Field string `json:"subject_token_field_name,omitempty"`
		} `json:"format"`
	} `json:"credential_source"`
}

// CredentialConfig renders the external_account file with which Google's client
// libraries do this exchange, with a subject token from a file. It has no scopes:
// the libraries add their own.
func (g GCPConfig) CredentialConfig(tokenFile string) ([]byte, error) {
	g, err := g.normal()
	if err != nil {
		return nil, err
	}
	file := credentialConfig{Type: "external_account", Audience: iamHost + g.Provider, SubjectTokenType: subjectTokenType, TokenURL: g.STSURL + stsPath}
	file.Source.File, file.Source.Format.Type = tokenFile, "text"
	file.Impersonation.LifetimeSeconds = int(g.Lifetime / time.Second)
	if g.ServiceAccount != "" {
		file.ImpersonationURL = g.IAMURL + iamPath + g.ServiceAccount + iamMethod
	}
	text, err := json.MarshalIndent(file, "", "  ")
	return append(text, '\n'), err
}

// ReadCredentialConfig parses an external_account file, which is not trusted. Its
// addresses must be those of Google's two services or begin with the given base
// URLs, and its source must be a file: other sources run commands or send requests.
func ReadCredentialConfig(data []byte, stsURL, iamURL string) (GCPConfig, TokenFile, error) {
	var file credentialConfig
	var kinds struct {
		Source map[string]json.RawMessage `json:"credential_source"`
	}
	if json.Unmarshal(data, &file) != nil || json.Unmarshal(data, &kinds) != nil {
		return GCPConfig{}, TokenFile{}, errors.New("is not a credential configuration in JSON")
	}
	for kind := range kinds.Source {
		if kind != "file" && kind != "format" {
			return GCPConfig{}, TokenFile{}, fmt.Errorf("has a credential_source with %q: only a file is allowed, because other sources run commands or send requests", httpx.MaskForeign(kind))
		}
	}
	format := file.Source.Format
	switch {
	case file.Type != "external_account":
		return GCPConfig{}, TokenFile{}, fmt.Errorf("is of type %q, not external_account: workload identity needs no key", httpx.MaskForeign(file.Type))
	case file.UniverseDomain != "" && file.UniverseDomain != "googleapis.com":
		return GCPConfig{}, TokenFile{}, fmt.Errorf("is for the universe %q, not googleapis.com", httpx.MaskForeign(file.UniverseDomain))
	case file.SubjectTokenType != subjectTokenType && file.SubjectTokenType != "urn:ietf:params:oauth:token-type:id_token":
		return GCPConfig{}, TokenFile{}, fmt.Errorf("needs a subject token of type %q, which a service account token is not", httpx.MaskForeign(file.SubjectTokenType))
	case file.Source.File == "":
		return GCPConfig{}, TokenFile{}, errors.New("names no file in its credential_source")
	case format.Type != "" && format.Type != "text" && format.Type != "json", format.Type == "json" && format.Field == "":
		return GCPConfig{}, TokenFile{}, errors.New("has a format of its file that is neither text nor json with a subject_token_field_name")
	}
	var config GCPConfig
	var err error
	if config.Provider, err = ParseProvider(file.Audience); err != nil {
		return GCPConfig{}, TokenFile{}, fmt.Errorf("has an audience that is not a provider: %w", err)
	}
	if config.STSURL, err = googleBase(file.TokenURL, stsURL, STSURL, stsPath); err != nil {
		return GCPConfig{}, TokenFile{}, fmt.Errorf("has a token_url that %w", err)
	}
	if config.IAMURL, config.ServiceAccount, err = impersonated(file.ImpersonationURL, iamURL); err != nil {
		return GCPConfig{}, TokenFile{}, fmt.Errorf("has a service_account_impersonation_url that %w", err)
	}
	if config.ServiceAccount != "" {
		config.Lifetime = time.Duration(min(max(file.Impersonation.LifetimeSeconds, -1), 1<<20)) * time.Second
	}
	source := TokenFile{Path: file.Source.File}
	if format.Type == "json" {
		source.Field = format.Field
	}
	_, err = config.normal()
	return config, source, err
}

// googleBase returns the base of a URL with this path. It must be Google's own
// or the allowed one.
func googleBase(given, allowed, own, path string) (string, error) {
	base, found := strings.CutSuffix(given, path)
	switch {
	case !found:
		return "", fmt.Errorf("does not end in %s", path)
	case base == own || base == strings.TrimRight(allowed, "/") && allowed != "":
		return base, nil
	}
	// A regional endpoint is like https://sts.us-east4.rep.googleapis.com.
	service, _, _ := strings.Cut(own, ".")
	region, isService := strings.CutPrefix(base, service+".")
	region, isRegion := strings.CutSuffix(region, ".rep.googleapis.com")
	if !isService || !isRegion || !plain(region, "-") {
		return "", fmt.Errorf("is not %s%s, and tokens are sent nowhere else: allow it with --sts-url and --iam-url", own, path)
	}
	return base, nil
}

func impersonated(given, allowed string) (base, email string, err error) {
	if given == "" {
		return allowed, "", nil
	}
	rest, found := strings.CutSuffix(given, iamMethod)
	at := strings.LastIndexByte(rest, '/')
	if !found || at < 0 {
		return "", "", fmt.Errorf("does not end in /EMAIL%s", iamMethod)
	}
	email = rest[at+1:]
	base, err = googleBase(rest[:at+1], allowed, IAMURL, iamPath)
	return base, email, err
}
