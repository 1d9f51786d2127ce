package pullsecret

import (
	"context"
	"strings"

	"oidc-publisher/internal/kubeerr"
)

// Explain explains an error of the API server: what is wrong, where, and what
// to do. An answer that is about the object is returned as it is.
type Explain func(context.Context, kubeerr.Request, error) error

func secretRule(namespace, name string, more ...string) kubeerr.Rule {
	return kubeerr.Rule{Verbs: append([]string{"get", "create", "patch"}, more...), Resource: "secrets", Name: name, Namespace: namespace}
}

func accountRule(namespace, name string) kubeerr.Rule {
	return kubeerr.Rule{Verbs: []string{"get", "update"}, Resource: "serviceaccounts", Name: name, Namespace: namespace}
}

// requestFor describes a request with the verb, which the rule allows.
func requestFor(verb string, rule kubeerr.Rule) kubeerr.Request {
	object := rule.Resource
	if rule.Name != "" {
		object = strings.TrimSuffix(rule.Resource, "s") + " " + rule.Name
	}
	if rule.Namespace != "" {
		object += " in namespace " + rule.Namespace
	}
	return kubeerr.Request{Verb: verb, Object: object, Allow: rule.Allow, Timeout: requestTimeout}
}
