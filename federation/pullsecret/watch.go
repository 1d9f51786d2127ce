package pullsecret

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"oidc-publisher/internal/kubeerr"
)

// again is the wait before a failed list or watch is retried. client-go's own
// default grows to a minute, and keeps growing through successive outages.
var again = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 3 * time.Second}

// watch watches the metadata of the namespaces, unless they are named, and of
// the one secret in each.
func (k *Keeper) watch(ctx context.Context, busy *sync.WaitGroup) {
	follow := func(resource schema.GroupVersionResource, namespace string, options metav1.ListOptions, store *mirror) {
		k.mu.Lock()
		k.unlisted++
		k.mu.Unlock()
		store.synced = k.synced
		reflector := cache.NewReflectorWithOptions(k.source(resource, namespace, options), &metav1.PartialObjectMetadata{}, store, cache.ReflectorOptions{Name: resource.Resource, Backoff: &again})
		busy.Go(func() { reflector.RunWithContext(ctx) })
	}
	named := metav1.ListOptions{FieldSelector: "metadata.name=" + k.Secret.Name}
	if len(k.Namespaces.Names) == 0 {
		follow(namespaces, "", metav1.ListOptions{LabelSelector: k.Namespaces.Selector}, &mirror{is: k.namespaceIs, gone: k.namespaceGone})
		follow(secrets, "", named, &mirror{is: k.secretIs, gone: k.secretGone})
		return
	}
	names, _, _ := k.Namespaces.find(ctx, k.Cluster) // for given names there is no request that could fail
	for _, namespace := range names {
		k.namespaceIs(metav1.ObjectMeta{Name: namespace})
		follow(secrets, namespace, named, &mirror{is: k.secretIs, gone: k.secretGone})
	}
}

// synced is called after each first list.
func (k *Keeper) synced() {
	k.mu.Lock()
	k.unlisted--
	k.mu.Unlock()
	k.passed()
}

func (k *Keeper) namespaceIs(meta metav1.ObjectMeta) {
	if k.Namespaces.excepts(meta.Name) {
		return
	}
	k.mu.Lock()
	s := k.space(meta.Name)
	known := s.selected
	s.selected, s.deleting = true, meta.DeletionTimestamp != nil
	switch {
	case s.deleting:
		delete(k.untried, meta.Name)
	case !known:
		k.untried[meta.Name] = true
	}
	k.mu.Unlock()
	k.enqueue(meta.Name)
}

// namespaceGone is also called for a namespace that lost its label, whose
// secret may still exist.
func (k *Keeper) namespaceGone(name cache.ObjectName) {
	k.mu.Lock()
	if s := k.spaces[name.Name]; s != nil {
		*s = space{seen: s.seen}
		k.drop(name.Name, s)
	}
	delete(k.untried, name.Name)
	k.metrics.forget(name.Name)
	k.mu.Unlock()
	k.failures.Forget("secret write", "namespace", name.Name)
}

func (k *Keeper) secretIs(meta metav1.ObjectMeta) {
	k.mu.Lock()
	k.space(meta.Namespace).seen = seenSecret{
		version:   versionOf(meta),
		exchanged: annotatedTime(meta, AnnotationExchangedAt),
		expires:   annotatedTime(meta, AnnotationExpiresAt),
		intact:    k.Secret.intact(meta),
	}
	k.mu.Unlock()
	k.enqueue(meta.Namespace)
}

func (k *Keeper) secretGone(name cache.ObjectName) {
	k.mu.Lock()
	if s := k.spaces[name.Namespace]; s != nil {
		s.seen = seenSecret{}
		k.drop(name.Namespace, s)
	}
	k.mu.Unlock()
	k.enqueue(name.Namespace)
}

// drop removes the entry of a namespace without a secret that needs none. The
// caller holds the lock.
func (k *Keeper) drop(namespace string, s *space) {
	if !s.selected && s.seen == (seenSecret{}) {
		delete(k.spaces, namespace)
	}
}

// source lists and watches metadata, and reports the outcome: client-go itself
// retries forever without reporting an error.
func (k *Keeper) source(resource schema.GroupVersionResource, namespace string, selected metav1.ListOptions) cache.ListerWatcher {
	client := k.Cluster.metadata.Resource(resource).Namespace(namespace)
	about := []any{"resource", resource.Resource}
	if namespace != "" {
		about = append(about, "namespace", namespace)
	}
	report := func(ctx, within context.Context, verb string, err error) {
		if err != nil {
			rule := kubeerr.Rule{Verbs: []string{"list", "watch"}, Resource: resource.Resource, Namespace: namespace}
			rule.Name, _ = strings.CutPrefix(selected.FieldSelector, "metadata.name=")
			err = fmt.Errorf("%s %s: %w", verb, resource.Resource, k.Cluster.explain(within, requestFor(verb, rule), err))
		}
		if ctx.Err() == nil {
			k.failures.Report("watch", err, about...)
		}
	}
	return onlyLists{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			limited, cancel := context.WithTimeout(ctx, requestTimeout)
			defer cancel()
			options.LabelSelector, options.FieldSelector = selected.LabelSelector, selected.FieldSelector
			list, err := client.List(limited, options)
			if err != nil { // success is reported once the watch succeeds too
				report(ctx, limited, "list", err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector, options.FieldSelector = selected.LabelSelector, selected.FieldSelector
			w, err := client.Watch(ctx, options)
			report(ctx, ctx, "watch", err)
			if err != nil {
				// Hide the type: after an error of a type that it knows,
				// client-go resumes the watch from the old version. An API
				// server that restarted may accept that and then refuse it in
				// the stream. After any other error client-go lists first.
				return nil, errors.New(err.Error())
			}
			return w, nil
		},
	}}
}

// onlyLists keeps client-go from streaming lists, which not every API server does.
type onlyLists struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is for client-go.
func (onlyLists) IsWatchListSemanticsUnSupported() bool { return true }

// mirror is the store of a reflector. It keeps the names only, to find out after
// a new list what is gone.
type mirror struct {
	is     func(metav1.ObjectMeta)
	gone   func(cache.ObjectName)
	synced func()
	known  map[cache.ObjectName]bool // nil before the first list
}

func (m *mirror) Add(object any) error { return m.Update(object) }

func (m *mirror) Update(object any) error {
	meta := metaOf(object)
	m.known[cache.MetaObjectToName(&meta)] = true
	m.is(meta)
	return nil
}

func (m *mirror) Delete(object any) error {
	meta := metaOf(object)
	name := cache.MetaObjectToName(&meta)
	delete(m.known, name)
	m.gone(name)
	return nil
}

// Replace takes a new list.
func (m *mirror) Replace(objects []any, _ string) error {
	before := m.known
	m.known = make(map[cache.ObjectName]bool, len(objects))
	for _, object := range objects {
		_ = m.Update(object)
	}
	for name := range before {
		if !m.known[name] {
			m.gone(name)
		}
	}
	if before == nil {
		m.synced()
	}
	return nil
}

// Resync does nothing.
func (m *mirror) Resync() error { return nil }

// metaOf is for the objects of the metadata client, which are all of this type.
func metaOf(object any) metav1.ObjectMeta {
	partial, _ := object.(*metav1.PartialObjectMetadata)
	return partial.ObjectMeta
}
