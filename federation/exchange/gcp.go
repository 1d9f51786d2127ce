package exchange

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// The addresses of Google's two services.
const (
	STSURL = "https://sts.googleapis.com"
	IAMURL = "https://iamcredentials.googleapis.com"
)

// CloudPlatform is the scope that allows everything that IAM grants.
const CloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

const (
	stsPath   = "/v1/token"
	iamPath   = "/v1/projects/-/serviceAccounts/"
	iamMethod = ":generateAccessToken"
	//nolint:gosec // G101: the name of a kind of token
	subjectTokenType = "urn:ietf:params:oauth:token-type:jwt"
	// iamHost is the prefix of an audience.
	iamHost = "//iam.googleapis.com/"
)

// The names of Google's two services in errors.
const (
	GoogleSTS = "Google's Security Token Service"
	GoogleIAM = "Google's IAM Credentials API"
)

// GCPConfig names a workload identity pool provider and, optionally, a service
// account to impersonate.
type GCPConfig struct {
	// Provider is projects/N/locations/global/workloadIdentityPools/P/providers/X,
	// optionally after //iam.googleapis.com/.
	Provider string
	// ServiceAccount is the e-mail address of the account to impersonate. If
	// empty, the credential is the federated token, which expires with the
	// subject token.
	ServiceAccount string
	// Lifetime of the service account's token, 0 for one hour. More than an
	// hour, up to 12, needs an organisation policy.
	Lifetime time.Duration
	// Scopes of the token, CloudPlatform if empty.
	Scopes []string
	// STSURL and IAMURL are the base URLs of the two services, by default
	// Google's own. Tokens are sent nowhere else.
	STSURL, IAMURL string
	Calling
}

// normal returns the configuration with its defaults, and refuses an invalid
// one.
func (g GCPConfig) normal() (GCPConfig, error) {
	var err error
	if g.Provider, err = ParseProvider(g.Provider); err != nil {
		return g, err
	}
	if g.ServiceAccount != "" && !emailLike(g.ServiceAccount) {
		return g, fmt.Errorf("%q is not the e-mail address of a Google service account", httpx.MaskForeign(g.ServiceAccount))
	}
	const most = 12 * time.Hour
	switch {
	case g.Lifetime != 0 && g.ServiceAccount == "":
		return g, errors.New("a lifetime is allowed only with a service account: a federated token expires with its subject token")
	case g.Lifetime < 0 || g.Lifetime > most || g.Lifetime%time.Second != 0:
		return g, fmt.Errorf("lifetime %v: must be whole seconds, up to %v", g.Lifetime, most)
	}
	if len(g.Scopes) == 0 {
		g.Scopes = []string{CloudPlatform}
	}
	if g.STSURL, err = endpoint(g.STSURL, STSURL, stsPath); err != nil {
		return g, fmt.Errorf("the Security Token Service's address: %w", err)
	}
	if g.IAMURL, err = endpoint(g.IAMURL, IAMURL, ""); err != nil {
		return g, fmt.Errorf("the IAM Credentials API's address: %w", err)
	}
	return g, nil
}

// endpoint returns the base URL without the path of requests.
func endpoint(given, otherwise, path string) (string, error) {
	u, err := serviceURL(cmp.Or(given, otherwise))
	if err != nil {
		return "", err
	}
	return strings.TrimRight(strings.TrimSuffix(u.String(), path), "/"), nil
}

var providerName = regexp.MustCompile(`^projects/([\w-]+)/locations/global/workloadIdentityPools/[\w-]+/providers/[\w-]+$`)

// ParseProvider returns the bare name of a workload identity pool provider.
func ParseProvider(given string) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(given, "https:"), iamHost)
	parts := providerName.FindStringSubmatch(name)
	if parts == nil {
		return "", fmt.Errorf("%q is not the name of a workload identity pool provider: want projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER", httpx.MaskForeign(given))
	}
	if project := parts[1]; strings.Trim(project, "0123456789") != "" {
		return "", fmt.Errorf("%q has the project's ID, and Google requires its number: gcloud projects describe %s --format='value(projectNumber)'", httpx.MaskForeign(given), project)
	}
	return name, nil
}

func emailLike(s string) bool {
	name, domain, _ := strings.Cut(s, "@")
	return strings.Trim(name, ".") != "" && strings.Contains(domain, ".") && plain(name+domain, "-._")
}

