// Package explain says why a service refused a token. Services answer vaguely
// by design, so the same token is held against the public issuer, as the
// service did, and what is left is put down to the service's own settings.
package explain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
)

// Options are a token and where it was to be exchanged.
type Options struct {
	Token discovery.Token
	// Service is verify.Cloudsmith or verify.GCP.
	Service verify.RelyingParty
	// Org and ServiceSlug are Cloudsmith's, "" where unknown.
	Org, ServiceSlug string
	// Provider and ServiceAccount are Google's, "" where unknown. Without
	// Provider the token's audience is looked at for one.
	Provider, ServiceAccount string
	// Transport carries the requests to the issuer, as verify.Options has it.
	Transport http.RoundTripper
	// Now is the clock, nil for time.Now.
	Now func() time.Time
}

// Explanation is the likely cause of a refusal.
type Explanation struct {
	// Cause is one line: what is probably wrong.
	Cause string
	// Cure is one line: what to do about it.
	Cure string
	// Trust is what the service has to be told to trust such tokens.
	Trust Trust
}

// Text is the explanation in lines.
func (e Explanation) Text() string {
	text := "likely cause: " + e.Cause + "\ncure: " + e.Cure
	if lines := e.Trust.Lines(); len(lines) > 0 {
		text += "\nto trust this token, " + strings.Join(lines, "\n")
	}
	return text
}

// issuerTimeout bounds each request to the issuer.
const issuerTimeout = 5 * time.Second

// Exchange exchanges the token of the options. The error of a refusal has the
// likely cause and the cure. They are found within command, which may outlive
// the ctx of the exchange.
func Exchange(ctx, command context.Context, exchanger exchange.Exchanger, opts Options) (exchange.Credential, error) {
	credential, err := exchanger.Exchange(ctx, opts.Token)
	var refused *exchange.RefusedError
	if !errors.As(err, &refused) {
		return credential, err
	}
	command, cancel := context.WithTimeout(command, refusalTimeout)
	defer cancel()
	return credential, fmt.Errorf("%w\n%s", err, Refusal(command, refused, opts).Text())
}

// refusalTimeout bounds the search for the cause.
const refusalTimeout = 15 * time.Second

// Refusal explains why the service refused the token. It sends at most four
// requests, to the token's issuer, and none of them carries the token. A
// context that ends early costs only what the issuer would have told.
func Refusal(ctx context.Context, refused *exchange.RefusedError, opts Options) Explanation {
	claims, err := opts.Token.Claims()
	if err != nil {
		return Explanation{Cause: "what was given " + err.Error(), Cure: "give the token alone, as kubectl create token prints it or as a projected volume has it"}
	}
	if name, err := exchange.ParseProvider(opts.Provider); err == nil {
		opts.Provider = name
	}
	e := Explanation{Trust: trustOf(claims, opts)}
	if refused.Service == exchange.GoogleIAM { // the token itself was taken
		e.Cause, e.Cure = impersonation(refused, claims, opts)
		return e
	}
	found := look(ctx, claims, refused, opts)
	settings, otherwise := provider, anyProvider
	if opts.Service == verify.GCP {
		settings, otherwise = federation, anyFederation
	}
	hint := settings(refused, claims, opts)
	likeliest, aside := cmp.Or(found.first, hint, otherwise(claims, opts)), ""
	switch {
	case found.hidden != fault{}: // what is served there was not seen
		likeliest = cmp.Or(found.token, hint, found.hidden)
		if likeliest != found.hidden && refused.Status == http.StatusUnauthorized {
			aside = "and once that is mended: " + found.hidden.cause
		}
	case likeliest != found.first:
		aside = found.unseen
	}
	e.Cause, e.Cure = likeliest.cause, likeliest.cure
	if aside != "" {
		e.Cause += " (" + aside + ")"
	}
	return e
}

// fault is a cause and what to do about it, in a line each.
type fault struct{ cause, cure string }

