// Package pullsecret writes the credentials of registries to image pull secrets
// (kubernetes.io/dockerconfigjson) in any number of namespaces.
//
// It never reads the content of a secret. Its type, labels and field managers
// show who owns it; annotations report the age of the credential.
package pullsecret

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/client-go/util/workqueue"

	"oidc-publisher/federation/exchange"
)

// workers is the number of namespaces that are written at the same time. More
// would only queue in the API server.
const workers = 16

// Job is one pass over the namespaces.
type Job struct {
	Cluster    *Cluster
	Secret     Secret
	Namespaces Namespaces
	// Exchange gets the credential. It is called at most once.
	Exchange func(context.Context) (exchange.Credential, error)
	// Attach are service accounts to whose imagePullSecrets the secret is added.
	Attach []string
	// MinRemaining is the remaining lifetime above which a secret is not written
	// again; 0 always writes.
	MinRemaining time.Duration
	// TakeOver overwrites secrets of other owners.
	TakeOver bool
	// DryRun has the API server validate every write and persist none.
	DryRun bool
	// Progress, if not nil, is called after each namespace, from any goroutine.
	Progress func(done, of int)
}

// Report is what a Job did.
type Report struct {
	// Results are in the order of the namespaces' names.
	Results []Result
	// Exchanged is set if there was an exchange. Expiry is when its credential
	// expires, and Life its lifetime; both are zero if the service states none.
	Exchanged bool
	Expiry    time.Time
	Life      time.Duration
}

// Count is the number of namespaces with one of these outcomes.
func (r Report) Count(outcomes ...Outcome) (n int) {
	for _, result := range r.Results {
		if slices.Contains(outcomes, result.Outcome) {
			n++
		}
	}
	return n
}

// Run makes the pass. It returns an error that concerns all namespaces; the
// error of a single namespace is in its Result.
func (j *Job) Run(ctx context.Context) (Report, error) {
	names, ending, err := j.Namespaces.find(ctx, j.Cluster)
	if err != nil {
		return Report{}, err
	}
	if len(names)+len(ending) == 0 {
		return Report{}, errors.New("no namespace is selected")
	}
	var report Report
	if report.Results, err = j.inspect(ctx, names); err != nil {
		return Report{}, err
	}
	if slices.ContainsFunc(report.Results, func(r Result) bool { return r.Outcome == "" }) {
		if err := j.write(ctx, &report); err != nil {
			return report, err
		}
	}
	for _, name := range ending {
		report.Results = append(report.Results, Result{Namespace: name, Outcome: Skipped})
	}
	slices.SortFunc(report.Results, func(a, b Result) int { return cmp.Compare(a.Namespace, b.Namespace) })
	return report, nil
}

// inspect reads the secret of every namespace before anything is exchanged. The
// results of namespaces to be written have no outcome yet.
func (j *Job) inspect(ctx context.Context, names []string) ([]Result, error) {
	w := j.writer()
	results := make([]Result, len(names))
	now := time.Now()
	find := func(namespace string) (*found, error) { return j.Cluster.find(ctx, namespace, j.Secret.Name) }
	if len(j.Namespaces.Names) == 0 {
		// One request instead of one for each namespace, if that is allowed.
		if all, err := j.Cluster.findAll(ctx, j.Secret.Name); err == nil {
			find = func(namespace string) (*found, error) { return all[namespace], nil }
		}
	}
	err := each(ctx, len(names), func(i int) {
		r := Result{Namespace: names[i]}
		f, err := find(names[i])
		if err != nil {
			r.Err = explain(err, names[i], j.Secret.Name)
		} else if f != nil {
			_, r.Err = w.plan(f)
			r.Expiry = j.Secret.freshUntil(*f)
		}
		results[i] = r.outcome()
		results[i].seen = &seen{f}
	})
	if err != nil {
		return nil, err
	}
	toWrite := func(r Result) bool { return r.Outcome == "" && r.Expiry.Sub(now) <= j.MinRemaining }
	if j.MinRemaining == 0 || slices.ContainsFunc(results, toWrite) {
		return results, nil
	}
	// All secrets are fresh and stay as they are.
	return results, each(ctx, len(results), func(i int) {
		r := &results[i]
		if r.Outcome == "" {
			r.Outcome = Unchanged
			*r = r.attached(j.Cluster.changeAccounts(ctx, r.Namespace, j.Attach, withSecret(j.Secret.Name), j.DryRun))
		}
	})
}

// write gets a credential and writes it to all namespaces without an outcome.
func (j *Job) write(ctx context.Context, report *Report) error {
	c, err := j.credential(ctx)
	if err != nil {
		return err
	}
	report.Exchanged, report.Expiry = true, c.Expiry
	if !c.Expiry.IsZero() {
		report.Life = time.Until(c.Expiry) // not from c.at: the exchange itself takes time
	}
	w, results := j.writer(), report.Results
	var done atomic.Int64
	return each(ctx, len(results), func(i int) {
		if results[i].Outcome == "" {
			results[i] = w.write(ctx, results[i].Namespace, c, results[i].seen, version{})
		}
		if n := done.Add(1); j.Progress != nil {
			j.Progress(int(n), len(results))
		}
	})
}

// credential gets a credential, and refuses one that has expired.
func (j *Job) credential(ctx context.Context) (credential, error) {
	at := time.Now()
	got, err := j.Exchange(ctx)
	c := credential{got, at}
	if err == nil && c.expired(time.Now()) {
		err = fmt.Errorf("the credential expired at %s: check this machine's clock", c.Expiry.Format(time.RFC3339))
	}
	return c, err
}

func (j *Job) writer() *writer {
	return &writer{cluster: j.Cluster, secret: j.Secret, attach: j.Attach, takeOver: j.TakeOver, dryRun: j.DryRun}
}

// Detach removes the secret from service accounts, and writes no secret. An
// account that does not exist is not a failure.
func (j *Job) Detach(ctx context.Context, accounts []string) (Report, error) {
	names, _, err := j.Namespaces.find(ctx, j.Cluster)
	if err != nil {
		return Report{}, err
	}
	report := Report{Results: make([]Result, len(names))}
	return report, each(ctx, len(names), func(i int) {
		r := Result{Namespace: names[i], Outcome: Unchanged}
		changed, failed := j.Cluster.changeAccounts(ctx, names[i], accounts, withoutSecret(j.Secret.Name), j.DryRun)
		present := slices.DeleteFunc(slices.Clone(failed), func(f *AccountError) bool { return f.Absent })
		if r.Accounts, r.Err = changed, joined(present); len(changed) > 0 {
			r.Outcome = Detached
		}
		if r.Err == nil {
			r.Unattached = failed
		}
		report.Results[i] = r.outcome()
	})
}

// each calls do for 0 to n-1, a few at a time. Once ctx ends it starts no more and
// returns the error of ctx.
func each(ctx context.Context, n int, do func(i int)) error {
	workqueue.ParallelizeUntil(ctx, workers, n, do)
	return ctx.Err()
}
