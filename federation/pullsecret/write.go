package pullsecret

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outcome is the result for the secret of a namespace.
type Outcome string

// The outcomes. Scripts depend on them.
const (
	Created   Outcome = "created"
	Updated   Outcome = "updated"
	Repaired  Outcome = "repaired" // another writer had changed it
	TakenOver Outcome = "taken-over"
	Replaced  Outcome = "replaced" // taken over by deleting it: it has a new UID
	Unchanged Outcome = "unchanged"
	Detached  Outcome = "detached"
	Skipped   Outcome = "skipped" // the namespace is being deleted
	Refused   Outcome = "refused"
	Failed    Outcome = "failed"
)

// wrote reports whether the secret was written.
func (o Outcome) wrote() bool {
	return slices.Contains([]Outcome{Created, Updated, Repaired, TakenOver, Replaced}, o)
}

// Result is the result for one namespace.
type Result struct {
	Namespace string
	Outcome   Outcome
	// Accounts are the service accounts that were attached or detached.
	Accounts []string
	// Expiry is when the secret's credential expires, if that is known.
	Expiry time.Time
	// Err is the reason for Refused or Failed. With any other outcome it is
	// about Unattached, the service accounts that could not be changed.
	Err        error
	Unattached []*AccountError

	seen    *seen
	version version // of the secret as written, or as found if Unchanged
}

// Partly reports whether the secret was written and a service account failed.
func (r Result) Partly() bool { return len(r.Unattached) > 0 && r.Err != nil }

// attached adds the outcome of attaching to the result.
func (r Result) attached(changed []string, failed []*AccountError) Result {
	r.Accounts, r.Unattached, r.Err = changed, failed, joined(failed)
	if terminating(r.Err) {
		r.Unattached = nil
		return r.outcome()
	}
	return r
}

// seen is the secret that was found before the exchange, nil if there was none.
type seen struct{ secret *found }

// writer writes the secret of a namespace.
type writer struct {
	cluster  *Cluster
	secret   Secret
	attach   []string
	takeOver bool
	dryRun   bool
}

// maxRaces bounds the attempts of a write that conflicts with other writers.
const maxRaces = 5

// write writes the secret and attaches it. It reads the current secret unless
// it is known, and leaves it unchanged if its version is the given one.
func (w *writer) write(ctx context.Context, namespace string, c credential, known *seen, written version) Result {
	r := Result{Namespace: namespace, Expiry: c.Expiry}
	r.Outcome, r.version, r.Err = w.put(ctx, namespace, c, known, written)
	if r = r.outcome(); r.Err != nil || r.Outcome == Skipped {
		return r
	}
	return r.attached(w.cluster.changeAccounts(ctx, namespace, w.attach, withSecret(w.secret.Name), w.dryRun))
}

// outcome sets the outcome according to the error.
func (r Result) outcome() Result {
	switch {
	case r.Err == nil:
	case terminating(r.Err):
		r.Outcome, r.Err = Skipped, nil
	case errors.Is(r.Err, ErrRefused):
		r.Outcome = Refused
	default:
		r.Outcome = Failed
	}
	return r
}

// put writes the secret, and reads it again after a conflict.
func (w *writer) put(ctx context.Context, namespace string, c credential, known *seen, written version) (outcome Outcome, now version, err error) {
	for range maxRaces {
		if outcome, now, err = w.putOnce(ctx, namespace, c, known, written); !apierrors.IsConflict(err) {
			break
		}
		known = nil
	}
	return outcome, now, explain(err, namespace, w.secret.Name)
}

func (w *writer) putOnce(ctx context.Context, namespace string, c credential, known *seen, written version) (Outcome, version, error) {
	if known == nil {
		f, err := w.cluster.find(ctx, namespace, w.secret.Name)
		if err != nil {
			return Failed, version{}, err
		}
		known = &seen{f}
	}
	f := known.secret
	if f != nil && versionOf(f.meta) == written {
		return Unchanged, written, nil
	}
	outcome, err := w.plan(f)
	if err != nil {
		return outcome, version{}, err
	}
	var now version
	if outcome != Replaced {
		now, err = w.apply(ctx, namespace, c, f)
		if apierrors.IsInvalid(err) && f != nil && w.takeOver { // it is immutable
			outcome = Replaced
		}
	}
	if outcome == Replaced {
		now, err = w.replace(ctx, *f, c)
	}
	return outcome, now, err
}

// apply takes fields back from other managers, but only those of the secret
// that was read: by now a new secret may exist that belongs to another owner.
func (w *writer) apply(ctx context.Context, namespace string, c credential, over *found) (version, error) {
	body, err := w.secret.manifest(namespace, c, over)
	if err != nil {
		return version{}, err
	}
	return w.cluster.apply(ctx, namespace, w.secret.Name, body, over != nil, w.dryRun)
}

// replace deletes the secret and creates it again. A dry run does neither: the
// API server would refuse to create what still exists.
func (w *writer) replace(ctx context.Context, f found, c credential) (version, error) {
	if w.dryRun {
		return version{}, nil
	}
	if err := w.cluster.remove(ctx, f); err != nil && !apierrors.IsNotFound(err) {
		return version{}, err
	}
	return w.apply(ctx, f.meta.Namespace, c, nil)
}

// plan decides what to do with the secret that was found.
func (w *writer) plan(f *found) (Outcome, error) {
	if f == nil {
		return Created, nil
	}
	refusal := w.secret.refuse(*f)
	switch {
	case refusal != nil && !w.takeOver:
		return Refused, refusal
	case f.kind != secretType:
		return Replaced, nil
	case refusal != nil:
		return TakenOver, nil //nolint:nilerr // --take-over overrules the refusal
	default:
		return Updated, nil
	}
}

// explain adds to an error which secret it is about, and what to do.
func explain(err error, namespace, name string) error {
	what := fmt.Sprintf("secret %s/%s", namespace, name)
	switch {
	case err == nil, errors.Is(err, ErrRefused):
		return err
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: the namespace does not exist: %w", what, err)
	case apierrors.IsForbidden(err) && !terminating(err):
		return fmt.Errorf("%s: %w: check quotas and admission policies", what, err)
	case apierrors.IsInvalid(err):
		return fmt.Errorf("%s: %w: if it is immutable, --take-over replaces it", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// terminating reports whether a write was refused because the namespace is being
// deleted (corev1.NamespaceTerminatingCause).
func terminating(err error) bool {
	return apierrors.HasStatusCause(err, metav1.CauseType("NamespaceTerminating"))
}
