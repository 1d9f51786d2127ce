package web_test

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/backends/web"
	"oidc-publisher/publish"
)

func newSite() *web.Site {
	return web.NewSite(slog.New(slog.DiscardHandler), web.NewMetrics(prometheus.NewRegistry()))
}

// TestSuite: memory has no permissions, can't be missing, and has nothing around
// it, so the hooks for those are left out.
func TestSuite(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{NewStore: func(testing.TB) backendtest.Store {
		site := newSite()
		return backendtest.Store{
			Open:   func(testing.TB) publish.Backend { return site.Open() },
			Place:  func(_ testing.TB, name string, body []byte) { site.Smuggle(name, body) },
			Remove: func(_ testing.TB, name string) { site.Remove(name) },
		}
	}})
}
