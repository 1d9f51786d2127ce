package discovery

import "time"

// Snapshot is the result of one fetch from a source: valid documents, not yet
// rewritten.
type Snapshot struct {
	Document Document
	// Keys is the union of the keys of all API servers.
	Keys KeySet
	// Cluster are the names that identify this cluster, the most reliable first: "uid:" and the UID of the kube-system
	// namespace, "ca:" and the SHA-256 of the cluster's CA certificates.
	// Empty for documents that came as files.
	Cluster []string
	// Canary describes the signing key, according to the latest minted token. It
	// is nil if no token could be minted since this key set appeared.
	Canary *Canary
	// MaxAge is the lifetime that the API server announces for its keys: one
	// hour for static keys, the time to the next refresh with an external
	// signer (KEP-740). 0 if it announces none.
	MaxAge time.Duration
	// FetchedAt is when the fetch began, by this machine's clock: every key that
	// a source knew then is in the snapshot. publish.Fetch sets it.
	FetchedAt time.Time
	// Time is the earliest Date of the API servers that answered, and LatestTime
	// the latest; both are zero if no server sent one.
	Time, LatestTime time.Time
	// Warnings are messages for people: disagreement between API servers, keys that
	// were left out, checks that could not be made.
	Warnings []string
}

// Canary is the key, algorithm and issuer of a newly minted service account token.
type Canary struct {
	KeyID     string
	Algorithm string
	Issuer    string
}
