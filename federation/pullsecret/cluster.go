package pullsecret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"oidc-publisher/federation/pullsecret/lease"
	"oidc-publisher/internal/kubeerr"
)

var (
	secrets    = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

const (
	// requestTimeout bounds one request, including client-go's own retries if
	// the API server asks for them (429 and Retry-After).
	requestTimeout = 30 * time.Second
	// maxAnswer bounds an answer in bytes, except a watch: far more than a page
	// of metadata.
	maxAnswer = 64 << 20
)

// Cluster is a client of the API server for pull secrets. It is safe for
// concurrent use. Typed clients would add 15 MB to the program.
type Cluster struct {
	metadata metadata.Interface
	rest     rest.Interface
	explain  lease.Explain
}

// Connect returns a client. It makes no request. The client has no rate limit
// of its own: it relies on the API server's priority and fairness.
func Connect(config *rest.Config, explain lease.Explain) (*Cluster, error) {
	own := rest.CopyConfig(config)
	own.QPS = -1
	own.Wrap(func(next http.RoundTripper) http.RoundTripper { return boundedTransport{next} })
	own.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	own.GroupVersion, own.APIPath = &schema.GroupVersion{Version: "v1"}, "/api"
	client, err := rest.HTTPClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("credentials of the kubeconfig: %w", err)
	}
	// A redirect must not send the credentials to another host.
	client = &http.Client{Transport: client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c := &Cluster{explain: explain}
	if c.metadata, err = metadata.NewForConfigAndClient(own, client); err != nil {
		return nil, err
	}
	c.rest, err = rest.RESTClientForConfigAndClient(own, client)
	return c, err
}

// Elector returns a candidate for the Lease namespace/name. The identity must be
// unique.
func (c *Cluster) Elector(namespace, name, identity string) *lease.Elector {
	return lease.New(c.rest, c.explain, namespace, name, identity)
}

// find reads the type and metadata of a secret; nil if there is none. The
// table that kubectl shows has both, without the content.
func (c *Cluster) find(ctx context.Context, namespace, name string) (*found, error) {
	rows, err := c.table(ctx, requestFor("get", secretRule(namespace, name)), c.rest.Get().AbsPath("/api/v1/namespaces", namespace, "secrets", name))
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case len(rows) != 1:
		return nil, fmt.Errorf("the API server's table has %d secrets", len(rows))
	}
	return &rows[0], nil
}

// findAll reads the secrets of that name in all namespaces with one request.
func (c *Cluster) findAll(ctx context.Context, name string) (map[string]*found, error) {
	rows, err := c.table(ctx, requestFor("list", kubeerr.Rule{Verbs: []string{"list"}, Resource: "secrets", Name: name}), c.rest.Get().AbsPath("/api/v1/secrets").Param("fieldSelector", "metadata.name="+name))
	if err != nil {
		return nil, err
	}
	all := make(map[string]*found, len(rows))
	for i, f := range rows {
		all[f.meta.Namespace] = &rows[i]
	}
	return all, nil
}

func (c *Cluster) table(ctx context.Context, explained kubeerr.Request, request *rest.Request) ([]found, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := bodyOf(request.SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Param("includeObject", "Metadata").Do(ctx))
	if err != nil {
		return nil, c.explain(ctx, explained, err)
	}
	return readTable(body)
}

// bodyOf returns the body, or an error that contains the API server's message,
// which Raw alone omits.
func bodyOf(result rest.Result) ([]byte, error) {
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

// readTable refuses a row without the type and UID of a secret.
func readTable(body []byte) ([]found, error) {
	var table metav1.Table
	if err := json.Unmarshal(body, &table); err != nil || table.Kind != "Table" {
		return nil, errors.New("the API server's answer is not a table")
	}
	column := slices.IndexFunc(table.ColumnDefinitions, func(c metav1.TableColumnDefinition) bool { return c.Name == "Type" })
	rows := make([]found, len(table.Rows))
	for i, row := range table.Rows {
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(row.Object.Raw, &object); err != nil {
			return nil, errors.New("the API server's table has a row without metadata")
		}
		rows[i].meta = object.ObjectMeta
		if column >= 0 && column < len(row.Cells) {
			rows[i].kind, _ = row.Cells[column].(string)
		}
		if rows[i].kind == "" || object.UID == "" {
			return nil, errors.New("the API server's table has a row without type or UID")
		}
	}
	return rows, nil
}

// apply writes a secret by server-side apply and returns its new version.
func (c *Cluster) apply(ctx context.Context, namespace, name string, body []byte, force, dryRun bool) (version, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := c.metadata.Resource(secrets).Namespace(namespace).Patch(ctx, name, types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: Manager, Force: &force, DryRun: map[bool][]string{true: {metav1.DryRunAll}}[dryRun], FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return version{}, c.explain(ctx, requestFor("patch", secretRule(namespace, name)), err)
	}
	return versionOf(got.ObjectMeta), nil
}

// remove deletes the secret unless it changed since it was read.
func (c *Cluster) remove(ctx context.Context, f found) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := c.metadata.Resource(secrets).Namespace(f.meta.Namespace).Delete(ctx, f.meta.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &f.meta.UID, ResourceVersion: &f.meta.ResourceVersion},
	})
	return c.explain(ctx, requestFor("delete", secretRule(f.meta.Namespace, f.meta.Name, "delete")), err)
}

// list returns the namespaces with these labels, page by page.
func (c *Cluster) list(ctx context.Context, selector string) (all []metav1.ObjectMeta, err error) {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		page, err := c.metadata.Resource(namespaces).List(ctx, options)
		return page, c.explain(ctx, requestFor("list", kubeerr.Rule{Verbs: []string{"list"}, Resource: "namespaces"}), err)
	})
	err = pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: selector}, func(object runtime.Object) error {
		all = append(all, metaOf(object))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	return all, nil
}

// serviceAccount reads a service account with all its fields, known or not.
func (c *Cluster) serviceAccount(ctx context.Context, namespace, name string) (account map[string]any, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := bodyOf(c.rest.Get().AbsPath("/api/v1/namespaces", namespace, "serviceaccounts", name).Do(ctx))
	if err != nil {
		return nil, c.explain(ctx, requestFor("get", accountRule(namespace, name)), err)
	}
	return account, json.Unmarshal(body, &account)
}

// replaceServiceAccount writes the service account unless it changed since it
// was read.
func (c *Cluster) replaceServiceAccount(ctx context.Context, namespace, name string, account map[string]any, dryRun bool) error {
	body, err := json.Marshal(account)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request := c.rest.Put().AbsPath("/api/v1/namespaces", namespace, "serviceaccounts", name).
		SetHeader("Content-Type", "application/json").Param("fieldManager", Manager).Body(body)
	if dryRun {
		request = request.Param("dryRun", metav1.DryRunAll)
	}
	return c.explain(ctx, requestFor("update", accountRule(namespace, name)), request.Do(ctx).Error())
}

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

// boundedTransport bounds the size of answers, which client-go does not.
type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil && req.URL.Query().Get("watch") == "" {
		resp.Body = &boundedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the API server's answer is larger than %d MiB", maxAnswer>>20)
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}
