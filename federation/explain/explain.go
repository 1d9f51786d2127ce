// Package explain explains why a service refused a token, and what to configure
// there. Services answer vaguely by design, so it validates the token against
// the public issuer, as the service did. If both are valid, the cause is in the
// settings of the service.
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

// Options are a token and the service that refused it.
type Options struct {
	Token discovery.Token
	// Service is verify.Cloudsmith or verify.GCP.
	Service verify.RelyingParty
	// Org and ServiceSlug are Cloudsmith's, "" if unknown.
	Org, ServiceSlug string
	// Provider and ServiceAccount are Google's, "" if unknown. Without a
	// Provider, the token's audience may name it.
	Provider, ServiceAccount string
	// Transport carries the requests while connecting while connecting while
	// connecting while connecting while connecting to the issuer, as
	// verify.Options has it.
	Transport http.RoundTripper
	// Now is the clock, nil for time.Now.
	Now func() time.Time
}

// fault is what is probably wrong and what to do about it, each in one line.
type fault struct{ Cause, Cure string }

// Explanation is the likely cause of a refusal.
type Explanation struct {
	fault
	// Trust is what to configure at the service so that it trusts the token.
	Trust Trust
}

// Text returns the explanation as lines of text.
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
// likely cause and the cure. The search for them is bounded by command, which
// may outlive the ctx of the exchange.
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
// requests, to the token's issuer, and none of them contains the token. If the
// context ends early, the explanation lacks what the issuer's documents show.
func Refusal(ctx context.Context, refused *exchange.RefusedError, opts Options) Explanation {
	claims, err := opts.Token.Claims()
	if err != nil {
		return Explanation{fault: fault{"the token " + err.Error(), "give the token alone, as kubectl create token prints it or a projected volume contains it"}}
	}
	if name, err := exchange.ParseProvider(opts.Provider); err == nil {
		opts.Provider = name
	}
	e := Explanation{Trust: TrustOf(claims, opts)}
	if refused.Service == exchange.GoogleIAM { // it accepted the token before
		e.fault = impersonation(refused, claims, opts)
		return e
	}
	found := inspect(ctx, claims, refused, opts)
	settings := cloudsmithFault
	if opts.Service == verify.GCP {
		settings = gcpFault
	}
	hint, otherwise := settings(refused, claims, opts)
	likeliest, aside := cmp.Or(found.first, hint, otherwise), ""
	switch {
	case found.hidden != fault{}: // the service can't reach the issuer
		likeliest = cmp.Or(found.token, hint, found.hidden)
		if likeliest != found.hidden && refused.Status == http.StatusUnauthorized {
			aside = " (and after that: " + found.hidden.Cause + ")"
		}
	case likeliest != found.first:
		aside = found.unseen
	}
	e.fault = fault{likeliest.Cause + aside, likeliest.Cure}
	return e
}

// findings are the faults of issuer and token.
type findings struct {
	// first is the first fault in the report, token is a fault of the token
	// alone, and hidden is an issuer that the service can't reach.
	first, token, hidden fault
	// unseen is what could not be checked from here, in parentheses.
	unseen string
}

// inspect verifies issuer and token as the service does. An issuer without a
// public host is a fault only if the service can't reach it. Even then, known
// faults of the token and the settings come first: the service may run on the
// same machine, or may have uploaded keys.
func inspect(ctx context.Context, claims discovery.Claims, refused *exchange.RefusedError, opts Options) (found findings) {
	report, err := verify.Run(ctx, verify.Options{
		Issuer: claims.Issuer, Token: opts.Token, Audience: first(claims.Audience),
		For: []verify.RelyingParty{opts.Service}, Transport: opts.Transport, Now: opts.Now, Timeout: issuerTimeout,
	})
	if err != nil {
		found.unseen = " (there was no time to check the public issuer)"
	}
	for _, check := range report.Checks {
		text := check.Cause
		if check.Evidence != "" {
			text += " (" + check.Evidence + ")"
		}
		if !strings.HasPrefix(check.ID, "token-") { // it is of the issuer's documents
			text = "the issuer " + claims.Issuer + ": " + text
		}
		bad := fault{line(text), line(check.Cure)}
		switch {
		case check.ID == "issuer-host" && (check.Status == verify.Warn || check.Status == verify.Fail):
			if !verify.Reaches(hostOf("//"+refused.Host), hostOf(claims.Issuer)) {
				found.hidden = fault{bad.Cause, "publish under a public https URL, and make that kube-apiserver's first --service-account-issuer, with the current one as a second while its tokens live"}
				if opts.Service == verify.GCP {
					found.hidden.Cure += "; or upload the keys to the provider (gcloud iam workload-identity-pools providers update-oidc --jwk-json-path)"
				}
			}
		case strings.HasSuffix(check.ID, "issuer-host"):
		case check.Status == verify.Fail:
			found.first = cmp.Or(found.first, bad)
			if ofToken(check.ID) {
				found.token = cmp.Or(found.token, bad)
			}
		case check.Status == verify.Error && found.unseen == "":
			found.unseen = " (what could not be checked from here: " + bad.Cause + ")"
		}
	}
	return found
}