// findings are what is wrong with issuer and token.
type findings struct {
	// first is what stands first in the report, token what is wrong with the
	// token wherever its issuer is, and hidden an issuer that the service
	// can't reach.
	first, token, hidden fault
	// unseen says what could not be looked at from here.
	unseen string
}

// look judges what the service could see of issuer and token. An issuer
// without a public host is a fault only where the service is out of its reach,
// and then comes after what is known of token and settings: who runs all on
// one machine, or had keys uploaded, would else hear of nothing else.
func look(ctx context.Context, claims discovery.Claims, refused *exchange.RefusedError, opts Options) (found findings) {
	report, err := verify.Run(ctx, verify.Options{
		Issuer: claims.Issuer, Token: opts.Token, Audience: first(claims.Audience),
		For: []verify.RelyingParty{opts.Service}, Transport: opts.Transport, Now: opts.Now, Timeout: issuerTimeout,
	})
	if err != nil {
		found.unseen = "there was no time to look at the public issuer"
	}
	for _, check := range report.Checks {
		bad := fault{faultLine(claims, check), line(check.Cure)}
		switch {
		case check.ID == "issuer-host" && (check.Status == verify.Warn || check.Status == verify.Fail):
			found.notPublic(claims, check, refused, opts)
		case strings.HasSuffix(check.ID, "issuer-host"):
		case check.Status == verify.Fail:
			found.first = cmp.Or(found.first, bad)
			if ofToken(check.ID) {
				found.token = cmp.Or(found.token, bad)
			}
		case check.Status == verify.Error && found.unseen == "":
			found.unseen = "what could not be checked from here: " + bad.cause
		}
	}
	return found
}

// notPublic judges an issuer whose host is not public.
func (f *findings) notPublic(claims discovery.Claims, check verify.Check, refused *exchange.RefusedError, opts Options) {
	if verify.Reaches(hostOf("//"+refused.Host), hostOf(claims.Issuer)) {
		return
	}
	f.hidden = fault{
		faultLine(claims, check),
		"publish under a public https URL, and make that kube-apiserver's first --service-account-issuer, with the present one as a second while its tokens live",
	}
	if opts.Service == verify.GCP {
		f.hidden.cure += "; or upload the keys to the provider (gcloud iam workload-identity-pools providers update-oidc --jwk-json-path)"
	}
}

