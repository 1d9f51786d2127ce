package s3

import (
	"errors"
	"net/url"
	"regexp"
	"strings"

	"oidc-publisher/backends/internal/target"
)

// Scheme describes the targets in buckets of S3.
var Scheme = target.Scheme{
	Name:     "s3",
	Form:     "s3://BUCKET/PREFIX?region=R&endpoint=URL&path-style=true",
	Aliases:  []string{"aws", "s3a", "s3n", "minio", "https", "http"},
	Parse:    parse,
	OfIssuer: ofIssuer,
}

// Config is the place to publish to. Only Bucket is required.
type Config struct {
	Bucket string
	// Prefix is put before object names, with a slash between.
	Prefix string
	// Region is the region of the bucket. If empty, it comes from the SDK's
	// chain (AWS_REGION, the profile); with an Endpoint that isn't Amazon's the
	// last resort is us-east-1.
	Region string
	// Endpoint is the base URL of a store other than Amazon's.
	Endpoint string
	// PathStyle puts the bucket into the path instead of the host name, as most
	// other stores require.
	PathStyle bool
}

var (
	// bucketName: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
)

func parse(u *url.URL) (target.Place, error) {
	parameters, err := target.Parameters(u, "region", "endpoint", "path-style")
	if err != nil {
		return nil, err
	}
	bucket, prefix, err := target.Bucket(u, bucketName)
	if err != nil {
		return nil, err
	}
	region, endpoint, pathStyle := parameters["region"], parameters["endpoint"], parameters["path-style"]
	switch {
	case region != "" && !regionName.MatchString(region):
		return nil, errors.New("region must be one such as eu-west-1")
	case endpoint != "" && !isBaseURL(endpoint):
		return nil, errors.New("endpoint must be the base URL of the store, such as https://minio.example.com:9000")
	case pathStyle != "" && pathStyle != "true" && pathStyle != "false":
		return nil, errors.New("path-style must be true or false")
	}
	return Config{bucket, prefix, region, strings.TrimSuffix(endpoint, "/"), pathStyle == "true"}, nil
}

// isBaseURL reports whether the value is a base URL without credentials.
func isBaseURL(value string) bool {
	u, err := url.Parse(value)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" &&
		u.User == nil && u.RawQuery == "" && !u.ForceQuery && !strings.Contains(value, "#")
}

// String returns the target's URL.
func (c Config) String() string {
	var query []string
	if c.Region != "" {
		query = append(query, "region="+url.QueryEscape(c.Region))
	}
	if c.Endpoint != "" {
		// Slashes and colons need no escape, and read better without.
		endpoint := strings.NewReplacer("%3A", ":", "%2F", "/").Replace(url.QueryEscape(c.Endpoint))
		query = append(query, "endpoint="+endpoint)
	}
	if c.PathStyle {
		query = append(query, "path-style=true")
	}
	return target.BucketURL("s3", c.Bucket, c.Prefix, strings.Join(query, "&"))
}

// amazonHost matches the bucket, if it is in the host name, and the region, if
// it is named, of virtual-hosted and path-style, dual-stack, FIPS, China's and
// the legacy hosts. See https://docs.aws.amazon.com/general/latest/gr/s3.html.
var amazonHost = regexp.MustCompile(
	`^(?:(.+)\.)?s3(?:-fips)?(?:\.dualstack)?(?:[.-]([a-z]{2}(?:-[a-z]+)+-[0-9]+))?\.amazonaws\.com(?:\.cn)?$`)

func ofIssuer(host, path string) (target.Place, bool) {
	match := amazonHost.FindStringSubmatch(host)
	if match == nil {
		return nil, false
	}
	c := Config{Bucket: match[1], Region: match[2], Prefix: path}
	if c.Bucket == "" {
		c.Bucket, c.Prefix, _ = strings.Cut(path, "/")
	}
	return c, true
}

// Nearest implements target.Place. Regions are compared only if both are set.
// Objects at an endpoint that isn't Amazon's can't be read at Amazon's hosts.
func (c Config) Nearest(want target.Place) target.Place {
	w, ok := want.(Config)
	if !ok {
		return want
	}
	if isAmazon(c.Endpoint) {
		w.Endpoint = c.Endpoint
	}
	if w.Region == "" || c.Region == "" && c.Bucket == w.Bucket && c.Prefix == w.Prefix && c.Endpoint == w.Endpoint {
		w.Region = c.Region
	}
	w.PathStyle = c.PathStyle
	return w
}

// isAmazon reports whether an endpoint is one of Amazon's own.
func isAmazon(endpoint string) bool {
	if endpoint == "" {
		return true
	}
	u, err := url.Parse(endpoint)
	return err == nil && (strings.HasSuffix(u.Hostname(), ".amazonaws.com") || strings.HasSuffix(u.Hostname(), ".amazonaws.com.cn"))
}
