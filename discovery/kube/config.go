package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"oidc-publisher/internal/httpx"
)

// load finds the configuration by client-go's rules. Its error lists the files
// that were tried. The namespace is the context's, or the pod's own.
func load(c Config) (config *rest.Config, namespace string, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules,
		&clientcmd.ConfigOverrides{CurrentContext: c.Context})
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig can't be used: %w", err)
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
		return nil, "", fmt.Errorf("kubeconfig can't be used: %w", err)
	}
	config.UserAgent = cmp.Or(c.UserAgent, httpx.UserAgent)
	namespace, _, err = loader.Namespace()
	return config, namespace, err
}

// checkContext finds a missing context before client-go does, to list the
// existing ones.
func checkContext(c Config, raw api.Config) error {
	known := slices.Sorted(maps.Keys(raw.Contexts))
	name := cmp.Or(c.Context, raw.CurrentContext)
	switch {
	case name == "" && len(known) > 0:
		return fmt.Errorf("kubeconfig has no current context: choose one with --context; it has %s", httpx.Quote(known))
	case name != "" && raw.Contexts[name] == nil:
		return fmt.Errorf("kubeconfig has no context %q: it has %s", name, cmp.Or(httpx.Quote(known), "none"))
	}
	return nil
}
