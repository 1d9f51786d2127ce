package verify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

const (
	// AWS STS gives up after about 5 s (repost.aws, InvalidIdentityToken article).
	answerLimit = 5 * time.Second
	slowAnswer  = 2 * time.Second
	// lifetimeLimit is the lifetime that kube-apiserver itself announces for
	// static keys, and what GCS uses if nothing is set.
	lifetimeLimit = time.Hour
	renewalTime   = 14 * 24 * time.Hour

	notAsked   = "not fetched, because an earlier check failed"
	unanswered = "no answer came"
	badAnswer  = "there was no usable answer"
)

// checks checks how one of the two documents is served. id is the prefix of the
// check IDs, and what the name of the document.
func (f fetched) checks(id, what string, types ...string) []Check {
	asked, answer, whole := unless(f.asked, notAsked), unless(f.answered(), f.noAnswer()), unless(f.ok(), f.noAnswer())
	return rows(
		row{id + "-reachable", what + " can be reached", asked, f.reachable()},
		row{id + "-tls", what + " has a valid TLS certificate", asked, f.certificate()},
		row{id + "-redirect", what + " is not a redirect", answer, f.redirect()},
		row{id + "-status", what + " is public", answer, f.status()},
		row{id + "-size", what + " is not too large", answer, f.size()},
		row{id + "-content-type", what + " has the right content type", whole, f.contentType(types)},
		row{id + "-answer-time", what + " is served in time", whole, f.answerTime()},
		row{id + "-cache", what + " has a short cache lifetime", whole, f.cacheLifetime()},
		row{id + "-cached-copy", what + " is the same with and without caches", whole, f.cachedCopy()},
	)
}

// answered reports whether there was an HTTP answer.
func (f fetched) answered() bool {
	return f.asked && (f.err == nil || errors.Is(f.err, httpx.ErrTooLarge))
}

// ok reports whether the answer is a whole document.
func (f fetched) ok() bool {
	return f.asked && f.err == nil && f.plain.status == http.StatusOK
}

// html reports whether the body is a web page. Then only its type is checked.
func (f fetched) html() bool {
	start := bytes.TrimLeft(f.plain.body, " \t\r\n")
	return len(start) > 0 && start[0] == '<'
}

func (f fetched) unreachable() *UnreachableError {
	var u *UnreachableError
	errors.As(f.err, &u)
	return u
}

// reachable returns Error if this machine's network may be the cause. If
// only the jwks_uri can't be reached, that is a failure, since the document
// came over the same network.
func (f fetched) reachable() Check {
	u := f.unreachable()
	switch {
	case u == nil:
		return pass("%s", httpx.Clip(f.plain.url))
	case u.Failure.TLS():
		return pass("%s is reachable, but TLS failed", httpx.Clip(u.URL))
	}
	cause, cure := u.explain()
	if f.led && (u.Failure == httpx.NoSuchHost || u.Failure == httpx.Refused) {
		return fail(httpx.Clip(u.URL), "jwks_uri can't be reached: "+cause, cure)
	}
	return unchecked(httpx.Clip(u.URL), cause, cure)
}

func (f fetched) certificate() Check {
	u := f.unreachable()
	switch {
	case u != nil && u.Failure.TLS():
		cause, cure := u.explain()
		evidence := "no certificate was seen"
		if chain := sentChain(u.Err); len(chain) > 0 {
			evidence = fmt.Sprintf("%s, %d sent", describe(chain[0]), len(chain))
		}
		return fail(evidence, cause, cure)
	case u != nil:
		return blocked(unanswered)
	case f.plain.tls == nil || len(f.plain.tls.PeerCertificates) == 0:
		return skip("plain http")
	}
	first := firstToExpire(f.plain)
	left := first.NotAfter.Sub(f.plainAt)
	evidence := fmt.Sprintf("%s, %d days left", describe(f.plain.tls.PeerCertificates[0]), int(left.Hours()/24))
	switch {
	case left <= 0:
		return fail(describe(first), "a certificate of the chain has expired", "renew it")
	case left < renewalTime:
		return warn(evidence, fmt.Sprintf("a certificate of the chain expires on %s", first.NotAfter.UTC().Format(time.DateOnly)),
			"renew it now, and find out why automatic renewal failed")
	default:
		return pass("%s", evidence)
	}
}

// firstToExpire returns the certificate below the root that expires first.
func firstToExpire(a answer) *x509.Certificate {
	chain := a.tls.PeerCertificates
	if len(a.tls.VerifiedChains) > 0 {
		chain = a.tls.VerifiedChains[0]
	}
	if len(chain) > 1 {
		chain = chain[:len(chain)-1]
	}
	return slices.MinFunc(chain, func(x, y *x509.Certificate) int { return x.NotAfter.Compare(y.NotAfter) })
}

func describe(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return fmt.Sprintf("certificate for %s by %q, valid %s to %s", httpx.Quote(names), httpx.Clip(c.Issuer.String()),
		c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly))
}

