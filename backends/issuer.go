package backends

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// ForIssuer derives the target from an issuer that lives in a known object
// store under the store's own host name. It is false for every other issuer,
// such as a domain in front of a bucket.
func ForIssuer(issuer string) (Target, bool) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() != "" {
		return Target{}, false
	}
	t, path, ok := store(strings.ToLower(u.Host), strings.Trim(u.Path, "/"))
	if !ok {
		return Target{}, false
	}
	t.prefix = path
	parsed, err := Parse(t.String())
	return t, err == nil && parsed == t
}

const googleHost = "storage.googleapis.com"

// amazonHost matches bucket (if in the host name) and region (if named) of
// virtual-hosted and path-style, dual-stack, FIPS, China's and the legacy
// hosts. See https://docs.aws.amazon.com/general/latest/gr/s3.html.
var amazonHost = regexp.MustCompile(
	`^(?:(.+)\.)?s3(?:-fips)?(?:\.dualstack)?(?:[.-]([a-z]{2}(?:-[a-z]+)+-[0-9]+))?\.amazonaws\.com(?:\.cn)?$`)

// store takes the host and path of an issuer apart.
func store(host, path string) (t Target, prefix string, ok bool) {
	if bucket, found := strings.CutSuffix(host, "."+googleHost); found || host == googleHost {
		t = Target{scheme: "gs", bucket: bucket}
		if !found {
			t.bucket, path, _ = strings.Cut(path, "/")
		}
		return t, path, true
	}
	match := amazonHost.FindStringSubmatch(host)
	if match == nil {
		return Target{}, "", false
	}
	t = Target{scheme: "s3", bucket: match[1], region: match[2]}
	if t.bucket == "" {
		t.bucket, path, _ = strings.Cut(path, "/")
	}
	return t, path, true
}

// CheckIssuer returns an error if the issuer lives in a known object store and
// the target is another place: what is published there would not be what
// relying parties read. Of a directory, or of an issuer under a domain of its
// own, nothing can be said.
func (t Target) CheckIssuer(issuer string) error {
	want, ok := ForIssuer(issuer)
	if !ok || t.Local() || t.serves(want) {
		return nil
	}
	if t.scheme == want.scheme {
		if amazon(t.endpoint) {
			want.endpoint = t.endpoint
		}
		want.pathStyle = t.pathStyle
		if want.region == "" {
			want.region = t.region
		}
	}
	return fmt.Errorf("target %s is not where issuer %s is read from: use --to '%s'", t, issuer, want)
}

// serves reports whether the target is the place that an issuer names. A
// region that either side leaves open is not compared. What another endpoint
// holds can't be read at Amazon's.
func (t Target) serves(want Target) bool {
	return amazon(t.endpoint) && t.scheme == want.scheme && t.bucket == want.bucket && t.prefix == want.prefix &&
		(t.region == want.region || t.region == "" || want.region == "")
}

// amazon reports whether an S3 endpoint is one of Amazon's own.
func amazon(endpoint string) bool {
	if endpoint == "" {
		return true
	}
	u, err := url.Parse(endpoint)
	return err == nil && (strings.HasSuffix(u.Hostname(), ".amazonaws.com") || strings.HasSuffix(u.Hostname(), ".amazonaws.com.cn"))
}
