package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"

	"oidc-publisher/discovery"
)

// Where Google's two services are.
const (
	STSURL = "https://sts.googleapis.com"
	IAMURL = "https://iamcredentials.googleapis.com"
)

// CloudPlatform is the scope that allows whatever IAM allows.
const CloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

const (
	stsPath   = "/v1/token"
	iamPath   = "/v1/projects/-/serviceAccounts/"
	iamMethod = ":generateAccessToken"
	//nolint:gosec // G101: the name of a kind of token
	subjectTokenType = "urn:ietf:params:oauth:token-type:jwt"
	// iamHost begins the names of providers.
	iamHost = "//iam.googleapis.com/"
)

// The two services of Google as RefusedError.Service and
// UnavailableError.Service name them.
const (
	GoogleSTS = "Google's Security Token Service"
	GoogleIAM = "Google's IAM Credentials API"
)

// GCPConfig names a workload identity pool provider, and perhaps a service
// account to act as.
type GCPConfig struct {
	// Provider is projects/N/locations/global/workloadIdentityPools/P/providers/X,
	// with //iam.googleapis.com/ before it or without.
	Provider string
	// ServiceAccount is the e-mail address of the account to act as. Empty
	// takes the federated token itself, which lives no longer than the
	// subject token.
	ServiceAccount string
	// Lifetime is that of the service account's token, 0 for one hour.
	// Google gives more than an hour only where an organisation policy
	// allows it, and at most 12.
	Lifetime time.Duration
	// Scopes of the token, CloudPlatform if empty.
	Scopes []string
	// STSURL and IAMURL are the bases of the two services, by default
	// Google's own. No token is sent anywhere else.
	STSURL, IAMURL string
	Calling
}

// normal fills in what was left out and refuses what makes no sense.
func (g GCPConfig) normal() (GCPConfig, error) {
	var err error
	if g.Provider, err = ParseProvider(g.Provider); err != nil {
		return g, err
	}
	if g.ServiceAccount != "" && !emailLike(g.ServiceAccount) {
		return g, fmt.Errorf("%q is not the e-mail address of a Google service account", clean(g.ServiceAccount))
	}
	const most = 12 * time.Hour
	switch {
	case g.Lifetime != 0 && g.ServiceAccount == "":
		return g, errors.New("a lifetime can be asked for only with a service account: the federated token itself lives as long as the token that it is exchanged for")
	case g.Lifetime < 0 || g.Lifetime > most || g.Lifetime%time.Second != 0:
		return g, fmt.Errorf("the lifetime is %v, and must be whole seconds up to %v", g.Lifetime, most)
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

// endpoint returns the base URL without the path that follows it anyway.
func endpoint(given, otherwise, path string) (string, error) {
	if given == "" {
		given = otherwise
	}
	u, err := serviceURL(given)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(strings.TrimSuffix(u.String(), path), "/"), nil
}

// ParseProvider returns the bare name of a workload identity pool provider.
func ParseProvider(given string) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(given, "https:"), iamHost)
	parts := strings.Split(name, "/")
	form := []string{"projects", "", "locations", "global", "workloadIdentityPools", "", "providers", ""}
	const shape = "projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER"
	if len(parts) != len(form) {
		return "", fmt.Errorf("%q is not the name of a workload identity pool provider: it is %s", clean(given), shape)
	}
	for i, want := range form {
		if want != "" && parts[i] != want || want == "" && !plainName(parts[i]) {
			return "", fmt.Errorf("%q is not the name of a workload identity pool provider: it is %s", clean(given), shape)
		}
	}
	if strings.ContainsFunc(parts[1], func(r rune) bool { return !unicode.IsDigit(r) }) {
		return "", fmt.Errorf("%q names the project by its ID, and Google wants its number: gcloud projects describe %s --format='value(projectNumber)'", clean(given), parts[1])
	}
	return name, nil
}

func plainName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
	})
}

func emailLike(s string) bool {
	name, domain, found := strings.Cut(s, "@")
	foreign := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '.' && r != '_'
	}
	return found && name != "" && strings.Contains(domain, ".") && !strings.ContainsFunc(name+domain, foreign) && strings.Trim(name, ".") != ""
}

