// Package discovery holds the two documents by which a Kubernetes API server
// tells relying parties how to check its service account tokens: the OpenID
// provider configuration (OpenID Connect Discovery 1.0) and the JWKS (RFC 7517).
//
// It is pure: it parses, judges and rewrites bytes and touches neither network
// nor disk. What it accepts is fit for publication; what passes through it
// keeps its bytes.
package discovery
