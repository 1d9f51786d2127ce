package pullsecret

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Explain says of an error of the API server what is wrong, where, and what to
// do. An answer that is about the object comes back as it is.
type Explain func(context.Context, Asked, error) error

// Asked is a request to the API server.
type Asked struct {
	// What it was to do, such as "patch secret s in namespace n".
	What string
	// Allow are the commands that allow it, and what goes with it, to a
	// subject, which is a flag of kubectl like --user=NAME.
	Allow func(subject string) string
	// Within is for how long there was no answer at most.
	Within time.Duration
}

// right is what a job needs in RBAC's terms.
type right struct {
	verbs     []string
	resource  string
	name      string // "" for all
	namespace string // "" for those of the cluster
}

func secretRight(namespace, name string, more ...string) right {
	return right{append([]string{"get", "create", "patch"}, more...), "secrets", name, namespace}
}

func accountRight(namespace, name string) right {
	return right{[]string{"get", "update"}, "serviceaccounts", name, namespace}
}

// to is a request that needs the right for its verb.
func (r right) to(verb string) Asked {
	what := verb + " " + r.resource
	if r.name != "" {
		what = verb + " " + strings.TrimSuffix(r.resource, "s") + " " + r.name
	}
	if r.namespace != "" {
		what += " in namespace " + r.namespace
	}
	return Asked{What: what, Allow: r.allow, Within: requestTimeout}
}

func (r right) allow(subject string) string {
	// A role by the same name for less may be there already.
	role := "oidc-publisher-" + strings.Join(r.verbs, "-") + "-" + r.resource
	kind, scope := "clusterrole", ""
	if r.namespace != "" {
		kind, scope = "role", " --namespace="+r.namespace
	}
	only := ""
	if r.name != "" {
		role += "-" + r.name
		only = " --resource-name=" + r.name
	}
	return fmt.Sprintf("kubectl create %s %s%s --verb=%s --resource=%s%s && kubectl create %[1]sbinding %[2]s%[3]s --%[1]s=%[2]s %[7]s",
		kind, role, scope, strings.Join(r.verbs, ","), r.resource, only, subject)
}
