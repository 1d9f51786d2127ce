package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"oidc-publisher/discovery"
)

// view is what one API server says.
type view struct {
	address  string
	document discovery.Document
	keys     discovery.KeySet
	canary   *discovery.Canary
	maxAge   time.Duration
	date     time.Time
	warnings []string
}

func allowDiscovery(subject string) string {
	return "kubectl create clusterrolebinding oidc-publisher-discovery --clusterrole=system:service-account-issuer-discovery " + subject
}

// ask mints the canary before it reads the keys: the other way round, a server
// that is restarted with a new key in between would look as if it didn't publish it.
func (s *Source) ask(ctx context.Context, from server) (view, error) {
	v := view{address: from.Address()}
	if err := v.readDocument(ctx, from); err != nil {
		return view{}, err
	}
	canary, warning, err := s.mintCanary(ctx, from)
	if err != nil {
		return view{}, err
	}
	v.canary = canary
	if warning != "" {
		v.warnings = append(v.warnings, warning)
	}
	if err := v.readKeys(ctx, from); err != nil {
		return view{}, err
	}
	return v, nil
}

func (v *view) readDocument(ctx context.Context, from server) error {
	r := request{path: discovery.ConfigurationPath, allow: allowDiscovery}
	a, err := from.get(ctx, r)
	if err != nil {
		return err
	}
	if v.document, err = discovery.ParseDocument(a.body); err != nil {
		return from.unusable(r, a, err)
	}
	return nil
}

func (v *view) readKeys(ctx context.Context, from server) error {
	r := request{path: discovery.JWKSPath, allow: allowDiscovery}
	a, err := from.get(ctx, r)
	if err != nil {
		return err
	}
	if v.keys, err = discovery.ParseKeySet(a.body); err != nil {
		return from.unusable(r, a, err)
	}
	v.maxAge = maxAge(a.header.Get("Cache-Control"))
	v.date = a.date()
	for _, fault := range v.keys.LeftOut() {
		v.warnings = append(v.warnings, fmt.Sprintf("API server %s: %v", v.address, fault))
	}
	return nil
}

// maxAge reads the directive of RFC 9111 section 5.2.2.1, 0 if there is none.
func maxAge(cacheControl string) time.Duration {
	const longest = 365 * 24 * time.Hour
	for directive := range strings.SplitSeq(cacheControl, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 32)
		if err != nil {
			return 0
		}
		return min(time.Duration(seconds)*time.Second, longest)
	}
	return 0
}

// merge makes one snapshot of what the servers say. It does not depend on
// their order, but for the canary.
func merge(views []view) (discovery.Snapshot, error) {
	if err := sameIssuer(views); err != nil {
		return discovery.Snapshot{}, err
	}
	first := views[0]
	snapshot := discovery.Snapshot{Document: first.document, Keys: first.keys, MaxAge: first.maxAge}
	sets := make([]discovery.KeySet, len(views))
	for i, v := range views {
		sets[i] = v.keys
		snapshot.Warnings = append(snapshot.Warnings, v.warnings...)
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

func sameIssuer(views []view) error {
	for _, v := range views[1:] {
		if v.document.Issuer() != views[0].document.Issuer() {
			return fmt.Errorf("API servers disagree about the issuer: %s says %q, %s says %q: give all of them the same first --service-account-issuer",
				views[0].address, views[0].document.Issuer(), v.address, v.document.Issuer())
		}
	}
	return nil
}

// betterDocument prefers the document that names more algorithms: relying
// parties refuse a token whose algorithm is not listed, and while an RSA key
// is replaced by an EC key each server lists only its own.
func betterDocument(a, b discovery.Document) bool {
	if x, y := algorithms(a), algorithms(b); x != y {
		return x > y
	}
	return bytes.Compare(a.Bytes(), b.Bytes()) < 0
}

func algorithms(d discovery.Document) int {
	var document struct {
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if json.Unmarshal(d.Bytes(), &document) != nil {
		return 0
	}
	return len(document.Algorithms)
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
				"or the servers' --service-account-key-file flags differ", v.address, quoteAll(missing)))
		}
	}
	return warnings
}

// pickCanary prefers the canary that gives the alarm: each server signs for
// itself.
func pickCanary(views []view, snapshot discovery.Snapshot) *discovery.Canary {
	var first *discovery.Canary
	for _, v := range views {
		if v.canary == nil {
			continue
		}
		_, published := snapshot.Keys.Lookup(v.canary.KeyID)
		if !published || v.canary.Issuer != string(snapshot.Document.Issuer()) {
			return v.canary
		}
		if first == nil {
			first = v.canary
		}
	}
	return first
}