// ofToken tells the checks to which nothing matters that the issuer serves.
func ofToken(id string) bool {
	switch id {
	case "token-key", "token-signature":
		return false
	}
	return strings.HasPrefix(id, "token-") || strings.HasSuffix(id, "issuer-url") || strings.HasSuffix(id, "-audience-length")
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// faultLine names the issuer where the check is of the issuer's documents.
func faultLine(claims discovery.Claims, check verify.Check) string {
	text := check.Cause
	if check.Evidence != "" {
		text += " (" + check.Evidence + ")"
	}
	if !strings.HasPrefix(check.ID, "token-") {
		text = fmt.Sprintf("the issuer %s: %s", claims.Issuer, text)
	}
	return line(text)
}

// provider explains what only the organisation's settings at Cloudsmith can
// be the cause of, where answer or token hint at one of them.
func provider(refused *exchange.RefusedError, claims discovery.Claims, opts Options) fault {
	const usual = "https://api.cloudsmith.io"
	switch {
	case refused.Status == http.StatusNotFound:
		return fault{fmt.Sprintf("there is no organisation %q at this address", opts.Org), "take --org from the URL of the workspace, and check --cloudsmith-url"}
	case refused.Status == http.StatusBadRequest:
		return fault{
			fmt.Sprintf("there is no service account %q in the organisation %q, or the OpenID Connect provider does not list it", opts.ServiceSlug, opts.Org),
			"take --service-slug from the service account's page, and add the account to the provider",
		}
	case refused.Status == http.StatusUnprocessableEntity:
		return fault{"Cloudsmith takes neither this organisation and service account nor the form of the token", "check --org and --service-slug"}
	case !slices.Contains(claims.Audience, usual):
		return fault{
			line(fmt.Sprintf("the token is for the audience %q, and providers usually require the claim aud to be %q", first(claims.Audience), usual)),
			"have tokens made for that audience, or make this one the provider's claim aud",
		}
	default:
		return fault{}
	}
}

func anyProvider(claims discovery.Claims, opts Options) fault {
	return fault{
		line(fmt.Sprintf("issuer and token are sound, so no enabled OpenID Connect provider of the organisation %q has the URL %q, claims that this token meets, and the service account %q",
			opts.Org, claims.Issuer, opts.ServiceSlug)),
		"compare the provider's settings, character by character; a claim's value may end in .* to match any rest",
	}
}

// compare is where the settings of a pool's provider can be seen.
const compare = "compare with: gcloud iam workload-identity-pools providers describe"

// federation explains what only the settings of the pool's provider can be the
// cause of, by the error codes of Google's Security Token Service.
func federation(refused *exchange.RefusedError, claims discovery.Claims, opts Options) fault {
	mentions := func(word string) bool { return strings.Contains(strings.ToLower(refused.Reason), word) }
	expected := "https://iam.googleapis.com/" + opts.Provider
	theirs := slices.Contains(claims.Audience, expected) || slices.Contains(claims.Audience, "//iam.googleapis.com/"+opts.Provider)
	const longest = 127
	switch {
	case refused.Code == "invalid_target":
		return fault{
			"there is no such provider, or it or its pool is disabled or deleted: " + opts.Provider,
			"check the project number, the pool and the provider in --provider",
		}
	case len(claims.Subject) > longest:
		return fault{fmt.Sprintf("the subject has %d bytes, and google.subject takes %d", len(claims.Subject), longest), "use shorter names, or another attribute mapping"}
	case refused.Code == "unauthorized_client" || mentions("attribute condition"):
		return fault{line(fmt.Sprintf("the provider's attribute condition rejects the subject %q", claims.Subject)), compare + " (attributeCondition)"}
	case mentions("connecting"): // to the issuer
		return fault{}
	case mentions("audience") || refused.Code == "invalid_grant" && !theirs:
		return fault{
			line(fmt.Sprintf("the token is for the audience %q, and the provider takes %q unless it has a list of allowed audiences", first(claims.Audience), expected)),
			"have tokens made for that audience, or add this one to the provider's allowed audiences",
		}
	case mentions("issuer"):
		return fault{line(fmt.Sprintf("the provider's issuer URI is not %q, byte for byte", claims.Issuer)), compare + " (oidc.issuerUri)"}
	default:
		return fault{}
	}
}

func anyFederation(discovery.Claims, Options) fault {
	return fault{"issuer and token are sound, so it is the provider's settings: issuer URI, allowed audiences, attribute mapping or uploaded keys", compare}
}

// impersonation explains a refusal of the second step.
func impersonation(refused *exchange.RefusedError, claims discovery.Claims, opts Options) (cause, cure string) {
	switch refused.Status {
	case http.StatusForbidden:
		return line(fmt.Sprintf("%s lacks roles/iam.workloadIdentityUser on the service account %s, or there is no such account", principal(claims, opts), opts.ServiceAccount)),
			bindCommand(claims, opts)
	case http.StatusNotFound:
		return "there is no service account " + opts.ServiceAccount, "check --service-account: gcloud iam service-accounts list"
	case http.StatusBadRequest:
		return "the lifetime or a scope is not allowed", "ask for at most 1h; more needs the organisation policy iam.allowServiceAccountCredentialLifetimeExtension"
	default:
		return "the IAM Credentials API does not take the federated token", "check that the API iamcredentials.googleapis.com is enabled, and this machine's clock"
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// line keeps a text that holds claims in one line of bounded length.
func line(text string) string {
	const most = 700
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
