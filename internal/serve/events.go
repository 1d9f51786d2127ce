package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// Event is one line of --output json: a contract with scripts.
type Event struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	// Address is the address that it listens on. URL and Issuer are the public
	// ones.
	Address string `json:"address,omitempty"`
	URL     string `json:"url,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Keys are all public keys, or all that the cluster lists.
	Keys    []string `json:"keys,omitempty"`
	Added   []string `json:"added,omitempty"`
	Dropped []string `json:"dropped,omitempty"`
	// GraceEnds has the time at which each retired key will be dropped.
	GraceEnds map[string]time.Time `json:"grace_ends,omitempty"`
}

// Events report progress to a person and to scripts: a line in the log for each
// step and, on stdout, the public URL alone or one JSON object per step. They
// are safe for concurrent use.
type Events struct {
	log       *slog.Logger
	stdout    io.Writer
	asJSON    bool
	readyFile string

	mu  sync.Mutex
	url string
	// throughTunnel is set if the documents become public only through the
	// tunnel.
	throughTunnel bool
}

// NewEvents removes a ready file of an earlier run, if one is named.
func NewEvents(stdout io.Writer, asJSON bool, readyFile string, log *slog.Logger) (*Events, error) {
	if readyFile != "" {
		if err := prepareReadyFile(readyFile); err != nil {
			return nil, fmt.Errorf("--ready-file: %w", err)
		}
	}
	return &Events{log: log, stdout: stdout, asJSON: asJSON, readyFile: readyFile}, nil
}

// emit writes the JSON line of a step. It must be called with the lock held.
func (e *Events) emit(event Event) {
	if !e.asJSON {
		return
	}
	event.Time = time.Now().UTC()
	line, err := json.Marshal(event)
	if err != nil {
		panic(err) // every field marshals
	}
	e.print(string(line))
}

func (e *Events) print(line string) {
	if _, err := fmt.Fprintln(e.stdout, line); err != nil {
		e.log.Error("write to standard output failed: its reader is gone", "error", err)
	}
}

func (e *Events) listening(address string) {
	e.log.Info("listening", "address", address)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.emit(Event{Event: "listening", Address: address})
}

// publicURL reports, once, where relying parties find the issuer.
func (e *Events) publicURL(url string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.url == url || url == "" {
		return
	}
	e.url = url
	e.emit(Event{Event: "public_url", URL: url})
	if !e.asJSON {
		e.print(url)
	}
}

// Waiting reports why there is nothing to serve. A refusal by a rule is an
// event of its own, because it lasts until someone acts.
func (e *Events) Waiting(reason error) {
	name := "waiting"
	if errors.Is(reason, publish.ErrRefused) {
		name = "refused"
		e.log.Error("refused: " + reason.Error())
	} else {
		e.log.Info("waiting: " + reason.Error())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.emit(Event{Event: name, Reason: reason.Error()})
}

func (e *Events) found(cluster discovery.Snapshot) {
	issuer, keys := string(cluster.Document.Issuer()), cluster.Keys.IDs()
	e.log.Info("cluster found", "issuer", issuer, "keys", strings.Join(keys, ","))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.emit(Event{Event: "cluster_found", Issuer: issuer, Keys: keys})
}

// serve passes the published documents to a site, and reports what changed.
func (e *Events) serve(site *Site, now publish.Published) error {
	before := site.Published()
	sameEnds := slices.Equal(sortedKeys(before.GraceEnds), sortedKeys(now.GraceEnds))
	if sameEnds && before.SameDocuments(now) {
		return nil
	}
	if err := site.Serve(now); err != nil {
		return err
	}
	issuer := string(now.Document.Issuer())
	e.publicURL(issuer)
	e.mu.Lock()
	defer e.mu.Unlock()
	event := Event{Issuer: issuer, Keys: now.Keys.IDs(), GraceEnds: now.GraceEnds}
	event.Added, event.Dropped = without(now.Keys, before.Keys), without(before.Keys, now.Keys)
	keys := strings.Join(event.Keys, ",")
	switch {
	case before.Document.Issuer() == "":
		event.Event, event.URL, event.Added = "serving", issuer, nil
		e.log.Info("documents served", "issuer", issuer, "keys", keys)
		e.emit(event)
		if !e.throughTunnel {
			e.writeReadyFile()
		}
		return nil
	case len(event.Added)+len(event.Dropped) > 0 || !sameEnds:
		event.Event = "keys_changed"
		attrs := []any{"keys", keys, "added", strings.Join(event.Added, ","), "dropped", strings.Join(event.Dropped, ",")}
		for _, id := range sortedKeys(now.GraceEnds) {
			attrs = append(attrs, "retired", id+" until "+now.GraceEnds[id].Format(time.RFC3339))
		}
		e.log.Info("keys changed", attrs...)
	default:
		event.Event, event.GraceEnds = "documents_changed", nil
		e.log.Info("documents changed", "issuer", issuer)
	}
	e.emit(event)
	return nil
}

func sortedKeys(ends map[string]time.Time) []string { return slices.Sorted(maps.Keys(ends)) }

// without returns the IDs of the keys that are not among the others.
func without(keys, others discovery.KeySet) []string {
	return slices.DeleteFunc(keys.IDs(), func(id string) bool { _, known := others.Lookup(id); return known })
}

// prepareReadyFile removes the file of an earlier run, which scripts would
// mistake for this run's. It fails if the file can't be written, because
// scripts would then wait forever.
func prepareReadyFile(path string) error {
	probe, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_ = probe.Close() // nothing was written
	if err := os.Remove(probe.Name()); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// public reports that the documents are public through the tunnel.
func (e *Events) public() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.writeReadyFile()
}

// writeReadyFile is atomic: a script sees the whole file or none. It must be
// called with the lock held.
func (e *Events) writeReadyFile() {
	if e.readyFile == "" {
		return
	}
	if err := writeAtomically(e.readyFile, e.url+"\n"); err != nil {
		e.log.Error("write of the ready file failed", "error", err)
	}
}

func writeAtomically(path, text string) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first error matters more
	}
	return err
}
