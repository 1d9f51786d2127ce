// Package explain says why a service refused a token. Services answer vaguely
// by design, so the same token is held against the public issuer, as the
// service did, and what is left is put down to the service's own settings.
package explain

import (
	"context"
	"fmt"
	"net/http"
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

// Refusal explains why the service refused the token. It sends at most four
// requests, to the token's issuer, and none of them carries the token. A
// context that ends early costs only what the issuer would have told.
func Refusal(ctx context.Context, refused *exchange.RefusedError, opts Options) Explanation {
	claims, err := exchange.ReadClaims(opts.Token)
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
	var unseen string
	if e.Cause, e.Cure, unseen = issuerFault(ctx, claims, opts); e.Cause != "" {
		return e
	}
	if opts.Service == verify.GCP {
		e.Cause, e.Cure = federation(refused, claims, opts)
	} else {
		e.Cause, e.Cure = provider(refused, claims, opts)
	}
	if unseen != "" {
		e.Cause += " (" + unseen + ")"
	}
	return e
}

// issuerFault judges what the service could see of issuer and token. unseen
// says what could not be looked at from here.
func issuerFault(ctx context.Context, claims exchange.Claims, opts Options) (cause, cure, unseen string) {
	report, err := verify.Run(ctx, verify.Options{
		Issuer: claims.Issuer, Token: opts.Token, Audience: first(claims.Audience),
		For: []verify.RelyingParty{opts.Service}, Transport: opts.Transport, Now: opts.Now, Timeout: issuerTimeout,
	})
	if err != nil {
		return "", "", "there was no time to look at the public issuer"
	}
	for _, check := range report.Checks {
		switch {
		case check.Status == verify.Fail:
			return faultLine(claims, check), line(check.Cure), ""
		case check.Status == verify.Error && unseen == "":
			unseen = "what could not be checked from here: " + faultLine(claims, check)
		}
	}
	return "", "", unseen
}

// faultLine names the issuer where the check is of the issuer's documents.
func faultLine(claims exchange.Claims, check verify.Check) string {
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
// be the cause of.
func provider(refused *exchange.RefusedError, claims exchange.Claims, opts Options) (cause, cure string) {
	const usual = "https://api.cloudsmith.io"
	switch {
	case refused.Status == http.StatusNotFound:
		return fmt.Sprintf("there is no organisation %q at this address", opts.Org), "take --org from the URL of the workspace, and check --cloudsmith-url"
	case refused.Status == http.StatusBadRequest:
		return fmt.Sprintf("there is no service account %q in the organisation %q, or the OpenID Connect provider does not list it", opts.ServiceSlug, opts.Org),
			"take --service-slug from the service account's page, and add the account to the provider"
	case refused.Status == http.StatusUnprocessableEntity:
		return "Cloudsmith takes neither this organisation and service account nor the form of the token", "check --org and --service-slug"
	case !slices.Contains(claims.Audience, usual):
		return line(fmt.Sprintf("the token is for the audience %q, and providers usually require the claim aud to be %q", first(claims.Audience), usual)),
			"have tokens made for that audience, or make this one the provider's claim aud"
	default:
		return line(fmt.Sprintf("issuer and token are sound, so no enabled OpenID Connect provider of the organisation %q has the URL %q, claims that this token meets, and the service account %q",
				opts.Org, claims.Issuer, opts.ServiceSlug)),
			"compare the provider's settings, character by character; a claim's value may end in .* to match any rest"
	}
}

// federation explains what only the settings of the pool's provider can be the
// cause of, by the error codes of Google's Security Token Service.
func federation(refused *exchange.RefusedError, claims exchange.Claims, opts Options) (cause, cure string) {
	const describe = "compare with: gcloud iam workload-identity-pools providers describe"
	mentions := func(word string) bool { return strings.Contains(strings.ToLower(refused.Reason), word) }
	expected := "https://iam.googleapis.com/" + opts.Provider
	theirs := slices.Contains(claims.Audience, expected) || slices.Contains(claims.Audience, "//iam.googleapis.com/"+opts.Provider)
	const longest = 127
	switch {
	case refused.Code == "invalid_target":
		return "there is no such provider, or it or its pool is disabled or deleted: " + opts.Provider,
			"check the project number, the pool and the provider in --provider"
	case len(claims.Subject) > longest:
		return fmt.Sprintf("the subject has %d bytes, and google.subject takes %d", len(claims.Subject), longest), "use shorter names, or another attribute mapping"
	case refused.Code == "unauthorized_client" || mentions("attribute condition"):
		return line(fmt.Sprintf("the provider's attribute condition rejects the subject %q", claims.Subject)), describe + " (attributeCondition)"
	case mentions("audience") || refused.Code == "invalid_grant" && !theirs:
		return line(fmt.Sprintf("the token is for the audience %q, and the provider takes %q unless it has a list of allowed audiences", first(claims.Audience), expected)),
			"have tokens made for that audience, or add this one to the provider's allowed audiences"
	case mentions("issuer"):
		return line(fmt.Sprintf("the provider's issuer URI is not %q, byte for byte", claims.Issuer)), describe + " (oidc.issuerUri)"
	default:
		return "issuer and token are sound, so it is the provider's settings: issuer URI, allowed audiences, attribute mapping or uploaded keys", describe
	}
}

// impersonation explains a refusal of the second step.
func impersonation(refused *exchange.RefusedError, claims exchange.Claims, opts Options) (cause, cure string) {
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
