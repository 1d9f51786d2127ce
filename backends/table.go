// Package backends turns targets such as gs://bucket/prefix into backends.
package backends

import (
	"oidc-publisher/backends/dir"
	"oidc-publisher/backends/gcs"
	"oidc-publisher/backends/internal/target"
	"oidc-publisher/backends/s3"
)

// schemes is the table of backends. A new backend adds one line.
var schemes = table{
	gcs.Scheme,
	s3.Scheme,
	dir.Scheme,
}

type table []target.Scheme
