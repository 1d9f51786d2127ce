// Package discovery holds the two documents with which relying parties verify
// the service account tokens of a Kubernetes API server: the OpenID provider
// configuration (OpenID Connect Discovery 1.0) and the JWKS (RFC 7517). It also
// reads tokens and keeps secrets out of logs.
//
// It is pure: it parses, validates and rewrites bytes and uses neither network
// nor disk. Whatever it accepts may be published, byte for byte as it was read.
package discovery
