package main

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

	"oidc-publisher/internal/cli"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// event is one line of serve --output json: a contract with scripts.
type event struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	// Address is where it listens, URL and Issuer what the world sees.
	Address string `json:"address,omitempty"`
	URL     string `json:"url,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Keys are all that are public, or that the cluster lists.
	Keys    []string `json:"keys,omitempty"`
	Added   []string `json:"added,omitempty"`
	Dropped []string `json:"dropped,omitempty"`
	// GraceEnds says when each retired key will be dropped.
	GraceEnds map[string]time.Time `json:"grace_ends,omitempty"`
}

// progress tells a person and scripts how far serve has come: a line on stderr
// for each step and, on stdout, the public URL alone or one object per step. It
// is safe for concurrent use.
type progress struct {
	log       *slog.Logger
	stdout    io.Writer
	json      bool
	readyFile string

	mu    sync.Mutex
	url   string
	ready bool
	// retired are the keys in their grace, as told last.
	retired []string
}

func newProgress(c *cli.Context) (*progress, error) {
	format, err := cli.OutputFormat(c, "text", "json")
	if err != nil {
		return nil, err
	}
	log, err := cli.Logger(c)
	if err != nil {
		return nil, err
	}
	p := &progress{log: log, stdout: c.App.Writer, json: format == "json", readyFile: c.String("ready-file")}
	if p.readyFile != "" {
		if err := prepareReadyFile(p.readyFile); err != nil {
			return nil, fmt.Errorf("--ready-file: %w", err)
		}
	}
	return p, nil
}

// tell writes the JSON line of a step.
func (p *progress) tell(e event) {
	if !p.json {
		return
	}
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // every field marshals
	}
	p.print(string(line))
}

func (p *progress) print(line string) {
	if _, err := fmt.Fprintln(p.stdout, line); err != nil {
		p.log.Error("nobody reads standard output any more", "error", err)
	}
}

func (p *progress) listening(address string) {
	p.log.Info("listening", "address", address)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell(event{Event: "listening", Address: address})
}

// publicURL tells, once, where the world finds the issuer.
func (p *progress) publicURL(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.url == url {
		return
	}
	p.url = url
	p.tell(event{Event: "public_url", URL: url})
	if !p.json {
		p.print(url)
	}
}

// Waiting implements watch.Follower. What a rule forbids is an event of its own:
// it does not pass by itself.
func (p *progress) Waiting(reason error) {
	name := "waiting"
	if errors.Is(reason, publish.ErrRefused) {
		name = "refused"
		p.log.Error("refused: " + reason.Error())
	} else {
		p.log.Info("waiting: " + reason.Error())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell(event{Event: name, Reason: reason.Error()})
}

// Found implements watch.Follower.
func (p *progress) Found(cluster discovery.Snapshot) {
	issuer, keys := string(cluster.Document.Issuer()), cluster.Keys.IDs()
	p.log.Info("cluster found", "issuer", issuer, "keys", strings.Join(keys, ","))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell(event{Event: "cluster_found", Issuer: issuer, Keys: keys})
}

// served tells what the world can read now.
func (p *progress) served(issuer discovery.Issuer, before, keys []string, graceEnds map[string]time.Time) {
	p.publicURL(string(issuer))
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ready {
		p.ready = true
		p.log.Info("documents served", "issuer", issuer, "keys", strings.Join(keys, ","))
		p.tell(event{Event: "serving", URL: string(issuer), Issuer: string(issuer), Keys: keys, GraceEnds: graceEnds})
		p.writeReadyFile()
		return
	}
	added, dropped := without(keys, before), without(before, keys)
	retired := slices.Sorted(maps.Keys(graceEnds))
	if len(added)+len(dropped) == 0 && slices.Equal(retired, p.retired) {
		p.log.Info("documents changed", "issuer", issuer)
		p.tell(event{Event: "documents_changed", Issuer: string(issuer), Keys: keys})
		return
	}
	p.retired = retired
	attrs := []any{"keys", strings.Join(keys, ","), "added", strings.Join(added, ","), "dropped", strings.Join(dropped, ",")}
	for _, id := range retired {
		attrs = append(attrs, "retired", id+" until "+graceEnds[id].Format(time.RFC3339))
	}
	p.log.Info("keys changed", attrs...)
	p.tell(event{Event: "keys_changed", Issuer: string(issuer), Keys: keys, Added: added, Dropped: dropped, GraceEnds: graceEnds})
}

func without(ids, others []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(others, id) })
}

// writeReadyFile is atomic: whoever sees the file sees all of it.
func (p *progress) writeReadyFile() {
	if p.readyFile == "" {
		return
	}
	err := writeAtomically(p.readyFile, p.url+"\n")
	if err != nil {
		p.log.Error("--ready-file can't be written", "error", err)
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
		_ = os.Remove(file.Name()) // the first error says more
	}
	return err
}
