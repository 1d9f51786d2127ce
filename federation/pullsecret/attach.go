package pullsecret

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
)

// AccountError is a service account whose imagePullSecrets could not be
// changed.
type AccountError struct {
	Namespace, Account string
	// Absent is set where there is no such account.
	Absent bool
	Err    error
}

// Error names the account and the remedy.
func (e *AccountError) Error() string {
	if e.Absent {
		return fmt.Sprintf("service account %s/%s does not exist: create it with kubectl create serviceaccount %[2]s --namespace=%[1]s, or leave it out", e.Namespace, e.Account)
	}
	return fmt.Sprintf("service account %s/%s: %v", e.Namespace, e.Account, e.Err)
}

// Unwrap returns Err.
func (e *AccountError) Unwrap() error { return e.Err }

// attachAll adds the secret to the imagePullSecrets of the service accounts, and
// returns those that it changed.
func (c *Cluster) attachAll(ctx context.Context, namespace string, accounts []string, secret string, dryRun bool) ([]string, []*AccountError) {
	return c.changeAll(ctx, namespace, accounts, dryRun, func(names []any) []any { return withSecret(names, secret) })
}

// detachAll removes the secret from the imagePullSecrets of the service accounts.
func (c *Cluster) detachAll(ctx context.Context, namespace string, accounts []string, secret string, dryRun bool) ([]string, []*AccountError) {
	return c.changeAll(ctx, namespace, accounts, dryRun, func(names []any) []any { return withoutSecret(names, secret) })
}

func (c *Cluster) changeAll(ctx context.Context, namespace string, accounts []string, dryRun bool, change func([]any) []any) (changed []string, failed []*AccountError) {
	for _, account := range accounts {
		did, err := c.changePullSecrets(ctx, namespace, account, dryRun, change)
		if did {
			changed = append(changed, account)
		}
		if err != nil {
			failed = append(failed, &AccountError{Namespace: namespace, Account: account, Absent: apierrors.IsNotFound(err), Err: err})
		}
	}
	return changed, failed
}

func joined(failed []*AccountError) (err error) {
	for _, f := range failed {
		err = errors.Join(err, f)
	}
	return err
}

// conflictBackoff is for a service account that others write often.
var conflictBackoff = wait.Backoff{Duration: 5 * time.Millisecond, Factor: 1.1, Jitter: 1, Steps: 40}

// changePullSecrets reads and writes the list as a whole, since it is atomic, and
// retries after conflicts.
func (c *Cluster) changePullSecrets(ctx context.Context, namespace, name string, dryRun bool, change func([]any) []any) (changed bool, err error) {
	err = retry.RetryOnConflict(conflictBackoff, func() error {
		account, err := c.serviceAccount(ctx, namespace, name)
		if err != nil {
			return err
		}
		before, _ := account["imagePullSecrets"].([]any)
		after := change(before)
		if changed = len(before) != len(after); !changed {
			return nil
		}
		if account["imagePullSecrets"] = after; len(after) == 0 {
			delete(account, "imagePullSecrets")
		}
		return c.replaceServiceAccount(ctx, namespace, name, account, dryRun)
	})
	return changed && err == nil, err
}

func names(secret string) func(any) bool {
	return func(reference any) bool {
		object, _ := reference.(map[string]any)
		return object["name"] == secret
	}
}

func withSecret(references []any, secret string) []any {
	if slices.ContainsFunc(references, names(secret)) {
		return references
	}
	return append(slices.Clip(references), map[string]any{"name": secret})
}

func withoutSecret(references []any, secret string) []any {
	return slices.DeleteFunc(slices.Clone(references), names(secret))
}
