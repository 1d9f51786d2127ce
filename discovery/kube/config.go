package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

const defaultUserAgent = "oidc-publisher"

// load finds the configuration by client-go's rules. Its error lists the files
// that were tried. The namespace is the context's, or the pod's own.
func load(c Config) (config *rest.Config, namespace string, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules,
		&clientcmd.ConfigOverrides{CurrentContext: c.Context})
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, "", explainLoading(c, err)
	}
	if err := checkContext(c, raw); err != nil {
		return nil, "", err
	}
	config, err = loader.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, "", fmt.Errorf("no kubeconfig at %s, and this is not a pod with a service account token: "+
			"name the file with --kubeconfig or KUBECONFIG", strings.Join(rules.GetLoadingPrecedence(), ", "))
	case err != nil:
		return nil, "", explainLoading(c, err)
	}
	config.UserAgent = c.UserAgent
	if config.UserAgent == "" {
		config.UserAgent = defaultUserAgent
	}
	namespace, _, err = loader.Namespace()
	return config, namespace, err
}

func explainLoading(c Config, err error) error {
	if errors.Is(err, fs.ErrNotExist) && c.Kubeconfig != "" {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return fmt.Errorf("kubeconfig can't be used: %w", err)
}

// checkContext finds a missing context before client-go does, to list the
// existing ones.
func checkContext(c Config, raw api.Config) error {
	known := slices.Sorted(maps.Keys(raw.Contexts))
	name := c.Context
	if name == "" {
		name = raw.CurrentContext
	}
	switch {
	case name == "" && len(known) > 0:
		return fmt.Errorf("kubeconfig has no current context: choose one with --context; it has %s", quoteAll(known))
	case name == "":
		return nil
	case raw.Contexts[name] != nil:
		return nil
	case len(known) == 0:
		return fmt.Errorf("there is no context %q: no kubeconfig with contexts was found", name)
	default:
		return fmt.Errorf("kubeconfig has no context %q: it has %s", name, quoteAll(known))
	}
}

// quoteAll lists at most 20 names.
func quoteAll(names []string) string {
	const limit = 20
	var b strings.Builder
	for i, name := range names {
		if i == limit {
			fmt.Fprintf(&b, " and %d more", len(names)-limit)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", name)
	}
	return b.String()
}
