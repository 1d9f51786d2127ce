// Package backends turns targets such as gs://bucket/prefix into backends.
package backends

import (
	"context"
	"regexp"

	"oidc-publisher/backends/dir"
	"oidc-publisher/backends/gcs"
	"oidc-publisher/backends/s3"
	"oidc-publisher/publish"
)

// Accepted lists the forms of a target, for usage texts and errors.
const Accepted = "gs://BUCKET/PREFIX, s3://BUCKET/PREFIX?region=R&endpoint=URL&path-style=true, file:///PATH or a path"

// scheme is one kind of target.
type scheme struct {
	name       string
	example    string
	parameters []string
	// bucket says what a bucket may be called; nil where there are none.
	bucket *regexp.Regexp
	open   func(context.Context, Target) (publish.Backend, error)
}

// schemes is the table of backends. A new one is one line here.
var schemes = []scheme{
	{"gs", "gs://BUCKET/PREFIX", nil, gcsBucket, openGCS},
	{"s3", "s3://BUCKET/PREFIX?region=REGION", []string{"region", "endpoint", "path-style"}, s3Bucket, openS3},
	{"file", "file:///PATH", nil, nil, openDir},
}

var (
	// https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
	s3Bucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	// https://cloud.google.com/storage/docs/buckets#naming
	gcsBucket = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)
)

func openGCS(ctx context.Context, t Target) (publish.Backend, error) {
	return gcs.Open(ctx, gcs.Config{Bucket: t.bucket, Prefix: t.prefix})
}

func openS3(ctx context.Context, t Target) (publish.Backend, error) {
	return s3.Open(ctx, s3.Config{Bucket: t.bucket, Prefix: t.prefix, Region: t.region, Endpoint: t.endpoint, PathStyle: t.pathStyle})
}

func openDir(_ context.Context, t Target) (publish.Backend, error) { return dir.Open(t.prefix) }
