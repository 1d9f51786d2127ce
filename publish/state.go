package publish

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"oidc-publisher/discovery"
)

// StateName is the object beside the documents that records, across runs, the
// owner of the target and the life cycle of each key. It may be as public as
// the documents: it names the cluster's UID and CA and key IDs, and holds no
// secret.
const StateName = ".oidc-publisher.json"

const (
	stateVersion = 1
	stateAbout   = "Memory of oidc-publisher. Nothing in it is secret. Without it retired and revoked keys are forgotten, so do not delete it."
	// maxDropped is how many dropped keys are remembered, so that their key IDs
	// can't come back with other material.
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

	// others are members that a newer program wrote.
	others map[string]json.RawMessage
}

// keyMemory is the recorded life cycle of one key. A key is current, then
// retired, then dropped; a revoked key is not public however often the cluster
// lists it.
type keyMemory struct {
	KeyID      string     `json:"kid"`
	Thumbprint string     `json:"thumbprint"`
	FirstSeen  time.Time  `json:"first_seen"`
	Retired    *time.Time `json:"retired,omitempty"`
	// Missed is set once the key was listed again after it was retired, as by one
	// of two API servers: when a writer last missed it. Retired is then moved
	// forward while it is listed.
	Missed  *time.Time `json:"missed,omitempty"`
	Revoked *time.Time `json:"revoked,omitempty"`
	Dropped *time.Time `json:"dropped,omitempty"`
	// JWK is the key itself, byte for byte, while it is public, so that a
	// damaged public set can be restored.
	JWK string `json:"jwk,omitempty"`

	// key is JWK parsed.
	key discovery.Key
	// others are members that a newer program wrote.
	others map[string]json.RawMessage
}

// newerStateError means that only a newer version of this program understands
// the state.
type newerStateError struct{ version int }

func (e *newerStateError) Error() string {
	return fmt.Sprintf("%s has version %d, and this program knows version %d: use a newer oidc-publisher", StateName, e.version, stateVersion)
}

func parseState(body []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("%s is damaged: it is not the JSON that this tool wrote", StateName)
	}
	if s.Version > stateVersion {
		return nil, &newerStateError{s.Version}
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s is damaged: it has version %d", StateName, s.Version)
	}
	for i, k := range s.Keys {
		if k.JWK == "" {
			continue
		}
		key, err := discovery.ParseKey([]byte(k.JWK))
		if err != nil || key.ID != k.KeyID || key.Thumbprint != k.Thumbprint {
			return nil, fmt.Errorf("%s is damaged: the material of its key %q does not match", StateName, k.KeyID)
		}
		s.Keys[i].key = key
	}
	return &s, nil
}

// salvageRevoked returns the revoked keys of a damaged state, as far as it can
// be read: a revocation must not be lost with the rest.
func salvageRevoked(body []byte) []keyMemory {
	var s struct {
		Keys []struct {
			KeyID      string     `json:"kid"`
			Thumbprint string     `json:"thumbprint"`
			FirstSeen  time.Time  `json:"first_seen"`
			Revoked    *time.Time `json:"revoked"`
		} `json:"keys"`
	}
	if json.Unmarshal(body, &s) != nil {
		return nil
	}
	var revoked []keyMemory
	for _, k := range s.Keys {
		if k.Revoked != nil && k.KeyID != "" {
			revoked = append(revoked, keyMemory{KeyID: k.KeyID, Thumbprint: k.Thumbprint, FirstSeen: k.FirstSeen, Revoked: k.Revoked})
		}
	}
	return revoked
}

func (s state) object() Object {
	s.About, s.Version = stateAbout, stateVersion
	body, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // every field marshals
	}
	return Object{Name: StateName, Body: append(body, '\n'), ContentType: "application/json", CacheControl: "no-store"}
}

// same reports whether two states mean the same, however they were written.
func (s state) same(other state) bool {
	s.Keys, other.Keys = sortedKeys(s.keys()), sortedKeys(other.keys())
	return len(s.Keys) == len(other.Keys) && slices.Equal(s.object().Body, other.object().Body)
}

// keys are the state's keys by ID.
func (s state) keys() map[string]keyMemory {
	byID := map[string]keyMemory{}
	for _, k := range s.Keys {
		byID[k.KeyID] = k
	}
	return byID
}

// revoked are the IDs of revoked keys.
func (s state) revoked() []string {
	var ids []string
	for _, k := range s.Keys {
		if k.Revoked != nil {
			ids = append(ids, k.KeyID)
		}
	}
	return ids
}

// remember returns the record of a key that is seen for the first time.
func remember(key discovery.Key, now time.Time) keyMemory {
	return keyMemory{KeyID: key.ID, Thumbprint: key.Thumbprint, FirstSeen: now, JWK: string(key.Bytes()), key: key}
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

// mergeCluster adds known names of a cluster to those seen, except names of a
// kind that was seen. A CA may be replaced, and only some users may read the UID.
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

// UnmarshalJSON keeps unknown members.
func (s *state) UnmarshalJSON(data []byte) (err error) {
	type plain state
	s.others, err = unmarshalKnown(data, (*plain)(s))
	return err
}

// MarshalJSON writes unknown members too.
func (s state) MarshalJSON() ([]byte, error) {
	type plain state
	return marshalWith(plain(s), s.others)
}

// UnmarshalJSON keeps unknown members.
func (k *keyMemory) UnmarshalJSON(data []byte) (err error) {
	type plain keyMemory
	k.others, err = unmarshalKnown(data, (*plain)(k))
	return err
}

// MarshalJSON writes unknown members too.
func (k keyMemory) MarshalJSON() ([]byte, error) {
	type plain keyMemory
	return marshalWith(plain(k), k.others)
}

// unmarshalKnown fills a pointer to a struct and returns the other members.
func unmarshalKnown(data []byte, known any) (others map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(data, known); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &others); err != nil {
		return nil, err
	}
	fields := reflect.TypeOf(known).Elem()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		maps.DeleteFunc(others, func(member string, _ json.RawMessage) bool { return strings.EqualFold(member, name) })
	}
	return others, nil
}

// marshalWith returns the JSON of a struct, followed by other members.
func marshalWith(known any, others map[string]json.RawMessage) ([]byte, error) {
	data, err := json.Marshal(known)
	if err != nil || len(others) == 0 {
		return data, err
	}
	more, err := json.Marshal(others)
	if err != nil {
		return nil, err
	}
	return append(append(data[:len(data)-1], ','), more[1:]...), nil
}
