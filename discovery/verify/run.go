package verify

import (
	"context"
	"errors"
	"net/http"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// Options select what to verify. Only Issuer is required.
type Options struct {
	// Issuer is the public issuer, exactly as tokens carry it in iss.
	Issuer string
	// Source, if not nil, is the cluster that the public documents must
	// agree with.
	Source *discovery.Snapshot
	// Token, if given, must verify against the public documents.
	Token discovery.Token
	// Audience is what the token's aud must contain.
	Audience string
	// For adds the limits of relying parties.
	For []RelyingParty
	// Transport carries the requests. Nil is a copy of
	// http.DefaultTransport: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and
	// SSL_CERT_DIR are honoured.
	Transport http.RoundTripper
	// Now is the wall clock for the times of tokens and certificates,
	// nil for time.Now.
	Now func() time.Time
	// Timeout bounds each request, 0 for 10 s.
	Timeout time.Duration
}

func (o Options) client() *http.Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	return httpx.Anonymous(o.Transport, o.Timeout)
}

// Run makes every check that the options allow and reports them all. Problems
// with the issuer, the network, the token or the cluster's documents are in the
// report; the error is for invalid options (a relying party without a profile)
// and for a canceled context.
func Run(ctx context.Context, opts Options) (Report, error) {
	for _, party := range opts.For {
		if _, err := ParseRelyingParty(string(party)); err != nil {
			return Report{}, err
		}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	v := collect(ctx, opts)
	// After a timeout the report shows at which check.
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return Report{}, err
	}
	report := Report{Issuer: opts.Issuer, Checks: v.checks(), Verdict: Pass, CertificateExpiry: v.certificateExpiry()}
	for _, c := range report.Checks {
		if c.Status == Fail || c.Status == Error && report.Verdict == Pass {
			report.Verdict = c.Status
		}
	}
	return report, nil
}

// view is everything that was fetched; the checks only read it.
type view struct {
	opts   Options
	issuer discovery.Issuer
	// issuerErr is why nothing was fetched.
	issuerErr error

	document fetched
	parsed   discovery.Document
	parseErr error

	// jwksURI is the check of the document's jwks_uri; the keys are
	// fetched only where it passes.
	jwksURI Check
	keys    fetched
	set     discovery.KeySet
	setErr  error

	claims    discovery.Claims
	claimsErr error
	// now is the local time after everything was fetched.
	now time.Time
}

// certificateExpiry is the earliest of both documents' chains.
func (v view) certificateExpiry() time.Time {
	var earliest time.Time
	for _, f := range []fetched{v.document, v.keys} {
		if !f.answered() || f.plain.tls == nil || len(f.plain.tls.PeerCertificates) == 0 {
			continue
		}
		if end := firstToExpire(f.plain).NotAfter; earliest.IsZero() || end.Before(earliest) {
			earliest = end
		}
	}
	return earliest
}

// fetched is one of the two documents, fetched through caches and again with
// caches asked to revalidate.
type fetched struct {
	asked bool
	// led is set if the address came from the other document, which shows that
	// the network works.
	led              bool
	plain, fresh     answer
	err, freshErr    error
	plainAt, freshAt time.Time
}

// collect fetches what the checks need.
func collect(ctx context.Context, opts Options) view {
	v := view{opts: opts}
	client := opts.client()
	if opts.Token.Given() {
		v.claims, v.claimsErr = opts.Token.Claims()
	}
	if v.issuer, v.issuerErr = discovery.ParseIssuer(opts.Issuer); v.issuerErr == nil {
		v.document = fetch(ctx, client, opts, v.issuer.ConfigurationURL())
	}
	if v.document.ok() && !v.document.html() {
		v.parsed, v.parseErr = discovery.ParseDocument(v.document.plain.body)
		if v.parseErr == nil {
			v.jwksURI = checkJWKSURI(v.issuer, v.parsed.JWKSURI())
		}
	}
	if v.jwksURI.Status == Pass {
		v.keys = fetch(ctx, client, opts, v.parsed.JWKSURI())
		v.keys.led = true
	}
	if v.keys.ok() && !v.keys.html() {
		v.set, v.setErr = discovery.ParseKeySet(v.keys.plain.body)
	}
	v.now = opts.Now()
	return v
}

func fetch(ctx context.Context, client *http.Client, opts Options, target string) fetched {
	f := fetched{asked: true}
	f.plain, f.err = get(ctx, client, target, false)
	f.plainAt = opts.Now()
	if f.answered() {
		f.fresh, f.freshErr = get(ctx, client, target, true)
		f.freshAt = opts.Now()
	}
	return f
}

// checks makes all checks in order.
func (v view) checks() []Check {
	checks := v.issuerChecks()
	checks = append(checks, v.document.checks("document", "discovery document", "application/json")...)
	checks = append(checks, v.documentChecks()...)
	checks = append(checks, v.keys.checks("jwks", "key set", "application/jwk-set+json", "application/json")...)
	checks = append(checks, v.keyChecks()...)
	if v.opts.Source != nil {
		checks = append(checks, v.sourceChecks()...)
	}
	if v.opts.Token.Given() {
		checks = append(checks, v.tokenChecks()...)
	}
	return append(checks, v.partyChecks()...)
}

// What later checks need, or the reason why they are not made.
func (v view) noIssuer() string {
	return unless(v.issuerErr == nil, "the issuer is not usable")
}

func (v view) noDocument() string {
	return unless(v.parsed.Issuer() != "", "the discovery document could not be read")
}

func (v view) noKeys() string { return unless(v.set.Len() > 0, "the key set could not be read") }

func (v view) noToken() string { return unless(v.claimsErr == nil, "the token could not be read") }
