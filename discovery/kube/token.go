package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/kubeerr"
)

// MinExpiry is the shortest lifetime that an API server gives a token
// (pkg/apis/authentication/validation).
const MinExpiry = 10 * time.Minute

// account is a service account's name.
type account struct{ namespace, name string }

func (a account) String() string { return a.namespace + "/" + a.name }

// parseAccount reads NAMESPACE/NAME. The names become part of a URL and of
// commands that people copy, so they must look like names.
func parseAccount(s string) (account, error) {
	if s == "" {
		return account{}, nil
	}
	namespace, name, _ := strings.Cut(s, "/")
	a := account{namespace, name}
	if !a.valid() {
		return account{}, fmt.Errorf("service account %.100q must be written as NAMESPACE/NAME", s)
	}
	return a, nil
}

// accountOf reads the user name of a service account.
func accountOf(user string) (account, bool) {
	rest, found := strings.CutPrefix(user, "system:serviceaccount:")
	if !found {
		return account{}, false
	}
	namespace, name, _ := strings.Cut(rest, ":")
	a := account{namespace, name}
	return a, a.valid()
}

func (a account) valid() bool {
	return len(validation.IsDNS1123Label(a.namespace)) == 0 && len(validation.IsDNS1123Subdomain(a.name)) == 0
}

// MintToken requests a token for a service account (TokenRequest,
// authentication.k8s.io/v1), valid for the one audience and, unless the API
// server's --service-account-max-token-expiration is shorter, for expiry,
// which must be at least MinExpiry. Its errors give the command that creates the
// missing right or object.
func (s *Source) MintToken(ctx context.Context, namespace, name, audience string, expiry time.Duration) (discovery.Token, error) {
	a := account{namespace, name}
	switch {
	case !a.valid():
		return discovery.Token{}, fmt.Errorf("%.100q is not the name of a service account", a.String())
	case audience == "":
		return discovery.Token{}, errors.New("a token needs an audience: without one it would be valid for the API server itself")
	case expiry < MinExpiry || expiry.Seconds() > math.MaxUint32:
		return discovery.Token{}, fmt.Errorf("a token can't be valid for %v: API servers give at least %v", expiry, MinExpiry)
	}
	return s.requestToken(ctx, s.home, a, audience, expiry)
}

func (s *Source) requestToken(ctx context.Context, at server, a account, audience string, expiry time.Duration) (discovery.Token, error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1",
		"kind":       "TokenRequest",
		"spec":       map[string]any{"audiences": []string{audience}, "expirationSeconds": int64(expiry.Seconds())},
	})
	if err != nil {
		return discovery.Token{}, err
	}
	r := request{path: "api/v1/namespaces/" + a.namespace + "/serviceaccounts/" + a.name + "/token", body: body, allow: a.mintRule().Allow}
	answer, err := at.do(ctx, r)
	if err != nil {
		return discovery.Token{}, err
	}
	status, genuine := kubeerr.ParseStatus(answer.body)
	switch {
	case answer.status == http.StatusNotFound && genuine && status.Details != nil && status.Details.Kind == "namespaces":
		return discovery.Token{}, fmt.Errorf("API server %s: namespace %q %w: create it with: kubectl create namespace %s",
			at.Address(), a.namespace, errNoAccount, a.namespace)
	case answer.status == http.StatusNotFound && genuine:
		return discovery.Token{}, fmt.Errorf("API server %s: service account %q %w: create it with: kubectl create serviceaccount %s --namespace=%s",
			at.Address(), a, errNoAccount, a.name, a.namespace)
	case answer.status != http.StatusCreated:
		return discovery.Token{}, at.refused(r, answer)
	}
	var response struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if json.Unmarshal(answer.body, &response) != nil || response.Status.Token == "" {
		return discovery.Token{}, at.unusable(r, answer, errors.New("the answer holds no token"))
	}
	return discovery.NewToken(response.Status.Token), nil
}

// mintRule allows to mint tokens for this account and no other.
func (a account) mintRule() kubeerr.Rule {
	return kubeerr.Rule{
		Role: "oidc-publisher-mint-" + a.name, Verbs: []string{"create"}, Resource: "serviceaccounts/token", Name: a.name, Namespace: a.namespace,
	}
}

// errNoAccount marks a service account that does not exist.
var errNoAccount = errors.New("does not exist")
