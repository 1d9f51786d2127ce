package pullsecret

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/service/retry"
)

// The timing of renewal.
const (
	// A credential is renewed after this share of its lifetime, or up to a
	// tenth of that earlier, so that many keepers do not exchange at once.
	renewAt, earlier = 2.0 / 3, 0.1
	// unknownLife is the assumed lifetime if the service states none.
	unknownLife = 15 * time.Minute
	// minRenewal is the least time between two successful exchanges.
	minRenewal = time.Second
	// A failed exchange is retried after firstRetry, which doubles up to
	// maxRetry, or after the delay that the service asks for, at most
	// maxRequested, and once more lastTry before the old credential expires.
	firstRetry, maxRetry  = time.Second, time.Minute
	maxRequested, lastTry = time.Hour, time.Minute
)

// renew gets one credential after another.
func (k *Keeper) renew(ctx context.Context) {
	backoff := retry.Backoff{First: firstRetry, Longest: maxRetry}
	for ctx.Err() == nil {
		wait, err := k.exchangeOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = k.retryDelay(backoff.Next(), err)
		default:
			backoff.Reset()
		}
		retry.SleepTicking(ctx, wait, k.passed)
	}
}

// retryDelay honours the delay that the service asks for up to maxRequested, and as
// long as it leaves time for one more try before the old credential expires.
func (k *Keeper) retryDelay(least time.Duration, err error) time.Duration {
	wait := time.Duration(0)
	if later := (*exchange.UnavailableError)(nil); errors.As(err, &later) {
		wait = min(later.RetryAfter, maxRequested)
	}
	if c := k.current(); c != nil && !c.Expiry.IsZero() {
		if left := time.Until(c.Expiry) - lastTry; left > 0 {
			wait = min(wait, left)
		}
	}
	return max(least, wait)
}

// exchangeOnce returns the wait before the next exchange after a success.
func (k *Keeper) exchangeOnce(ctx context.Context) (next time.Duration, err error) {
	limited, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	c, err := k.credential(limited)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	k.metrics.exchanged(c, err)
	k.failures.Report("exchange", err)
	if err != nil {
		return 0, err
	}
	life := unknownLife
	if !c.Expiry.IsZero() {
		life = c.Expiry.Sub(c.at)
	}
	next = max(time.Duration(float64(life)*renewAt*(1-earlier*rand.Float64())), minRenewal)
	k.Log.Info("exchanged", "expires", expiryText(c.Expiry), "next", expiryText(time.Now().Add(next)))
	k.use(c)
	return next, nil
}

func expiryText(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format(time.RFC3339)
}

// use has a new credential written to all namespaces.
func (k *Keeper) use(c credential) {
	k.mu.Lock()
	k.now = &c
	names := slices.Collect(maps.Keys(k.spaces))
	k.mu.Unlock()
	for _, name := range names {
		k.enqueue(name)
	}
	k.passed()
}

// current is the newest credential, nil before the first.
func (k *Keeper) current() *credential {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}
