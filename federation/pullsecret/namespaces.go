package pullsecret

import (
	"context"
	"fmt"
	"path"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// Namespaces says which namespaces have the secret.
type Namespaces struct {
	// Names are these and no others, unless there are none.
	Names []string
	// Selector is for labels; if empty, all namespaces have it.
	Selector string
	// Except are left out. A name may be a pattern as path.Match has them.
	Except []string
}

// Check refuses a selector or a pattern that can't be understood.
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

// find returns the names, and those that are being deleted.
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
