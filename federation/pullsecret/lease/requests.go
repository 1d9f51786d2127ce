package lease

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	coordination "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"oidc-publisher/internal/httpx"
)

// maxAnswer bounds an answer in bytes; a Lease has less than a thousand.
const maxAnswer = 1 << 20

var (
	errNotFound = errors.New("there is no such Lease")
	errConflict = errors.New("another changed it first")
)

// leases are the requests for one Lease.
type leases struct {
	client          *http.Client
	all             *url.URL
	namespace, name string
}

func newLeases(config *rest.Config, namespace, name string) (leases, error) {
	own := rest.CopyConfig(config)
	own.Timeout = renewDeadline / 2
	base, _, err := rest.DefaultServerUrlFor(own)
	if err != nil {
		return leases{}, fmt.Errorf("leader election: server of the kubeconfig: %w", err)
	}
	shared, err := rest.HTTPClientFor(own)
	if err != nil {
		return leases{}, fmt.Errorf("leader election: credentials of the kubeconfig: %w", err)
	}
	client := *shared
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return leases{&client, base.JoinPath("apis/coordination.k8s.io/v1/namespaces", namespace, "leases"), namespace, name}, nil
}

// do makes one request: GET, or POST or PUT of a Lease. The error wraps
// errNotFound or errConflict, or says what to do. The same fault of any request
// has the same words, without the address, which may hold a password.
func (l leases) do(ctx context.Context, method string, sent *coordination.Lease) (*coordination.Lease, error) {
	got, err := l.request(ctx, method, sent)
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if err != nil {
		return nil, fmt.Errorf("the Lease %s/%s: %w", l.namespace, l.name, err)
	}
	return got, nil
}

func (l leases) request(ctx context.Context, method string, sent *coordination.Lease) (*coordination.Lease, error) {
	req, err := l.newRequest(ctx, method, sent)
	if err != nil {
		return nil, err
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := httpx.ReadBody(resp, maxAnswer)
	if err != nil {
		return nil, err
	}
	if err := judge(resp.StatusCode, method); err != nil {
		return nil, err
	}
	var got coordination.Lease
	if err := json.Unmarshal(answer, &got); err != nil || got.Kind != "Lease" {
		return nil, errors.New("the answer is no Lease: look at what stands between this and the API server")
	}
	return &got, nil
}

func (l leases) newRequest(ctx context.Context, method string, sent *coordination.Lease) (*http.Request, error) {
	address := l.all
	if method != http.MethodPost {
		address = l.all.JoinPath(l.name)
	}
	var body []byte
	if sent != nil {
		sent.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		sent.Namespace, sent.Name = l.namespace, l.name
		var err error
		if body, err = json.Marshal(sent); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, address.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

// verbs are what RBAC calls the methods.
var verbs = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update"}

func judge(status int, method string) error {
	switch {
	case status == http.StatusOK || status == http.StatusCreated:
		return nil
	case status == http.StatusNotFound && method == http.MethodPost:
		return errors.New("there is no such namespace, or the API server has no Leases")
	case status == http.StatusNotFound:
		return errNotFound
	case status == http.StatusConflict:
		return errConflict
	case status == http.StatusUnauthorized:
		return errors.New("the credentials were not accepted (HTTP status 401)")
	case status == http.StatusForbidden:
		return fmt.Errorf("this user may not %s leases of coordination.k8s.io there (HTTP status 403): bind it to a Role that allows get, create and update", verbs[method])
	default:
		return fmt.Errorf("HTTP status %d", status)
	}
}
