package publish

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"oidc-publisher/discovery"
)

// StateName is the object, beside the documents, that remembers across runs
// who publishes here and how each key lives. It may be as public as the
// documents: it names the cluster's UID and CA and key IDs, and holds no secret.
const StateName = ".oidc-publisher.json"

const (
	stateVersion = 1
	stateAbout   = "Memory of oidc-publisher. Nothing in it is secret. Without it retired keys are forgotten, so do not delete it."
	// maxDropped is how many keys that were dropped are remembered, so that
	// their key IDs can't come back with other material.
	maxDropped = 100
)

type state struct {
	About   string           `json:"about"`
	Version int              `json:"version"`
	Issuer  discovery.Issuer `json:"issuer"`
	// Owner is --owner or the best name of the cluster at first publication.
	Owner string `json:"owner,omitempty"`
	// Cluster are the names of discovery.Snapshot.Cluster.
	Cluster []string    `json:"cluster,omitempty"`
	Keys    []keyMemory `json:"keys"`
	// Probe is set while it is not yet known whether the store honours
	// preconditions.
	Probe string `json:"probe,omitempty"`
}

// keyMemory is the life of one key. A key is current, then retired, then
// dropped; a revoked key is not public however often the cluster lists it.
type keyMemory struct {
	KeyID      string     `json:"kid"`
	Thumbprint string     `json:"thumbprint"`
	FirstSeen  time.Time  `json:"first_seen"`
	Retired    *time.Time `json:"retired,omitempty"`
	Revoked    *time.Time `json:"revoked,omitempty"`
	Dropped    *time.Time `json:"dropped,omitempty"`
	// JWK is the key itself, byte for byte, for as long as it is public, so
	// that a public set that was damaged can be restored whole.
	JWK string `json:"jwk,omitempty"`
}

func parseState(body []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("%s is damaged: it is not the JSON that this tool wrote", StateName)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s has version %d, and this program knows version %d: use a newer oidc-publisher", StateName, s.Version, stateVersion)
	}
	for _, k := range s.Keys {
		if k.JWK == "" {
			continue
		}
		key, err := discovery.ParseKey([]byte(k.JWK))
		if err != nil || key.ID != k.KeyID || key.Thumbprint != k.Thumbprint {
			return nil, fmt.Errorf("%s is damaged: its key %q is not what it says", StateName, k.KeyID)
		}
	}
	return &s, nil
}

func (s state) object() Object {
	s.About, s.Version = stateAbout, stateVersion
	body, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // every field marshals
	}
	return Object{Name: StateName, Body: append(body, '\n'), ContentType: "application/json", CacheControl: "no-store"}
}

// memory is the state's keys by ID, seeded from the public set where there is
// no state: whoever published before did not say when its keys came.
func memory(s *state, public discovery.KeySet, now time.Time) map[string]keyMemory {
	byID := map[string]keyMemory{}
	if s == nil {
		for _, key := range public.Keys() {
			byID[key.ID] = remember(key, now)
		}
		return byID
	}
	for _, k := range s.Keys {
		byID[k.KeyID] = k
	}
	return byID
}

func remember(key discovery.Key, now time.Time) keyMemory {
	return keyMemory{KeyID: key.ID, Thumbprint: key.Thumbprint, FirstSeen: now, JWK: string(key.Bytes())}
}

// sortedKeys lists public and revoked keys by ID and, after them, those that
// were dropped last. A revoked key is never forgotten: it would be taken for new.
func sortedKeys(byID map[string]keyMemory) []keyMemory {
	all := slices.SortedFunc(maps.Values(byID), func(a, b keyMemory) int {
		return cmp.Or(cmp.Compare(b.droppedAt(), a.droppedAt()), cmp.Compare(a.KeyID, b.KeyID))
	})
	kept, dropped := []keyMemory{}, []keyMemory{}
	for _, k := range all {
		if k.JWK != "" || k.Revoked != nil {
			kept = append(kept, k)
		} else {
			dropped = append(dropped, k)
		}
	}
	slices.SortFunc(kept, func(a, b keyMemory) int { return cmp.Compare(a.KeyID, b.KeyID) })
	return append(kept, dropped[:min(len(dropped), maxDropped)]...)
}

// droppedAt is in seconds since 1970, 0 for a key that was not dropped.
func (k keyMemory) droppedAt() int64 {
	if k.Dropped == nil {
		return 0
	}
	return k.Dropped.Unix()
}

// mergeCluster adds what is now known of the cluster to what was known. A CA
// may be replaced, and the UID is readable to some users only.
func mergeCluster(known, seen []string) []string {
	kind := func(name string) string { before, _, _ := strings.Cut(name, ":"); return before }
	merged := slices.Clone(seen)
	for _, name := range known {
		if !slices.ContainsFunc(seen, func(s string) bool { return kind(s) == kind(name) }) {
			merged = append(merged, name)
		}
	}
	slices.SortFunc(merged, func(a, b string) int { return cmp.Compare(b, a) }) // uid: before ca:
	return merged
}
