package pullsecret

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outcome is what became of the secret in a namespace.
type Outcome string

// Outcomes: a contract with scripts.
const (
	Created   Outcome = "created"
	Updated   Outcome = "updated"
	Repaired  Outcome = "repaired" // somebody had changed it
	TakenOver Outcome = "taken-over"
	Replaced  Outcome = "replaced" // taken over by deleting it: it has a new UID
	Unchanged Outcome = "unchanged"
	Detached  Outcome = "detached"
	Skipped   Outcome = "skipped" // the namespace is being deleted
	Refused   Outcome = "refused"
	Failed    Outcome = "failed"
)

// wrote reports whether there is another content now.
func (o Outcome) wrote() bool {
	switch o {
	case Created, Updated, Repaired, TakenOver, Replaced:
		return true
	default:
		return false
	}
}

// Result is what was done in one namespace.
type Result struct {
	Namespace string
	Outcome   Outcome
	// Accounts are the service accounts that were attached or detached.
	Accounts []string
	// Expiry is when the secret's credential expires, if that is known.
	Expiry time.Time
	// Err is why it was Refused or Failed. With any other outcome the secret
	// is as it should be, and Unattached are service accounts that don't have
	// it for all that.
	Err        error
	Unattached []*AccountError

	seen *seen
}

// Partly reports whether the secret is as it should be and something else failed.
func (r Result) Partly() bool { return len(r.Unattached) > 0 && r.Err != nil }

// attached is the result with what came of attaching.
func (r Result) attached(changed []string, failed []*AccountError) Result {
	r.Accounts, r.Unattached, r.Err = changed, failed, joined(failed)
	if terminating(r.Err) {
		r.Unattached = nil
		return r.judged()
	}
	return r
}

// seen is what was found before there was a credential, nil for no secret.
type seen struct{ secret *found }

// writer makes a namespace's secret what it should be.
type writer struct {
	cluster  *Cluster
	secret   Secret
	attach   []string
	takeOver bool
	dryRun   bool
	// yields leaves a secret that holds a newer credential of the same inputs:
	// of two that go on writing, each would undo what the other wrote.
	yields bool
}

// tries bounds how often a lost race is judged again.
const tries = 5

// write returns an outcome for everything, errors included. It looks at the
// secret that is there unless that was just seen.
func (w *writer) write(ctx context.Context, namespace string, c credential, known *seen) Result {
	r := Result{Namespace: namespace, Expiry: c.Expiry}
	r.Outcome, r.Err = w.put(ctx, namespace, c, known)
	if r = r.judged(); r.Err != nil || r.Outcome == Skipped {
		return r
	}
	return r.attached(w.cluster.attachAll(ctx, namespace, w.attach, w.secret.Name, w.dryRun))
}

// judged gives an error its outcome.
func (r Result) judged() Result {
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

// put writes the secret, again as long as somebody else is faster.
func (w *writer) put(ctx context.Context, namespace string, c credential, known *seen) (outcome Outcome, err error) {
	for range tries {
		if outcome, err = w.putOnce(ctx, namespace, c, known); !apierrors.IsConflict(err) {
			break
		}
		known = nil
	}
	return outcome, explain(err, namespace, w.secret.Name)
}

func (w *writer) putOnce(ctx context.Context, namespace string, c credential, known *seen) (Outcome, error) {
	if known == nil {
		f, err := w.cluster.find(ctx, namespace, w.secret.Name)
		if err != nil {
			return Failed, err
		}
		known = &seen{f}
	}
	f := known.secret
	outcome, err := w.plan(f, c)
	if err != nil || outcome == Unchanged {
		return outcome, err
	}
	if outcome == Replaced {
		return w.replace(ctx, *f, c)
	}
	// What is ours is taken back from whoever changed it. What is not there is
	// not forced: it may be there by now, and somebody else's.
	err = w.apply(ctx, namespace, c, f)
	switch {
	case err == nil:
		return outcome, nil
	case apierrors.IsInvalid(err) && f != nil && w.takeOver: // it is immutable
		return w.replace(ctx, *f, c)
	default:
		return Failed, err
	}
}

func (w *writer) apply(ctx context.Context, namespace string, c credential, over *found) error {
	body, err := w.secret.manifest(namespace, c, over)
	if err != nil {
		return err
	}
	return w.cluster.apply(ctx, namespace, w.secret.Name, body, over != nil, w.dryRun)
}

// replace is for what can't be changed. A dry run ends before it: what comes
// after the deletion can't be tried.
func (w *writer) replace(ctx context.Context, f found, c credential) (Outcome, error) {
	if w.dryRun {
		return Replaced, nil
	}
	if err := w.cluster.remove(ctx, f); err != nil && !apierrors.IsNotFound(err) {
		return Failed, err
	}
	if err := w.apply(ctx, f.meta.Namespace, c, nil); err != nil {
		return Failed, err
	}
	return Replaced, nil
}

// plan judges what is there.
func (w *writer) plan(f *found, c credential) (Outcome, error) {
	if f == nil {
		return Created, nil
	}
	refusal := w.secret.refuse(*f)
	if refusal != nil && !w.takeOver {
		return Refused, refusal
	}
	return w.change(*f, refusal == nil, c), nil
}

func (w *writer) change(f found, ours bool, c credential) Outcome {
	switch {
	case f.kind != secretType:
		return Replaced
	case !ours:
		return TakenOver
	case w.secret.holds(f.meta, c), w.yields && w.secret.intact(f.meta) && annotatedTime(f.meta, AnnotationExchangedAt).After(c.at):
		return Unchanged
	case annotatedTime(f.meta, AnnotationExchangedAt).Equal(c.at):
		return Repaired
	default:
		return Updated
	}
}

// explain says what was tried, and where it can be mended, how.
func explain(err error, namespace, name string) error {
	what := fmt.Sprintf("secret %s/%s", namespace, name)
	switch {
	case err == nil, errors.Is(err, ErrRefused):
		return err
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: the namespace does not exist: %w", what, err)
	case apierrors.IsForbidden(err) && !terminating(err):
		return fmt.Errorf("%s: %w: a quota is full, or an admission policy forbids it", what, err)
	case apierrors.IsInvalid(err):
		return fmt.Errorf("%s: %w: where it is immutable, --take-over replaces it", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// terminating reports whether the API server takes nothing new because the
// namespace is being deleted (corev1.NamespaceTerminatingCause).
func terminating(err error) bool {
	return apierrors.HasStatusCause(err, metav1.CauseType("NamespaceTerminating"))
}
