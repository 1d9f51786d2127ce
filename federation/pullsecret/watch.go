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

// again is the wait before a list and its watch are retried. client-go's own
// default grows to a minute, and keeps growing through successive outages.
var again = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 3 * time.Second}

// watch follows the namespaces, unless they are named, and the one secret in
// each, by their metadata.
func (k *Keeper) watch(ctx context.Context, busy *sync.WaitGroup) {
	name := "metadata.name=" + k.Secret.Name
	follow := func(resource schema.GroupVersionResource, namespace string, options metav1.ListOptions, store cache.ReflectorStore) {
		k.mu.Lock()
		k.unlisted++
		k.mu.Unlock()
		about := []any{"resource", resource.Resource}
		if namespace != "" {
			about = append(about, "namespace", namespace)
		}
		source := &source{cluster: k.Cluster, resource: resource, namespace: namespace, options: options,
			report: func(err error) { k.failures.Report("watch", err, about...) }}
		reflector := cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, store, cache.ReflectorOptions{Name: resource.Resource, Backoff: &again})
		busy.Go(func() { reflector.RunWithContext(ctx) })
	}
	if len(k.Namespaces.Names) == 0 {
		follow(namespaces, "", metav1.ListOptions{LabelSelector: k.Namespaces.Selector}, newMirror(k.namespaceIs, k.namespaceGone, k.synced))
		follow(secrets, "", metav1.ListOptions{FieldSelector: name}, newMirror(k.secretIs, k.secretGone, k.synced))
		return
	}
	names, _, err := k.Namespaces.find(ctx, k.Cluster)
	if err != nil {
		return // impossible: for given names there is no request
	}
	for _, namespace := range names {
		k.namespaceIs(metav1.ObjectMeta{Name: namespace})
		follow(secrets, namespace, metav1.ListOptions{FieldSelector: name}, newMirror(k.secretIs, k.secretGone, k.synced))
	}
}

// synced counts down the first lists.
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

// namespaceGone is also for a namespace that lost its label: its secret may
// still be there.
func (k *Keeper) namespaceGone(meta metav1.ObjectMeta) {
	k.mu.Lock()
	if s := k.spaces[meta.Name]; s != nil {
		*s = space{seen: s.seen}
		k.drop(meta.Name, s)
	}
	delete(k.untried, meta.Name)
	k.metrics.forget(meta.Name)
	k.mu.Unlock()
	k.failures.Forget("secret write", "namespace", meta.Name)
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

func (k *Keeper) secretGone(meta metav1.ObjectMeta) {
	k.mu.Lock()
	if s := k.spaces[meta.Namespace]; s != nil {
		s.seen = seenSecret{}
		k.drop(meta.Namespace, s)
	}
	k.mu.Unlock()
	k.enqueue(meta.Namespace)
}

// drop removes the entry of a namespace without a secret that needs none. The
// caller holds the lock.
func (k *Keeper) drop(namespace string, s *space) {
	if !s.selected && s.seen == (seenSecret{}) {
		delete(k.spaces, namespace)
	}
}

// source lists and watches metadata, and reports the outcome: client-go itself
// retries forever without a word.
type source struct {
	cluster   *Cluster
	resource  schema.GroupVersionResource
	namespace string
	options   metav1.ListOptions
	report    func(error)
}

// IsWatchListSemanticsUnSupported keeps client-go to lists, which every API
// server has.
func (s *source) IsWatchListSemanticsUnSupported() bool { return true }

func (s *source) selected(options metav1.ListOptions) metav1.ListOptions {
	options.LabelSelector, options.FieldSelector = s.options.LabelSelector, s.options.FieldSelector
	return options
}

func (s *source) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := s.cluster.metadata.Resource(s.resource).Namespace(s.namespace).List(limited, s.selected(options))
	if err != nil { // success is reported once the watch succeeds too
		s.outcome(ctx, limited, "list", err)
	}
	return list, err
}

func (s *source) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	w, err := s.cluster.metadata.Resource(s.resource).Namespace(s.namespace).Watch(ctx, s.selected(options))
	s.outcome(ctx, ctx, "watch", err)
	if err != nil {
		// Hide the type: after an error that it knows, client-go watches again
		// from the old version, which an API server that restarted may accept
		// only to refuse it in the stream. After any other it lists first.
		return nil, errors.New(err.Error())
	}
	return w, nil
}

func (s *source) List(options metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), options)
}

func (s *source) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), options)
}

func (s *source) outcome(ctx, within context.Context, verb string, err error) {
	if err != nil {
		rule := kubeerr.Rule{Verbs: []string{"list", "watch"}, Resource: s.resource.Resource, Namespace: s.namespace}
		rule.Name, _ = strings.CutPrefix(s.options.FieldSelector, "metadata.name=")
		err = fmt.Errorf("%s %s: %w", verb, s.resource.Resource, s.cluster.explain(within, requestFor(verb, rule), err))
	}
	if ctx.Err() == nil {
		s.report(err)
	}
}

// mirror is the store of a reflector. It keeps the keys only, to find out after
// a new list what is gone.
type mirror struct {
	is, gone func(metav1.ObjectMeta)
	synced   func()

	known map[string]metav1.ObjectMeta // name and namespace only
	once  sync.Once
}

func newMirror(is, gone func(metav1.ObjectMeta), synced func()) *mirror {
	return &mirror{is: is, gone: gone, synced: synced, known: map[string]metav1.ObjectMeta{}}
}

func keyOf(meta metav1.ObjectMeta) (string, metav1.ObjectMeta) {
	return meta.Namespace + "/" + meta.Name, metav1.ObjectMeta{Namespace: meta.Namespace, Name: meta.Name}
}

func (m *mirror) Add(object any) error { return m.Update(object) }

func (m *mirror) Update(object any) error {
	meta, err := metaOf(object)
	if err != nil {
		return err
	}
	key, short := keyOf(meta)
	m.known[key] = short
	m.is(meta)
	return nil
}

func (m *mirror) Delete(object any) error {
	meta, err := metaOf(object)
	if err != nil {
		return err
	}
	key, _ := keyOf(meta)
	delete(m.known, key)
	m.gone(meta)
	return nil
}

// Replace takes a new list.
func (m *mirror) Replace(objects []any, _ string) error {
	before := m.known
	m.known = make(map[string]metav1.ObjectMeta, len(objects))
	for _, object := range objects {
		if err := m.Update(object); err != nil {
			return err
		}
	}
	for key, meta := range before {
		if _, still := m.known[key]; !still {
			m.gone(meta)
		}
	}
	m.once.Do(m.synced)
	return nil
}

// Resync does nothing.
func (m *mirror) Resync() error { return nil }

func metaOf(object any) (metav1.ObjectMeta, error) {
	partial, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return metav1.ObjectMeta{}, fmt.Errorf("unexpected object of type %T", object)
	}
	return partial.ObjectMeta, nil
}
