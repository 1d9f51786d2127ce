package kubeerr

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"oidc-publisher/internal/httpx"
)

// Rule is an RBAC rule that requests need.
type Rule struct {
	// Role names the role to create. If empty, the name is derived from the
	// rule.
	Role     string
	Verbs    []string
	Resource string
	// Name restricts the rule to one object, "" for all.
	Name string
	// Namespace is "" for a rule on the whole cluster.
	Namespace string
}

// Allow returns the commands by which an administrator gives a subject the
// rule. The subject is a flag of kubectl like --user=NAME.
func (r Rule) Allow(subject string) string {
	kind, scope, only, role := "clusterrole", "", "", r.Role
	if r.Namespace != "" {
		kind, scope = "role", " --namespace="+r.Namespace
	}
	if role == "" { // a role of this name with fewer verbs may exist already
		role = "oidc-publisher-" + strings.Join(r.Verbs, "-") + "-" + r.Resource
		if r.Name != "" {
			role += "-" + r.Name
		}
	}
	if r.Name != "" {
		only = " --resource-name=" + r.Name
	}
	return fmt.Sprintf("kubectl create %s %s%s --verb=%s --resource=%s%s && kubectl create %[1]sbinding %[2]s%[3]s --%[1]s=%[2]s %[7]s",
		kind, role, scope, strings.Join(r.Verbs, ","), r.Resource, only, subject)
}

// maxName bounds a user's name.
const maxName = 253

func (s Server) explainForbidden(r Request, message string) error {
	user := userOf(message)
	if user == "" && s.User != nil {
		user = s.User()
	}
	if user == "system:anonymous" {
		return fmt.Errorf("API server %s: %w without credentials (HTTP 403): the kubeconfig's user has no token, certificate or exec plugin", s.Address(), ErrForbidden)
	}
	who := "this user"
	if user != "" {
		who = fmt.Sprintf("user %q", user)
	}
	return fmt.Errorf("API server %s: %s is %w to %s (HTTP 403): an administrator can allow it with: %s",
		s.Address(), who, ErrForbidden, r, r.Allow(subject(user)))
}

// userOf reads the name in the API server's `User "jane" cannot get path …`
// (apiserver/pkg/endpoints/handlers/responsewriters/errors.go), which escapes
// the three characters of HTML. It returns "" for a doubtful name, because the
// name becomes part of a command that people copy.
func userOf(message string) string {
	_, rest, found := strings.Cut(message, `User "`)
	if !found {
		return ""
	}
	quoted, err := strconv.QuotedPrefix(`"` + rest)
	if err != nil {
		return ""
	}
	name, err := strconv.Unquote(quoted)
	if err != nil || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(name)
}

// subject returns the flag of kubectl that names the user.
func subject(user string) string {
	if user == "" {
		return "--user=NAME (or --serviceaccount=NAMESPACE:NAME)"
	}
	if account, ok := strings.CutPrefix(user, "system:serviceaccount:"); ok && strings.Count(account, ":") == 1 {
		return "--serviceaccount=" + httpx.ShellQuote(account)
	}
	return "--user=" + httpx.ShellQuote(user)
}
