// Package watch keeps an issuer published: it runs a publish.Publisher until it
// is stopped, verifies the public side as a relying party does, and reports in
// logs, metrics and health endpoints. Any number of replicas may run at once.
package watch
