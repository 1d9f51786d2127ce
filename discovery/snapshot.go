package discovery

import "time"

// Snapshot is what a source saw in one look at a cluster: judged, and not yet
// rewritten.
type Snapshot struct {
	Document Document
	// Keys is the union over all API servers that were asked.
	Keys KeySet
	// Cluster are the names by which this cluster can be told from others,
	// the most reliable first: "uid:" and the UID of the kube-system
	// namespace, "ca:" and the SHA-256 of the cluster's CA certificates.
	// Empty for documents that came as files.
	Cluster []string
	// Canary is the header and issuer of a token minted for this look, or nil
	// where minting was not possible.
	Canary *Canary
	// MaxAge is the lifetime that the API server announces for its keys: one
	// hour for static keys, the time to the next refresh with an external
	// signer (KEP-740). 0 if it said nothing.
	MaxAge time.Duration
	// FetchedAt is when the fetch began, by this machine's clock: every key that
	// a source knew then is in the snapshot. publish.Fetch sets it.
	FetchedAt time.Time
	// Time is the earliest Date of the API servers that answered, and LatestTime
	// the latest; zero without one.
	Time, LatestTime time.Time
	// Warnings are for people: disagreement between API servers, keys that
	// were left out, checks that could not be made.
	Warnings []string
}

// Canary is what a freshly minted service account token says of itself.
type Canary struct {
	KeyID     string
	Algorithm string
	Issuer    string
}
