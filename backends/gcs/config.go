package gcs

import (
	"net/url"
	"regexp"
	"strings"

	"oidc-publisher/backends/internal/target"
)

// Scheme describes the targets in buckets of Cloud Storage.
var Scheme = target.Scheme{
	Name:     "gs",
	Form:     "gs://BUCKET/PREFIX",
	Aliases:  []string{"gcs", "google"},
	Parse:    parse,
	OfIssuer: ofIssuer,
}

// Config is the place to publish to. Only Bucket is required.
type Config struct {
	Bucket string
	// Prefix is put before object names, with a slash between.
	Prefix string
}

// bucketName: https://cloud.google.com/storage/docs/buckets#naming
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

func parse(u *url.URL) (target.Place, error) {
	if _, err := target.Parameters(u); err != nil {
		return nil, err
	}
	bucket, prefix, err := target.Bucket(u, bucketName)
	if err != nil {
		return nil, err
	}
	return Config{Bucket: bucket, Prefix: prefix}, nil
}

// String returns the target's URL.
func (c Config) String() string { return target.BucketURL("gs", c.Bucket, c.Prefix, "") }

// Nearest implements target.Place.
func (Config) Nearest(want target.Place) target.Place { return want }

const host = "storage.googleapis.com"

// ofIssuer reads the bucket from the host name or from the path.
func ofIssuer(issuerHost, path string) (target.Place, bool) {
	bucket, inHost := strings.CutSuffix(issuerHost, "."+host)
	if !inHost {
		if issuerHost != host {
			return nil, false
		}
		bucket, path, _ = strings.Cut(path, "/")
	}
	return Config{Bucket: bucket, Prefix: path}, true
}
