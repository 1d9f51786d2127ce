package pullsecret

import (
	"context"
	"fmt"
	"path"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// Namespaces selects the namespaces that get the secret.
type Namespaces struct {
	// Names, if not empty, are the namespaces.
	Names []string
	// Selector selects namespaces by label; empty selects all.
	Selector string
	// Except excludes namespaces by name or path.Match pattern.
	Except []string
}

// Check refuses a selector or pattern with a syntax error.
func (n Namespaces) Check() error {
	if _, err := labels.Parse(n.Selector); err != nil {
		return fmt.Errorf("label selector %.80q: %w", n.Selector, err)
	}
	for _, pattern := range n.Except {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %.80q: %w", pattern, err)
		}
	}
	return nil
}

func (n Namespaces) excepts(name string) bool {
	return slices.ContainsFunc(n.Except, func(pattern string) bool {
		match, _ := path.Match(pattern, name)
		return match
	})
}

// find returns the names of the namespaces, and of those that are being deleted.
func (n Namespaces) find(ctx context.Context, c *Cluster) (names, ending []string, err error) {
	if len(n.Names) > 0 {
		names = slices.Clone(n.Names)
	} else {
		all, err := c.list(ctx, n.Selector)
		if err != nil {
			return nil, nil, err
		}
		for _, namespace := range all {
			if namespace.DeletionTimestamp != nil && !n.excepts(namespace.Name) {
				ending = append(ending, namespace.Name)
			} else {
				names = append(names, namespace.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(slices.DeleteFunc(names, n.excepts)), ending, nil
}
