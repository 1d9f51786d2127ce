package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/kubeerr"
)

// NoCanary as Config.Canary turns off the check of the signing key.
const NoCanary = "none"

const (
	// canaryAudience makes a leaked canary token useless: no relying party
	// accepts it.
	canaryAudience = "oidc-publisher"
	// mintInterval is the time between two tokens while nothing changes: each
	// is an entry of the audit log.
	mintInterval = 5 * time.Minute
	// maxMints bounds the tokens in one mintInterval while something changes at
	// each Fetch: the servers behind a load balancer may publish different keys,
	// and some gateways end every connection.
	maxMints = 5
)

// canary is what is known about the signing key of one API server.
type canary struct {
	// token is nil if it could not be minted; warning has the reason.
	token   *discovery.Canary
	warning string
	// mints are the times of the latest token requests, oldest first.
	mints [maxMints]time.Time
	// refused is set if another attempt would fail in the same way for now.
	refused bool
	// reconnects is the source's count at the latest mint.
	reconnects int64
}

func (c canary) latest() time.Time { return c.mints[maxMints-1] }

// signing returns the latest token's claims, nil if it was minted before the
// current key set was first read: it proves nothing about that set.
func (v view) signing() *discovery.Canary {
	if v.canary.latest().Before(v.keysSince) {
		return nil
	}
	return v.canary.token
}

// contradicts reports whether the token disagrees with the documents.
func contradicts(token discovery.Canary, document discovery.Document, keys discovery.KeySet) bool {
	_, published := keys.Lookup(token.KeyID)
	return !published || token.Issuer != string(document.Issuer())
}

// mintDue reports whether to mint a token.
func (s *Source) mintDue(v view, keysChanged bool) bool {
	now, token := s.now(), v.signing()
	switch {
	case !s.mints:
		return false
	case now.Sub(v.canary.latest()) >= mintInterval:
		return true
	case keysChanged, v.canary.reconnects != s.reconnects.Load(), token == nil && !v.canary.refused,
		// A load balancer's servers differ during a rotation: a later token may agree.
		token != nil && contradicts(*token, v.document, v.keys):
		return now.Sub(v.canary.mints[0]) >= mintInterval
	default:
		return false
	}
}

// mintIfDue mints a token to learn the signing key, and drops the token at
// once. A token that can't be minted is a warning, since the documents do not
// depend on it; only the end of the context is an error.
func (s *Source) mintIfDue(ctx context.Context, at server, v *view, keysChanged bool) (minted bool, err error) {
	if !s.mintDue(*v, keysChanged) {
		return false, nil
	}
	c := &v.canary
	copy(c.mints[:], c.mints[1:])
	c.mints[maxMints-1], c.reconnects = s.now(), s.reconnects.Load()
	c.token, c.warning, c.refused = nil, "", false
	who := s.account
	if who == (account{}) {
		who = account{"default", "default"}
		if own, ok := accountOf(s.user()); ok {
			who = own
		}
	}
	token, err := s.requestToken(ctx, at, who, canaryAudience, MinExpiry)
	switch {
	case ctx.Err() != nil:
		return false, err
	case err != nil:
		c.refused = errors.Is(err, kubeerr.ErrForbidden) || errors.Is(err, errNoAccount)
		c.warning = fmt.Sprintf("the signing key could not be checked with a token for %s: %v", who, err)
		return true, nil
	}
	claims, err := token.Claims()
	if err != nil {
		c.refused = true
		c.warning = fmt.Sprintf("the signing key could not be checked: API server %s returned a token that is not a JWT (%v)", at.Address(), err)
		return true, nil
	}
	c.token = &discovery.Canary{KeyID: claims.KeyID, Algorithm: claims.Algorithm, Issuer: claims.Issuer}
	return true, nil
}

// pickCanary prefers a token that contradicts the documents, since each server
// has a signing key of its own.
func pickCanary(views []view, snapshot discovery.Snapshot) *discovery.Canary {
	var first *discovery.Canary
	for _, v := range views {
		token := v.signing()
		if token == nil {
			continue
		}
		if contradicts(*token, snapshot.Document, snapshot.Keys) {
			return token
		}
		if first == nil {
			first = token
		}
	}
	return first
}
