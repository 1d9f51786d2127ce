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

// again is when a list and its watch are tried again. client-go's own pauses
// grow to a minute, and through outages that follow each other.
var again = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 3 * time.Second}

// watch follows the namespaces, unless they are named, and the one secret in
// each, by their metadata.
func (k *Keeper) watch(ctx context.Context, busy *sync.WaitGroup) {
	name := "metadata.name=" + k.Secret.Name
	follow := func(what string, resource schema.GroupVersionResource, namespace string, options metav1.ListOptions, store cache.ReflectorStore) {
		k.mu.Lock()
		k.listed++
		k.mu.Unlock()
		source := &source{cluster: k.Cluster, resource: resource, namespace: namespace, options: options,
			told: func(err error) { k.said.outcome(what, err) }}
		reflector := cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, store, cache.ReflectorOptions{Name: what, Backoff: &again})
		busy.Go(func() { reflector.RunWithContext(ctx) })
	}
	if len(k.Namespaces.Names) == 0 {
		follow("watching namespaces", namespaces, "", metav1.ListOptions{LabelSelector: k.Namespaces.Selector}, newMirror(k.namespaceIs, k.namespaceGone, k.synced))
		follow("watching secrets", secrets, "", metav1.ListOptions{FieldSelector: name}, newMirror(k.secretIs, k.secretGone, k.synced))
		return
	}
	names, _, err := k.Namespaces.find(ctx, k.Cluster)
	if err != nil {
		return // it asks nobody where they are named
	}
	for _, namespace := range names {
		k.namespaceIs(metav1.ObjectMeta{Name: namespace})
		follow("watching secrets in "+namespace, secrets, namespace, metav1.ListOptions{FieldSelector: name}, newMirror(k.secretIs, k.secretGone, k.synced))
	}
}

// synced is called when a list is there for the first time.
func (k *Keeper) synced() {
	k.mu.Lock()
	k.listed--
	k.mu.Unlock()
	k.turned()
}

func (k *Keeper) namespaceIs(meta metav1.ObjectMeta) {
	if k.Namespaces.excepts(meta.Name) {
		return
	}
	ending := meta.DeletionTimestamp != nil
	k.mu.Lock()
	if _, known := k.present[meta.Name]; !known && !ending {
		k.waiting[meta.Name] = true
	}
	k.present[meta.Name] = ending
	if ending {
		delete(k.waiting, meta.Name)
	}
	k.mu.Unlock()
	k.look(meta.Name)
}

func (k *Keeper) namespaceGone(meta metav1.ObjectMeta) {
	k.mu.Lock()
	delete(k.present, meta.Name)
	delete(k.waiting, meta.Name)
	delete(k.failing, meta.Name)
	delete(k.rivals, meta.Name)
	k.metrics.forget(meta.Name)
	k.mu.Unlock()
	k.said.forget("namespace " + meta.Name)
}

func (k *Keeper) secretIs(meta metav1.ObjectMeta) {
	k.mu.Lock()
	k.secrets[meta.Namespace] = kept{
		exchanged: annotatedTime(meta, AnnotationExchangedAt),
		expires:   annotatedTime(meta, AnnotationExpiresAt),
		intact:    k.Secret.intact(meta) && len(appliers(meta)) == 0,
	}
	k.mu.Unlock()
	k.look(meta.Namespace)
}

func (k *Keeper) secretGone(meta metav1.ObjectMeta) {
	k.mu.Lock()
	delete(k.secrets, meta.Namespace)
	k.mu.Unlock()
	k.look(meta.Namespace)
}

// source lists and watches by metadata, and tells how that goes: client-go
// itself tries again for ever in silence.
type source struct {
	cluster   *Cluster
	resource  schema.GroupVersionResource
	namespace string
	options   metav1.ListOptions
	told      func(error)
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
	if err != nil { // of a list alone nothing works yet
		s.tell(ctx, limited, "list", err)
	}
	return list, err
}

func (s *source) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	w, err := s.cluster.metadata.Resource(s.resource).Namespace(s.namespace).Watch(ctx, s.selected(options))
	s.tell(ctx, ctx, "watch", err)
	if err != nil {
		// An error that client-go knows makes it watch again from where it
		// was, which an API server that restarted may accept only to refuse
		// it in the stream. Any other leads to a list first.
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

func (s *source) tell(ctx, within context.Context, verb string, err error) {
	if err != nil {
		rule := kubeerr.Rule{Verbs: []string{"list", "watch"}, Resource: s.resource.Resource, Namespace: s.namespace}
		rule.Name, _ = strings.CutPrefix(s.options.FieldSelector, "metadata.name=")
		err = fmt.Errorf("%s %s: %w", verb, s.resource.Resource, s.cluster.explain(within, requestFor(verb, rule), err))
	}
	if ctx.Err() == nil {
		s.told(err)
	}
}

// mirror is the store of a reflector. It keeps no objects, only the keys, to
// know after a new list what has gone.
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

// Replace takes in a new list.
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

// Resync has nothing to do.
func (m *mirror) Resync() error { return nil }

func metaOf(object any) (metav1.ObjectMeta, error) {
	partial, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return metav1.ObjectMeta{}, fmt.Errorf("a %T is no metadata", object)
	}
	return partial.ObjectMeta, nil
}
