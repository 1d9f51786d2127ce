package discovery

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// KeySet is a valid JWKS: at least one key, all public and valid, each key ID
// once. The zero value is the empty set, which can be neither parsed nor published.
type KeySet struct {
	keys    []Key
	leftOut []*KeyError
	// before and after are the document around the value of "keys".
	before, after []byte
	// raw is the document as parsed, nil once the set differs from it.
	raw []byte
}

// ParseKeySet reads a JWKS and reports every fault that makes it unfit for
// publication, joined into one error; those of a single key are *KeyError. A
// key of unknown type or a second copy is left out (see LeftOut) and does not
// block the rest.
func ParseKeySet(data []byte) (KeySet, error) {
	members, err := parseObject(data)
	if err != nil {
		return KeySet{}, fmt.Errorf("JWKS %w", err)
	}
	m, ok := find(members, "keys")
	if !ok {
		return KeySet{}, &UnfitError{[]error{errors.New(`JWKS has no member "keys"`)}}
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(data[m.start:m.end], &raws); err != nil || raws == nil {
		return KeySet{}, &UnfitError{[]error{errors.New(`JWKS member "keys" is not an array`)}}
	}
	if len(raws) > MaxKeys {
		return KeySet{}, &UnfitError{[]error{fmt.Errorf("JWKS has %d keys, and relying parties accept at most %d", len(raws), MaxKeys)}}
	}
	s := KeySet{
		before: bytes.Clone(data[:m.start]),
		after:  bytes.Clone(data[m.end:]),
		raw:    bytes.Clone(data),
	}
	faults := s.add(raws)
	outside := splice(data, m, []byte("[]"))
	if containsPrivateKey(outside) {
		faults = append(faults, errors.New("JWKS holds private key material outside its keys"))
	}
	if len(faults) == 0 && len(s.keys) == 0 {
		faults = append(faults, errors.New("JWKS has no usable key"))
	}
	if len(faults) > 0 {
		return KeySet{}, &UnfitError{faults}
	}
	return s, nil
}

// add validates the keys one by one and returns the faults of those that can't be
// published.
func (s *KeySet) add(raws []json.RawMessage) []error {
	var faults []error
	for i, raw := range raws {
		key, keyFaults := parseKey(raw)
		other, seen := s.Lookup(key.ID)
		switch {
		case len(keyFaults) == 1 && errors.Is(keyFaults[0], errUnknownType):
			s.leaveOut(i, key.ID, keyFaults[0].Error()+": left out, so tokens signed with it will be refused everywhere")
			continue
		case seen && key.ID != "" && len(keyFaults) == 0 && key.Thumbprint == other.Thumbprint:
			// kube-apiserver does this if it is given one key file twice.
			s.leaveOut(i, key.ID, "is in the set twice: one copy is left out")
			continue
		case seen && key.ID != "":
			keyFaults = append(keyFaults, errors.New("is in the set twice with different key material, so relying parties may pick the wrong one"))
		}
		for _, fault := range keyFaults {
			faults = append(faults, &KeyError{Index: i, KeyID: key.ID, Reason: fault.Error()})
		}
		s.keys = append(s.keys, key)
	}
	return faults
}

func (s *KeySet) leaveOut(index int, id, reason string) {
	s.leftOut = append(s.leftOut, &KeyError{Index: index, KeyID: id, Reason: reason})
	s.raw = nil
}

// Keys returns the keys in the order of the document.
func (s KeySet) Keys() []Key { return slices.Clone(s.keys) }

// Len returns the number of keys.
func (s KeySet) Len() int { return len(s.keys) }

// IDs returns the key IDs in the order of the document.
func (s KeySet) IDs() []string {
	ids := make([]string, len(s.keys))
	for i, k := range s.keys {
		ids[i] = k.ID
	}
	return ids
}

// LeftOut returns the keys that were left out: of unknown type, or a second
// copy of another. Each reason includes the consequence.
func (s KeySet) LeftOut() []*KeyError { return slices.Clone(s.leftOut) }

// Lookup returns the key with that ID.
func (s KeySet) Lookup(id string) (Key, bool) {
	for _, k := range s.keys {
		if k.ID == id {
			return k, true
		}
	}
	return Key{}, false
}

// Bytes returns the document: the bytes that were parsed if the set is still
// the same, else the same document around the keys' own bytes.
func (s KeySet) Bytes() []byte {
	if s.raw != nil {
		return bytes.Clone(s.raw)
	}
	var out bytes.Buffer
	out.Write(s.before)
	out.WriteByte('[')
	for i, k := range s.keys {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(k.raw)
	}
	out.WriteByte(']')
	out.Write(s.after)
	return out.Bytes()
}

// WithKeys returns the same document around other keys, sorted by key ID so
// that the same keys always give the same bytes, whichever API server listed
// them first.
func (s KeySet) WithKeys(keys []Key) KeySet {
	s.keys = slices.Clone(keys)
	slices.SortFunc(s.keys, func(a, b Key) int { return cmp.Compare(a.ID, b.ID) })
	s.leftOut, s.raw = nil, nil
	if s.before == nil {
		s.before, s.after = []byte(`{"keys":`), []byte(`}`)
	}
	return s
}

// Union returns a set with the keys of all given sets, sorted by key ID. Two
// keys with the same ID and different material give a *KeyError. If two sets
// hold the same key in different bytes, one is chosen by its bytes, so that the
// order of the sets does not matter.
func Union(sets ...KeySet) (KeySet, error) {
	if len(sets) == 0 {
		return KeySet{}, nil
	}
	byID := map[string]Key{}
	var faults []error
	var leftOut []*KeyError
	for _, set := range sets {
		leftOut = append(leftOut, set.leftOut...)
		for i, k := range set.keys {
			other, seen := byID[k.ID]
			switch {
			case seen && other.Thumbprint != k.Thumbprint:
				faults = append(faults, &KeyError{Index: i, KeyID: k.ID, Reason: "has different key material on different API servers"})
			case !seen || bytes.Compare(k.raw, other.raw) < 0:
				byID[k.ID] = k
			}
		}
	}
	if len(faults) > 0 {
		return KeySet{}, &UnfitError{faults}
	}
	keys := make([]Key, 0, len(byID))
	for _, k := range byID {
		keys = append(keys, k)
	}
	base := slices.MinFunc(sets, func(a, b KeySet) int {
		return cmp.Or(bytes.Compare(a.before, b.before), bytes.Compare(a.after, b.after))
	})
	union := base.WithKeys(keys)
	union.leftOut = leftOut
	return union, nil
}

// ParseKey reads a single JWK and validates it as ParseKeySet does.
func ParseKey(data []byte) (Key, error) {
	key, faults := parseKey(data)
	if len(faults) > 0 {
		return Key{}, errors.Join(faults...)
	}
	return key, nil
}
