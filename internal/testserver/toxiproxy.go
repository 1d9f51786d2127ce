package testserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// Toxiproxy forwards connections to a server and disturbs them on request, as the
// API of github.com/Shopify/toxiproxy allows.
type Toxiproxy struct {
	// Address is host:port, where it listens instead of the server.
	Address string
	api     string // URL of the proxy in toxiproxy's own API
}

// Toxic is what is done to connections.
type Toxic struct {
	// Type and Attributes are toxiproxy's own: latency (latency and jitter in
	// ms), timeout (ms, 0 for silence), reset_peer (ms), slow_close (ms),
	// limit_data (bytes).
	Type       string         `json:"type"`
	Attributes map[string]int `json:"attributes"`
	// Stream is upstream, towards the server, or downstream.
	Stream string `json:"stream"`
}

// NewToxiproxy starts a proxy in front of the server at upstream, host:port.
func NewToxiproxy(t testing.TB, upstream string) *Toxiproxy {
	t.Helper()
	port := FreePort(t)
	api := fmt.Sprintf("http://127.0.0.1:%d", port)
	Start(t, Command{
		Name:  "toxiproxy-server",
		Path:  Require(t, "toxiproxy-server"),
		Args:  []string{"-host", "127.0.0.1", "-port", strconv.Itoa(port)},
		Ready: HTTPReady(http.DefaultClient, api+"/version"),
	})
	p := &Toxiproxy{Address: fmt.Sprintf("127.0.0.1:%d", FreePort(t)), api: api + "/proxies/server"}
	p.must(t, http.MethodPost, api+"/proxies", map[string]any{"name": "server", "listen": p.Address, "upstream": upstream, "enabled": true})
	return p
}

// Add spoils all connections, those that there are too.
func (p *Toxiproxy) Add(t testing.TB, toxics ...Toxic) {
	t.Helper()
	for _, toxic := range toxics {
		p.must(t, http.MethodPost, p.api+"/toxics", toxic)
	}
}

// Remove lets everything pass again. Connections that a toxic holds stay as
// they are.
func (p *Toxiproxy) Remove(t testing.TB) {
	t.Helper()
	var all []struct{ Name string }
	if err := json.Unmarshal(p.must(t, http.MethodGet, p.api+"/toxics", nil), &all); err != nil {
		t.Fatal(err)
	}
	for _, toxic := range all {
		p.must(t, http.MethodDelete, p.api+"/toxics/"+toxic.Name, nil)
	}
}

func (p *Toxiproxy) must(t testing.TB, method, url string, body any) []byte {
	t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("toxiproxy: %s %s: HTTP status %d: %s: %v", method, url, resp.StatusCode, answer, err)
	}
	return answer
}