// GCP exchanges at Google: RFC 8693 at the Security Token Service and, for a
// service account, generateAccessToken. The protocol is
// golang.org/x/oauth2/google/externalaccount's; where its requests go, how
// often, and what is told of the answers is decided here.
func GCP(config GCPConfig) (Exchanger, error) {
	config, err := config.normal()
	if err != nil {
		return nil, err
	}
	g := &gcp{Calling: config.Calling, audience: iamHost + config.Provider, scopes: config.Scopes, lifetime: config.Lifetime}
	g.stsURL = config.STSURL + stsPath
	if config.ServiceAccount != "" {
		g.iamURL = config.IAMURL + iamPath + url.PathEscape(config.ServiceAccount) + iamMethod
	}
	return g, nil
}

type gcp struct {
	Calling
	audience, stsURL, iamURL string
	scopes                   []string
	lifetime                 time.Duration
}

func (g *gcp) Exchange(ctx context.Context, subject discovery.Token) (Credential, error) {
	if err := checkSubject(subject); err != nil {
		return Credential{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	gate := &gate{gcp: g, secrets: []string{subject.Reveal()}, service: GoogleSTS}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: gate})
	source, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
		Audience: g.audience, SubjectTokenType: subjectTokenType, SubjectTokenSupplier: supplier{subject},
		TokenURL: g.stsURL, ServiceAccountImpersonationURL: g.iamURL,
		ServiceAccountImpersonationLifetimeSeconds: int(g.lifetime / time.Second), Scopes: g.scopes,
	})
	if err != nil {
		return Credential{}, err
	}
	token, err := source.Token()
	switch {
	case gate.err != nil:
		return Credential{}, gate.err
	case err != nil: // its text may hold the answer
		return Credential{}, gate.caller().unfit("not in the form of a token with a lifetime: check the address, and what stands in between")
	}
	credential := Credential{Username: "oauth2accesstoken", Password: discovery.NewToken(token.AccessToken), Expiry: token.Expiry}
	if err := credential.check(token.AccessToken, g.now(), subject.Reveal()); err != nil {
		return Credential{}, gate.caller().unfit(err.Error())
	}
	return credential, nil
}

type supplier struct{ token discovery.Token }

func (s supplier) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	return s.token.Reveal(), nil
}

// gate is the one way out for the library: to the two addresses, with retries,
// and with what went wrong kept, which the library would flatten into text.
type gate struct {
	*gcp
	// secrets grow by what the services issue on the way.
	secrets []string
	service string
	err     error
}

func (g *gate) caller() caller {
	return caller{Calling: g.Calling, service: g.service, reason: googleReason}
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := g.pass(req)
	if err != nil {
		g.err = err
		return nil, err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(answer)), ContentLength: int64(len(answer)),
	}, nil
}

func (g *gate) pass(req *http.Request) ([]byte, error) {
	var body []byte
	if req.Body != nil {
		defer req.Body.Close()
		var err error
		if body, err = io.ReadAll(io.LimitReader(req.Body, maxAnswer)); err != nil {
			return nil, err
		}
	}
	switch req.URL.String() {
	case g.stsURL:
		g.service = GoogleSTS
	case g.iamURL:
		g.service = GoogleIAM
	default:
		return nil, fmt.Errorf("a token goes to Google's services only, and not to %s", clean(req.URL.Host))
	}
	answer, err := g.caller().post(req.Context(), req.URL.String(), req.Header, body, g.secrets...)
	if err != nil {
		return nil, err
	}
	return answer, g.remember(answer)
}

// remember checks that there is a token in the answer, before the library
// would send the next request without one.
func (g *gate) remember(answer []byte) error {
	var issued struct {
		Federated string `json:"access_token"`
		Access    string `json:"accessToken"`
	}
	if json.Unmarshal(answer, &issued) != nil {
		return g.caller().unfit("it is not the JSON that Google sends: check the address, and what stands in between")
	}
	token := issued.Federated
	if g.service == GoogleIAM {
		token = issued.Access
	}
	if err := (Credential{}).check(token, g.now(), g.secrets...); err != nil {
		return g.caller().unfit(err.Error())
	}
	g.secrets = append(g.secrets, token)
	return nil
}
