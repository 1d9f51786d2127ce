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
	// Absent is set if there is no such account.
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

// changeAccounts changes the imagePullSecrets of the service accounts, and returns
// those that it changed.
func (c *Cluster) changeAccounts(ctx context.Context, namespace string, accounts []string, change func([]any) []any, dryRun bool) (changed []string, failed []*AccountError) {
	for _, account := range accounts {
		did, err := c.changePullSecrets(ctx, namespace, account, change, dryRun)
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

// conflictBackoff is the wait before another attempt to change a service
// account that others change often.
var conflictBackoff = wait.Backoff{Duration: 5 * time.Millisecond, Factor: 1.1, Jitter: 1, Steps: 40}

// changePullSecrets reads and writes the whole list, since the API treats it as
// atomic, and retries after conflicts.
func (c *Cluster) changePullSecrets(ctx context.Context, namespace, name string, change func([]any) []any, dryRun bool) (changed bool, err error) {
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

func isFor(secret string) func(any) bool {
	return func(reference any) bool {
		object, _ := reference.(map[string]any)
		return object["name"] == secret
	}
}

// withSecret adds the secret to imagePullSecrets.
func withSecret(secret string) func([]any) []any {
	return func(references []any) []any {
		if slices.ContainsFunc(references, isFor(secret)) {
			return references
		}
		return append(slices.Clip(references), map[string]any{"name": secret})
	}
}

// withoutSecret removes it.
func withoutSecret(secret string) func([]any) []any {
	return func(references []any) []any { return slices.DeleteFunc(slices.Clone(references), isFor(secret)) }
}
