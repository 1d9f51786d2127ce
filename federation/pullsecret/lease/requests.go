package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"oidc-publisher/internal/kubeerr"
)

// Explain explains an error of the API server, as kubeerr.Server.Explain does.
type Explain func(context.Context, kubeerr.Request, error) error

var (
	errNotFound = errors.New("no such Lease")
	errConflict = errors.New("the Lease was changed by another writer")
)

// leases makes the requests for one Lease.
type leases struct {
	client          rest.Interface
	explain         Explain
	namespace, name string
}

// verbs are RBAC's names of the methods.
var verbs = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update"}

// do makes one request: GET, or POST or PUT of a Lease. The error wraps
// errNotFound or errConflict, or explains what to do.
func (l leases) do(ctx context.Context, method string, sent *coordination.Lease) (*coordination.Lease, error) {
	got, err := l.request(ctx, method, sent)
	if err != nil {
		return nil, fmt.Errorf("lease %s/%s: %w", l.namespace, l.name, err)
	}
	return got, nil
}

func (l leases) request(ctx context.Context, method string, sent *coordination.Lease) (*coordination.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	path := []string{"/apis/coordination.k8s.io/v1/namespaces", l.namespace, "leases"}
	if method != http.MethodPost {
		path = append(path, l.name)
	}
	request := l.client.Verb(method).AbsPath(path...).MaxRetries(0)
	if sent != nil {
		sent.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		sent.Namespace, sent.Name = l.namespace, l.name
		body, err := json.Marshal(sent)
		if err != nil {
			return nil, err
		}
		request = request.SetHeader("Content-Type", "application/json").Body(body)
	}
	result := request.Do(ctx)
	switch err := result.Error(); {
	case apierrors.IsNotFound(err) && method == http.MethodPost:
		return nil, errors.New("the namespace does not exist, or the API server has no Leases")
	case apierrors.IsNotFound(err):
		return nil, errNotFound
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return nil, errConflict
	case err != nil:
		return nil, l.explain(ctx, l.describe(method), err)
	}
	answer, err := result.Raw()
	if err != nil {
		return nil, err
	}
	var got coordination.Lease
	if json.Unmarshal(answer, &got) != nil || got.Kind != "Lease" {
		return nil, errors.New("the answer is not a Lease: check proxies on the way to the API server")
	}
	return &got, nil
}

func (l leases) describe(method string) kubeerr.Request {
	// Without the name: RBAC can't restrict create by name.
	rule := kubeerr.Rule{Verbs: []string{"get", "create", "update"}, Resource: "leases.coordination.k8s.io", Namespace: l.namespace}
	return kubeerr.Request{Verb: verbs[method], Object: "leases in namespace " + l.namespace, Allow: rule.Allow, Timeout: requestTimeout}
}