// redirect: a bucket's host in another region redirects and breaks STS (ccoctl
// PR#468), and Go clients, which follow redirects, would trust the other host.
func (f fetched) redirect() Check {
	if host := f.plain.redirectHost(); host != "" {
		return fail(fmt.Sprintf("%d to %q", f.plain.status, host),
			"the address redirects, and relying parties do not follow",
			"make the address without a redirect the issuer (on S3 the bucket's own region in the host name; no http to https, no trailing slash, no login in front)")
	}
	return pass("none")
}

func (f fetched) status() Check {
	switch {
	case f.plain.redirectHost() != "":
		return blocked("a redirect")
	case f.plain.status != http.StatusOK:
		cause, cure := badStatus(f.plain.status, hostOf(f.plain.url))
		return fail(fmt.Sprintf("%s answers %d", httpx.Clip(f.plain.url), f.plain.status), cause, cure)
	default:
		return pass("200 to an anonymous GET")
	}
}

func (f fetched) size() Check {
	switch {
	case f.err != nil:
		return fail(fmt.Sprintf("more than %d bytes", discovery.MaxSize), "the answer is too large for one of the two documents", "publish again, and find out what else answers at this address")
	case !f.ok():
		return blocked(badAnswer)
	default:
		return pass("%d bytes", len(f.plain.body))
	}
}

func (f fetched) contentType(want []string) Check {
	header := f.plain.header.Get("Content-Type")
	evidence := fmt.Sprintf("%q", httpx.Clip(header))
	got, _, err := mime.ParseMediaType(header)
	cure := fmt.Sprintf("serve it as %s: set it on the object, or in the web server for files without an extension", want[0])
	switch {
	case f.html():
		return fail(evidence, "the body is a web page: a login page, or a website's fallback for unknown paths",
			"let the two documents through without login, and before the fallback rule")
	case header == "":
		return fail("no Content-Type", "relying parties that check the type refuse the answer", cure)
	case err != nil || !slices.Contains(want, got):
		return fail(evidence, "relying parties that check the type refuse the answer (OpenID Connect Discovery 1.0 section 4.2)", cure)
	default:
		return pass("%s", evidence)
	}
}

func (f fetched) answerTime() Check {
	took := max(f.plain.took, f.fresh.took)
	evidence := took.Round(time.Millisecond).String()
	cure := "serve the documents from a bucket or a cache near the relying parties"
	switch {
	case took > answerLimit:
		return fail(evidence, "AWS STS gives up after about 5 s (repost.aws, InvalidIdentityToken)", cure)
	case took > slowAnswer:
		return warn(evidence, "AWS STS gives up after about 5 s, and this is near it", cure)
	default:
		return pass("%s", evidence)
	}
}

// cacheLifetime: an object in GCS without Cache-Control is public for an hour
// after it was replaced (Google Cloud Storage, built-in caching).
func (f fetched) cacheLifetime() Check {
	life := httpx.FreshnessOf(f.plain.header)
	evidence := life.Lifetime.String()
	if f.plain.header.Get("Age") != "" {
		evidence += fmt.Sprintf(", in a cache for %v", life.Age)
	}
	const cure = "publish with a short Cache-Control (public, max-age=60); a copy that is cached already keeps its old lifetime"
	switch {
	case !life.Known:
		return warn("no max-age", "the answer has no max-age: every cache decides for itself, and GCS adds one hour, during which a new key stays hidden", cure)
	case life.Lifetime > lifetimeLimit:
		return warn(evidence, fmt.Sprintf("a new key may stay hidden for %v, and no token may be signed with it until then", life.Lifetime), cure)
	case life.Age > life.Lifetime:
		return warn(evidence, "a cache serves a copy that is older than its lifetime", "find the cache on the way and make it obey Cache-Control")
	default:
		return pass("%s", evidence)
	}
}

func (f fetched) cachedCopy() Check {
	life := httpx.FreshnessOf(f.plain.header)
	switch {
	case f.freshErr != nil && !errors.Is(f.freshErr, httpx.ErrTooLarge):
		return unchecked("a second request got no answer", "the connection failed between two requests", "run it again")
	case f.freshErr == nil && (f.fresh.status >= 500 || f.fresh.status == http.StatusTooManyRequests):
		cause, cure := badStatus(f.fresh.status, hostOf(f.fresh.url))
		return unchecked(fmt.Sprintf("a second request is answered %d", f.fresh.status), cause, cure)
	case f.freshErr == nil && f.fresh.status != http.StatusOK:
		cause, cure := badStatus(f.fresh.status, hostOf(f.fresh.url))
		return fail(fmt.Sprintf("200 from a cache, %d past it", f.fresh.status), "only a cached copy is still public: "+cause, cure)
	case f.freshErr != nil || !bytes.Equal(f.plain.body, f.fresh.body):
		return warn(fmt.Sprintf("two different copies, the cached one is %v old", life.Age),
			fmt.Sprintf("a cache still serves an older copy, for up to %v", life.Remaining()), "wait that long before anything depends on the new copy, then verify again")
	default:
		return pass("the same %d bytes", len(f.plain.body))
	}
}

// noAnswer is why a check that needs an answer is not made.
func (f fetched) noAnswer() string {
	switch {
	case !f.asked:
		return notAsked
	case !f.answered():
		return unanswered
	default:
		return badAnswer
	}
}
