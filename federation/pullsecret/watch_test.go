package pullsecret

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"

	"oidc-publisher/internal/kubeerr"
	"oidc-publisher/internal/logtest"
	"oidc-publisher/internal/testserver"
)

func TestMain(m *testing.M) {
	// Among them is one that sleeps from the last error's time on, which may be
	// of another clock than that of a test in a bubble.
	utilruntime.ErrorHandlers = nil
	os.Exit(testserver.Main(m))
}

// shortMemory is an API server that has no history from before its last start,
// and refuses older watches in the stream.
type shortMemory struct {
	mu       sync.Mutex
	down     bool
	deaf     bool // lists, but does not watch
	version  int
	since    int
	names    []string
	watchers []*io.PipeWriter // of namespaces
	streams  []*io.PipeWriter // of all
}

func (s *shortMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, syscall.ECONNREFUSED
	}
	query, ofNamespaces := req.URL.Query(), strings.HasSuffix(req.URL.Path, "/namespaces")
	from, err := strconv.Atoi(query.Get("resourceVersion"))
	switch {
	case query.Get("watch") == "":
		return answer(http.StatusOK, s.list(ofNamespaces)), nil
	case s.deaf:
		return answer(http.StatusForbidden, strings.NewReader("{}")), nil
	case err != nil || from < s.since:
		return answer(http.StatusOK, strings.NewReader(event("ERROR", object{
			"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Expired", "code": http.StatusGone,
		}))), nil
	}
	r, w := io.Pipe()
	context.AfterFunc(req.Context(), func() { _ = w.CloseWithError(req.Context().Err()) })
	s.streams = append(s.streams, w)
	if ofNamespaces {
		s.watchers = append(s.watchers, w)
	}
	return answer(http.StatusOK, r), nil
}

func answer(code int, body io.Reader) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(body)}
}

// list has no secrets.
func (s *shortMemory) list(ofNamespaces bool) io.Reader {
	items := []any{}
	for _, name := range s.names {
		if ofNamespaces {
			items = append(items, partial(name, s.version))
		}
	}
	return strings.NewReader(text(object{
		"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
		"metadata": object{"resourceVersion": strconv.Itoa(s.version)}, "items": items,
	}))
}

func partial(name string, version int) object {
	return object{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object{"name": name, "resourceVersion": strconv.Itoa(version)}}
}

func event(kind string, of object) string { return text(object{"type": kind, "object": of}) + "\n" }

func text(o object) string {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func (s *shortMemory) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	for _, stream := range s.streams {
		_ = stream.Close()
	}
	s.streams, s.watchers = nil, nil
}

func (s *shortMemory) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.since, s.down = s.version, false
}

// create is a namespace more.
func (s *shortMemory) create(name string) {
	s.mu.Lock()
	s.version++
	s.names = append(s.names, name)
	watchers, added := s.watchers, event("ADDED", partial(name, s.version))
	s.mu.Unlock()
	for _, w := range watchers {
		_, _ = io.WriteString(w, added)
	}
}

// overlook runs only the watches of a keeper.
func overlook(t *testing.T, api *shortMemory) (knows func(namespace string) bool, log *logtest.Log) {
	t.Helper()
	cluster, err := Connect(&rest.Config{Host: "https://kube.example", Transport: api}, func(_ context.Context, _ kubeerr.Request, err error) error { return err })
	if err != nil {
		t.Fatal(err)
	}
	log = new(logtest.Log)
	k := NewKeeper(KeeperConfig{Job: Job{Cluster: cluster, Secret: Secret{Name: "regcred"}}, Log: slog.New(slog.NewTextHandler(log, nil))}, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	k.watch(ctx, &busy)
	t.Cleanup(func() { cancel(); api.stop(); busy.Wait() })
	return func(namespace string) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.spaces[namespace].writable()
	}, log
}

const recovered = `msg="watch recovered" resource=namespaces`

// TestWatchesAfterOutages: a few seconds after each the watches are back, and
// from the moment that the log says so a new namespace is seen within a second.
func TestWatchesAfterOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &shortMemory{version: 1}
		knows, log := overlook(t, api)
		pass(time.Second)
		for outage := 1; outage <= 4; outage++ {
			api.stop()
			pass(time.Duration(20+5*outage) * time.Second)
			api.start()
			back := time.Now()
			for strings.Count(log.String(), recovered) < outage {
				if pass(10 * time.Millisecond); time.Since(back) > 5*time.Second {
					t.Fatalf("outage %d is over for %v:\n%s", outage, time.Since(back), log)
				}
			}
			name := fmt.Sprint("after-", outage)
			api.create(name)
			if pass(time.Second); !knows(name) {
				t.Errorf("a namespace after outage %d was not seen:\n%s", outage, log)
			}
		}
	})
}

// TestListWithoutWatchIsAFailure: a list alone does not end the failure.
func TestListWithoutWatchIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &shortMemory{version: 1, deaf: true}
		_, log := overlook(t, api)
		pass(time.Minute)
		if said := log.String(); strings.Contains(said, "recovered") || strings.Count(said, `msg="watch failed" resource=namespaces`) != 1 {
			t.Error(said)
		}
		api.mu.Lock()
		api.deaf = false
		api.mu.Unlock()
		if pass(5 * time.Second); strings.Count(log.String(), recovered) != 1 {
			t.Error(log)
		}
	})
}
