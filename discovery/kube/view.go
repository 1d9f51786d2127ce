package kube

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// view is the answers of one API server. The source keeps it until the next
// Fetch, so that only changed bytes are parsed and few tokens are minted.
type view struct {
	address  string
	document discovery.Document
	keys     discovery.KeySet
	// documentBody and keysBody are the bytes that were parsed.
	documentBody, keysBody []byte
	// keysSince is when this key set was read first, zero if there was none before.
	keysSince time.Time
	canary    canary

	maxAge time.Duration
	date   time.Time
}

func allowDiscovery(subject string) string {
	return "kubectl create clusterrolebinding oidc-publisher-discovery --clusterrole=system:service-account-issuer-discovery " + subject
}

// fetchFrom reads both documents of an API server. A token is minted before the keys
// are read: the other way round, a server that restarts in between with a new
// key would seem not to publish it.
func (s *Source) fetchFrom(ctx context.Context, from server) (v view, err error) {
	s.mu.Lock()
	v = s.views[from.Address()]
	s.mu.Unlock()
	v.address = from.Address()
	defer func() {
		s.mu.Lock()
		s.views[v.address] = v
		s.mu.Unlock()
	}()
	if err := v.readDocument(ctx, from); err != nil {
		return v, err
	}
	if _, err := s.mintIfDue(ctx, from, &v, false); err != nil {
		return v, err
	}
	changed, err := v.readKeys(ctx, from, s.now())
	if err != nil || !changed {
		return v, err
	}
	if minted, err := s.mintIfDue(ctx, from, &v, true); err != nil || !minted {
		return v, err
	}
	_, err = v.readKeys(ctx, from, s.now())
	return v, err
}

func (v *view) readDocument(ctx context.Context, from server) error {
	r := request{path: discovery.ConfigurationPath, allow: allowDiscovery}
	a, err := from.get(ctx, r)
	if err != nil || bytes.Equal(a.body, v.documentBody) {
		return err
	}
	document, err := discovery.ParseDocument(a.body)
	if err != nil {
		return from.unusable(r, a, err)
	}
	v.document, v.documentBody = document, a.body
	return nil
}

// readKeys reports whether the key set differs from the one read before.
func (v *view) readKeys(ctx context.Context, from server, now time.Time) (changed bool, err error) {
	r := request{path: discovery.JWKSPath, allow: allowDiscovery}
	a, err := from.get(ctx, r)
	if err != nil {
		return false, err
	}
	v.maxAge, v.date = httpx.FreshnessOf(a.header).Lifetime, a.date()
	if bytes.Equal(a.body, v.keysBody) {
		return false, nil
	}
	keys, err := discovery.ParseKeySet(a.body)
	if err != nil {
		return false, from.unusable(r, a, err)
	}
	if changed = v.keysBody != nil; changed {
		v.keysSince = now
	}
	v.keys, v.keysBody = keys, a.body
	return changed, nil
}

// merge makes one snapshot of the servers' answers. Except for the canary it does
// not depend on their order.
func merge(views []view) (discovery.Snapshot, error) {
	first := views[0]
	snapshot := discovery.Snapshot{Document: first.document, Keys: first.keys, MaxAge: first.maxAge}
	sets := make([]discovery.KeySet, len(views))
	for i, v := range views {
		if v.document.Issuer() != first.document.Issuer() {
			return discovery.Snapshot{}, fmt.Errorf("API servers have different issuers: %s has %q, %s has %q: give all of them the same first --service-account-issuer",
				first.address, first.document.Issuer(), v.address, v.document.Issuer())
		}
		sets[i] = v.keys
		if v.canary.warning != "" {
			snapshot.Warnings = append(snapshot.Warnings, v.canary.warning)
		}
		for _, fault := range v.keys.LeftOut() {
			snapshot.Warnings = append(snapshot.Warnings, fmt.Sprintf("API server %s: %v", v.address, fault))
		}
		if snapshot.MaxAge == 0 || v.maxAge > 0 && v.maxAge < snapshot.MaxAge {
			snapshot.MaxAge = v.maxAge
		}
		if snapshot.Time.IsZero() || !v.date.IsZero() && v.date.Before(snapshot.Time) {
			snapshot.Time = v.date
		}
		if v.date.After(snapshot.LatestTime) {
			snapshot.LatestTime = v.date
		}
		if betterDocument(v.document, snapshot.Document) {
			snapshot.Document = v.document
		}
	}
	if len(views) > 1 {
		var err error
		if snapshot.Keys, err = discovery.Union(sets...); err != nil {
			return discovery.Snapshot{}, fmt.Errorf("API servers disagree: %w", err)
		}
	}
	snapshot.Warnings = append(snapshot.Warnings, disagreements(views, snapshot.Keys)...)
	snapshot.Canary = pickCanary(views, snapshot)
	return snapshot, nil
}

// betterDocument prefers the document that lists more algorithms: relying
// parties refuse a token whose algorithm is not listed, and while an EC key
// replaces an RSA key each server lists only its own.
func betterDocument(a, b discovery.Document) bool {
	if x, y := len(a.Algorithms()), len(b.Algorithms()); x != y {
		return x > y
	}
	return bytes.Compare(a.Bytes(), b.Bytes()) < 0
}

func disagreements(views []view, union discovery.KeySet) []string {
	var warnings []string
	for _, v := range views {
		var missing []string
		for _, id := range union.IDs() {
			if _, ok := v.keys.Lookup(id); !ok {
				missing = append(missing, id)
			}
		}
		if len(missing) > 0 {
			warnings = append(warnings, fmt.Sprintf("API server %s does not publish %s, which others do: a rotation is under way, "+
				"or the servers' --service-account-key-file flags differ", v.address, httpx.Quote(missing)))
		}
	}
	return warnings
}
