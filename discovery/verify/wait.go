package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
	"oidc-publisher/internal/service/retry"
)

const (
	// assumedLifetime is the lifetime of an answer without any cache header,
	// which is GCS's default.
	assumedLifetime = time.Hour
	shortestPoll    = time.Second
	longestPoll     = 15 * time.Second
	searchPoll      = 5 * time.Second
)

// Progress is the state of WaitForKey after one poll.
type Progress struct {
	KeyID string
	// Public is set if the last usable answers contained the key, with and
	// without caches, and Since is when that began.
	Public bool
	Since  time.Time
	// Lifetime is the longest cache lifetime that any answer announced, and
	// Remaining is how much of that wait is left while Public.
	Lifetime, Remaining time.Duration
	// Answered is set once the issuer has answered.
	Answered bool
	// Seen is the result of the last poll in a few words.
	Seen string
}

// String describes the progress for people. While nothing else changes, it
// changes once a minute.
func (p Progress) String() string {
	if !p.Public {
		return fmt.Sprintf("waiting for key %q: %s", p.KeyID, p.Seen)
	}
	return fmt.Sprintf("key %q is public; safe to sign with in %v", p.KeyID, (p.Remaining + time.Minute - 1).Truncate(time.Minute))
}

// WaitError means that the wait ended before the key was safe to sign with. It
// wraps the context's error.
type WaitError struct {
	// Last is the state in which the wait ended.
	Last Progress
	Err  error
}

func (e *WaitError) Error() string {
	state, cure := "it was not public when waiting ended", "publish it, and check the issuer with verify"
	if e.Last.Public {
		state = fmt.Sprintf("it had not been public for %v when waiting ended", e.Last.Lifetime.Round(time.Second))
		cure = "give a longer --timeout, or a shorter Cache-Control to the keys; each wait starts from zero"
	}
	return fmt.Sprintf("key %q: do not sign with it yet: %s (last seen: %s): %s", httpx.Clip(e.Last.KeyID), state, e.Last.Seen, cure)
}

func (e *WaitError) Unwrap() error { return e.Err }

// WaitForKey blocks until it is safe to sign with the key of that ID: until it
// has been in the issuer's public key set, through caches and past them, for
// longer than the longest cache lifetime of any answer seen on the way. A
// relying party that fetched just before the key appeared has then fetched
// again.
//
// The lifetime of an answer is its max-age (or s-maxage, or Expires), not
// shortened by its Age, since many relying parties do not subtract it; its Age
// where that is longer, for a cache that ignores max-age; and one hour without
// such headers, except on loopback, which has no caches. The wait restarts when
// an answer lacks the key or jwks_uri changes. A missing answer or a 5xx
// changes nothing, but the last answer must have the key.
//
// It polls every 1 to 15 s, jittered. The key's time in public is counted by the
// monotonic clock alone, since a wall clock that is set forward would end the
// wait before caches have expired. It calls progress, if not nil, after each poll. Without a deadline in ctx it may wait
// forever. When ctx ends the error is *WaitError. Of the options it uses
// Issuer, Transport and Timeout.
func WaitForKey(ctx context.Context, opts Options, kid string, progress func(Progress)) error {
	issuer, err := discovery.ParseIssuer(opts.Issuer)
	if err != nil {
		return err
	}
	if kid == "" {
		return errors.New("no key ID to wait for: name the kid of the new key")
	}
	w := waiter{issuer: issuer, client: opts.client(), state: Progress{KeyID: kid, Seen: "nothing yet"}}
	for {
		w.poll(ctx)
		if progress != nil && ctx.Err() == nil {
			progress(w.state)
		}
		if w.safe {
			return nil
		}
		if !retry.Sleep(ctx, w.interval()) {
			return &WaitError{Last: w.state, Err: ctx.Err()}
		}
	}
}

type waiter struct {
	issuer discovery.Issuer
	client *http.Client
	// keysAt is the jwks_uri for which the wait is counted.
	keysAt string
	state  Progress
	safe   bool
}

// poll fetches once and updates the progress. If ctx ended in the meantime it
// changes nothing, so that the last result is still reported.
func (w *waiter) poll(ctx context.Context) {
	err := w.findKey(ctx)
	if ctx.Err() != nil {
		return
	}
	now, state := time.Now(), &w.state
	state.Answered = state.Answered || !unseen(err)
	if err != nil {
		state.Seen, state.Public = err.Error(), state.Public && unseen(err)
	} else if state.Seen = "the key is public"; !state.Public {
		state.Public, state.Since = true, now
	}
	state.Remaining = 0
	if state.Public {
		state.Remaining = max(0, state.Lifetime-now.Sub(state.Since))
	}
	w.safe = err == nil && now.Sub(state.Since) > state.Lifetime
}

// findKey returns nil if the key is public, and else why it is not or was not
// seen.
func (w *waiter) findKey(ctx context.Context) error {
	a, err := getOK(ctx, w.client, w.issuer.ConfigurationURL(), false)
	if err != nil {
		return err
	}
	document, err := discovery.ParseDocument(a.body)
	if err != nil {
		return fmt.Errorf("the discovery document is not valid: run verify without waiting: %s", faults(err))
	}
	if document.Issuer() != w.issuer {
		return fmt.Errorf("the discovery document names another issuer: %s", differenceOf(string(document.Issuer()), string(w.issuer)))
	}
	if f := checkJWKSURI(w.issuer, document.JWKSURI()); f.Status != Pass {
		return errors.New(f.Cause)
	}
	moved := w.keysAt != "" && w.keysAt != document.JWKSURI()
	w.keysAt = document.JWKSURI()
	if moved { // relying parties use the old address for the lifetime of the old document
		w.remember(a)
		return errors.New("jwks_uri has just changed")
	}
	plain, fresh := w.inAnswer(ctx, false), w.inAnswer(ctx, true)
	if plain == nil || unseen(plain) && fresh != nil && !unseen(fresh) {
		return fresh
	}
	return plain
}

// unseen reports whether the error means that there was no answer, rather than
// an answer without the key.
func unseen(err error) bool {
	var unreachable *UnreachableError
	var status *StatusError
	return errors.As(err, &unreachable) ||
		errors.As(err, &status) && status.Temporary() && !status.NotThere() && !status.NotPublic()
}

func (w *waiter) inAnswer(ctx context.Context, noCache bool) error {
	a, err := getOK(ctx, w.client, w.keysAt, noCache)
	w.remember(a)
	if err != nil {
		return err
	}
	set, err := discovery.ParseKeySet(a.body)
	if err != nil {
		return fmt.Errorf("the key set is not valid: %s", faults(err))
	}
	if _, ok := set.Lookup(w.state.KeyID); !ok {
		return fmt.Errorf("the key is not in the set, which has %s", httpx.Quote(set.IDs()))
	}
	return nil
}

// remember keeps the longest lifetime, also of an error: caches keep a 404 too.
func (w *waiter) remember(a answer) {
	f := httpx.FreshnessOf(a.header)
	life := max(f.Lifetime, f.Age)
	if !f.Known && a.status == http.StatusOK && reachOf(hostOf(string(w.issuer))) != loopback {
		life = max(life, assumedLifetime)
	}
	w.state.Lifetime = max(w.state.Lifetime, life)
}

// interval is the time to the next poll, up to a fifth shorter or longer so that
// many waiters do not poll at once.
func (w *waiter) interval() time.Duration {
	base := searchPoll
	if w.state.Public {
		base = min(max(w.state.Remaining, shortestPoll), longestPoll)
	}
	return time.Duration(float64(base) * (0.8 + 0.4*rand.Float64()))
}