// ofToken reports whether a check depends only on the token, and not on the
// issuer's documents.
func ofToken(id string) bool {
	return id != "token-key" && id != "token-signature" &&
		(strings.HasPrefix(id, "token-") || strings.HasSuffix(id, "issuer-url") || strings.HasSuffix(id, "-audience-length"))
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// cloudsmithFault returns the fault in the organisation's settings at Cloudsmith that
// the answer or the token points to, if any, and the fault if nothing points to one.
func cloudsmithFault(refused *exchange.RefusedError, claims discovery.Claims, opts Options) (hint, otherwise fault) {
	otherwise = fault{
		line(fmt.Sprintf("issuer and token are valid, so no enabled OpenID Connect provider of the organisation %q has the URL %q, claims that match this token, and the service account %q",
			opts.Org, claims.Issuer, opts.ServiceSlug)),
		"compare the provider's settings, character by character; the value of a claim may end in .* as a wildcard",
	}
	switch {
	case refused.Status == http.StatusNotFound:
		hint = fault{fmt.Sprintf("there is no organisation %q at this address", opts.Org), "take --org from the URL of the workspace, and check --cloudsmith-url"}
	case refused.Status == http.StatusBadRequest:
		hint = fault{
			fmt.Sprintf("there is no service account %q in the organisation %q, or the OpenID Connect provider does not list it", opts.ServiceSlug, opts.Org),
			"take --service-slug from the service account's page, and add the account to the provider",
		}
	case refused.Status == http.StatusUnprocessableEntity:
		hint = fault{"Cloudsmith does not accept this organisation, service account or token format", "check --org and --service-slug"}
	case !slices.Contains(claims.Audience, exchange.CloudsmithURL):
		hint = fault{
			line(fmt.Sprintf("the token is for the audience %q, and providers usually require the claim aud to be %q", first(claims.Audience), exchange.CloudsmithURL)),
			"mint tokens for that audience, or change the provider's claim aud to this one",
		}
	}
	return hint, otherwise
}

// compare is the advice to look at the settings of a pool's provider.
const compare = "compare with: gcloud iam workload-identity-pools providers describe"

// gcpFault returns the fault in the settings of the pool's provider that the error code
// of Google's Security Token Service or the token points to, if any, and the fault if
// nothing points to one.
func gcpFault(refused *exchange.RefusedError, claims discovery.Claims, opts Options) (hint, otherwise fault) {
	otherwise = fault{"issuer and token are valid, so the fault is in the provider's settings: issuer URI, allowed audiences, attribute mapping or uploaded keys", compare}
	mentions := func(word string) bool { return strings.Contains(strings.ToLower(refused.Reason), word) }
	expected := "https://iam.googleapis.com/" + opts.Provider
	expectedToo := slices.Contains(claims.Audience, expected) || slices.Contains(claims.Audience, "//iam.googleapis.com/"+opts.Provider)
	const longest = 127
	switch {
	case refused.Code == "invalid_target":
		hint = fault{
			"the provider does not exist, or it or its pool is disabled or deleted: " + opts.Provider,
			"check the project number, the pool and the provider in --provider",
		}
	case len(claims.Subject) > longest:
		hint = fault{fmt.Sprintf("the subject has %d bytes, and google.subject allows %d", len(claims.Subject), longest), "use shorter names, or another attribute mapping"}
	case refused.Code == "unauthorized_client" || mentions("attribute condition"):
		hint = fault{line(fmt.Sprintf("the provider's attribute condition rejects the subject %q", claims.Subject)), compare + " (attributeCondition)"}
	case mentions("connecting"): // to the issuer
	case mentions("audience") || refused.Code == "invalid_grant" && !expectedToo:
		hint = fault{
			line(fmt.Sprintf("the token is for the audience %q, and the provider accepts %q unless it has a list of allowed audiences", first(claims.Audience), expected)),
			"mint tokens for that audience, or add this one to the provider's allowed audiences",
		}
	case mentions("issuer"):
		hint = fault{line(fmt.Sprintf("the provider's issuer URI is not %q, byte for byte", claims.Issuer)), compare + " (oidc.issuerUri)"}
	}
	return hint, otherwise
}

// impersonation explains a refusal of the second step.
func impersonation(refused *exchange.RefusedError, claims discovery.Claims, opts Options) fault {
	switch refused.Status {
	case http.StatusForbidden:
		return fault{line(fmt.Sprintf("%s lacks roles/iam.workloadIdentityUser on the service account %s, or there is no such account", principal(claims, opts), opts.ServiceAccount)), bindCommand(claims, opts)}
	case http.StatusNotFound:
		return fault{"there is no service account " + opts.ServiceAccount, "check --service-account: gcloud iam service-accounts list"}
	case http.StatusBadRequest:
		return fault{"the lifetime or a scope is not allowed", "ask for at most 1h; more needs the organisation policy iam.allowServiceAccountCredentialLifetimeExtension"}
	default:
		return fault{"the IAM Credentials API does not accept the federated token", "check that the API iamcredentials.googleapis.com is enabled, and this machine's clock"}
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// line turns text that contains claims into one line of bounded length.
func line(text string) string {
	const most = 700
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