// GCP returns the exchange at Google: RFC 8693 at the Security Token Service
// and, for a service account, generateAccessToken.
func GCP(config GCPConfig) (Exchanger, error) {
	config, err := config.normal()
	if err != nil {
		return nil, err
	}
	return &gcp{
		config: config,
		sts:    caller{config.Calling, GoogleSTS, googleReason},
		iam:    caller{config.Calling, GoogleIAM, googleReason},
	}, nil
}

type gcp struct {
	config   GCPConfig
	sts, iam caller
}

func (g *gcp) Exchange(ctx context.Context, subject discovery.Token) (Credential, error) {
	if err := checkSubject(subject); err != nil {
		return Credential{}, err
	}
	if g.config.ServiceAccount == "" {
		return g.federate(ctx, subject.Reveal(), g.config.Scopes)
	}
	federated, err := g.federate(ctx, subject.Reveal(), []string{CloudPlatform})
	if err != nil {
		return Credential{}, err
	}
	return g.impersonate(ctx, federated.Password.Reveal(), subject.Reveal())
}

// federate exchanges the subject token for a federated token.
func (g *gcp) federate(ctx context.Context, subject string, scopes []string) (Credential, error) {
	form := url.Values{
		"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"audience":             {iamHost + g.config.Provider},
		"scope":                {strings.Join(scopes, " ")},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token_type":   {subjectTokenType},
		"subject_token":        {subject},
	}
	var issued struct {
		Token     string `json:"access_token"`
		ExpiresIn int64  `json:"expires_in"`
	}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	asked := time.Now()
	if err := g.sts.post(ctx, g.config.STSURL+stsPath, header, []byte(form.Encode()), &issued, subject); err != nil {
		return Credential{}, err
	}
	var expiry time.Time
	const longest = int64(366 * 24 * time.Hour / time.Second)
	if 0 < issued.ExpiresIn && issued.ExpiresIn <= longest {
		expiry = asked.Add(time.Duration(issued.ExpiresIn) * time.Second)
	}
	return g.sts.googleCredential(issued.Token, expiry, subject)
}

// impersonate exchanges a federated token for one of the service account.
func (g *gcp) impersonate(ctx context.Context, federated, subject string) (Credential, error) {
	lifetime := cmp.Or(g.config.Lifetime, time.Hour)
	body, err := json.Marshal(map[string]any{"scope": g.config.Scopes, "lifetime": fmt.Sprintf("%ds", lifetime/time.Second)})
	if err != nil {
		return Credential{}, err
	}
	var issued struct {
		Token  string `json:"accessToken"`
		Expiry string `json:"expireTime"`
	}
	target := g.config.IAMURL + iamPath + url.PathEscape(g.config.ServiceAccount) + iamMethod
	header := http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + federated}}
	if err := g.iam.post(ctx, target, header, body, &issued, subject, federated); err != nil {
		return Credential{}, err
	}
	expiry, _ := time.Parse(time.RFC3339, issued.Expiry) // the zero time is refused below
	return g.iam.googleCredential(issued.Token, expiry, subject, federated)
}

// googleCredential refuses a token without a lifetime: Google always states one.
func (c caller) googleCredential(token string, expiry time.Time, sent ...string) (Credential, error) {
	credential, err := c.credential("oauth2accesstoken", token, expiry, sent...)
	if err == nil && expiry.IsZero() {
		return Credential{}, c.unusable("the token has no valid lifetime: check the address and the proxy")
	}
	return credential, err
}

// googleReason parses the errors of STS (RFC 6749 section 5.2) and of Google's
// other services (google.rpc.Status).
func googleReason(body []byte) (code, text string) {
	var answer struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return "", ""
	}
	if json.Unmarshal(answer.Error, &code) == nil {
		return code, answer.Description
	}
	var status struct {
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []struct {
			Reason   string `json:"reason"`
			Metadata struct {
				Permission string `json:"permission"`
			} `json:"metadata"`
		} `json:"details"`
	}
	if json.Unmarshal(answer.Error, &status) != nil {
		return "", ""
	}
	text = status.Message
	for _, detail := range status.Details {
		if reason := joined(" ", detail.Reason, detail.Metadata.Permission); reason != "" && !strings.Contains(text, reason) {
			text = joined(" ", text, "("+reason+")")
			break
		}
	}
	return status.Status, text
}
