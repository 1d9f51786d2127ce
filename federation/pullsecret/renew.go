package pullsecret

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"oidc-publisher/federation/exchange"
)

// How a credential is renewed.
const (
	// A credential is replaced when this share of its life is over, or up to
	// a tenth of that earlier, so that many keepers don't ask at once.
	renewAt, earlier = 2.0 / 3, 0.1
	// unknownLife is assumed where the service does not say.
	unknownLife = 15 * time.Minute
	// minRenewal lies at least between two exchanges that succeed, whatever
	// the service says.
	minRenewal = time.Second
	// A failed exchange is tried again after firstRetry, which doubles up to
	// maxRetry, or when the service says, but within maxPatience, and once
	// more lastTry before the old credential expires.
	firstRetry, maxRetry = time.Second, time.Minute
	maxPatience, lastTry = time.Hour, time.Minute
	// turn is how often the loop looks at the clock on the wall: a machine
	// that slept has not noticed.
	turn = 10 * time.Second
)

// renew gets one credential after the other.
func (k *Keeper) renew(ctx context.Context) {
	backoff := firstRetry
	for ctx.Err() == nil {
		wait, err := k.exchangeOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = k.patience(backoff/2+rand.N(backoff/2+1), asked(err))
			backoff = min(2*backoff, maxRetry)
		default:
			backoff = firstRetry
		}
		k.sleep(ctx, wait)
	}
}

// asked is the wait that a service asked for.
func asked(err error) time.Duration {
	var later *exchange.UnavailableError
	if !errors.As(err, &later) {
		return 0
	}
	return later.RetryAfter
}

// patience is for how long a service is left alone that asked for it: at most
// maxPatience, and no longer than the old credential leaves time for.
func (k *Keeper) patience(least, asked time.Duration) time.Duration {
	wait := min(asked, maxPatience)
	if c := k.current(); c != nil && !c.Expiry.IsZero() {
		if left := time.Until(c.Expiry) - lastTry; left > 0 {
			wait = min(wait, left)
		}
	}
	return max(least, wait)
}

// exchangeOnce returns when to do it again if it went well.
func (k *Keeper) exchangeOnce(ctx context.Context) (next time.Duration, err error) {
	limited, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	at := time.Now()
	got, err := k.Exchange(limited)
	c := credential{got, at}
	if err == nil && c.expired(time.Now()) {
		err = fmt.Errorf("the credential has expired already, at %s: is this machine's clock right?", c.Expiry.Format(time.RFC3339))
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	k.metrics.exchanged(c, err)
	k.said.outcome("exchange", err)
	if err != nil {
		return 0, err
	}
	next = renewal(c)
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

// renewal is how long after its exchange a credential is replaced.
func renewal(c credential) time.Duration {
	life := unknownLife
	if !c.Expiry.IsZero() {
		life = c.Expiry.Sub(c.at)
	}
	share := renewAt * (1 - earlier*rand.Float64())
	return max(time.Duration(float64(life)*share), minRenewal)
}

// use hands a new credential to all namespaces.
func (k *Keeper) use(c credential) {
	k.mu.Lock()
	k.now = &c
	var names []string
	for name := range k.present {
		names = append(names, name)
	}
	k.mu.Unlock()
	for _, name := range names {
		k.look(name)
	}
	k.turned()
}

// current is the newest credential, nil before the first.
func (k *Keeper) current() *credential {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// sleep waits by the clock on the wall.
func (k *Keeper) sleep(ctx context.Context, wait time.Duration) {
	until := time.Now().Add(wait).Round(0) // without the monotonic clock
	for {
		k.turned()
		left := until.Sub(time.Now().Round(0))
		if left <= 0 {
			return
		}
		timer := time.NewTimer(min(left, turn))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}
