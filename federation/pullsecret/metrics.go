package pullsecret

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"oidc-publisher/federation/exchange"
)

// metrics are the metrics of one keeper. Names follow the conventions of
// https://prometheus.io/docs/practices/naming/.
type metrics struct {
	exchanges    *prometheus.CounterVec
	lastExchange prometheus.Gauge
	expiry       prometheus.Gauge
	writes       *prometheus.CounterVec
	failures     *prometheus.CounterVec
	leader       prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer, k *Keeper) *metrics {
	registry.MustRegister(census{k})
	own := promauto.With(prometheus.WrapRegistererWithPrefix("oidc_publisher_", registry))
	return &metrics{
		exchanges:    own.NewCounterVec(prometheus.CounterOpts{Name: "exchanges_total", Help: "Exchanges of the service account token by result: ok, refused or failed."}, []string{"result"}),
		lastExchange: own.NewGauge(prometheus.GaugeOpts{Name: "last_exchange_timestamp_seconds", Help: "Time of the last successful exchange."}),
		expiry:       own.NewGauge(prometheus.GaugeOpts{Name: "credential_expiry_timestamp_seconds", Help: "Expiry of the newest credential; 0 if the service states none."}),
		writes:       own.NewCounterVec(prometheus.CounterOpts{Name: "pull_secret_writes_total", Help: "Pull secrets written by outcome: created, updated, repaired, taken-over or replaced."}, []string{"outcome"}),
		failures:     own.NewCounterVec(prometheus.CounterOpts{Name: "pull_secret_failures_total", Help: "Failed attempts to write or attach the pull secret, by namespace; no series for a namespace without failures."}, []string{"namespace"}),
		leader:       own.NewGauge(prometheus.GaugeOpts{Name: "leader", Help: "1 on the replica that writes the secrets, 0 on the others."}),
	}
}

func (m *metrics) exchanged(c credential, err error) {
	var refused *exchange.RefusedError
	switch {
	case errors.As(err, &refused):
		m.exchanges.WithLabelValues("refused").Inc()
	case err != nil:
		m.exchanges.WithLabelValues("failed").Inc()
	default:
		m.exchanges.WithLabelValues("ok").Inc()
		m.lastExchange.Set(seconds(c.at))
		m.expiry.Set(seconds(c.Expiry))
	}
}

func (m *metrics) wrote(r Result) {
	if r.Err != nil {
		m.failures.WithLabelValues(r.Namespace).Inc()
	}
	if r.Outcome.wrote() {
		m.writes.WithLabelValues(string(r.Outcome)).Inc()
	}
}

func (m *metrics) forget(namespace string) { m.failures.DeleteLabelValues(namespace) }

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// census collects at each scrape what the keeper knows of the cluster.
type census struct{ *Keeper }

var (
	secretExpiry    = prometheus.NewDesc("oidc_publisher_pull_secret_expiry_timestamp_seconds", "Expiry of the pull secret by namespace, as annotated.", []string{"namespace"}, nil)
	secretExchanged = prometheus.NewDesc("oidc_publisher_pull_secret_exchanged_timestamp_seconds", "Time of the exchange of the pull secret's credential by namespace, as annotated.", []string{"namespace"}, nil)
	namespaceStates = prometheus.NewDesc("oidc_publisher_pull_secret_namespaces", "Namespaces by state: current (has the newest credential), failing (the last write failed) or outdated.", []string{"state"}, nil)
)

func (c census) Describe(descs chan<- *prometheus.Desc) {
	descs <- secretExpiry
	descs <- secretExchanged
	descs <- namespaceStates
}

func (c census) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	states := map[string]float64{"current": 0, "failing": 0, "outdated": 0}
	for namespace, s := range c.spaces {
		if !s.writable() {
			continue
		}
		states[c.state(s)]++
		if s.seen.intact {
			out <- prometheus.MustNewConstMetric(secretExchanged, prometheus.GaugeValue, seconds(s.seen.exchanged), namespace)
			out <- prometheus.MustNewConstMetric(secretExpiry, prometheus.GaugeValue, seconds(s.seen.expires), namespace)
		}
	}
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(namespaceStates, prometheus.GaugeValue, n, state)
	}
}

// state returns the state of a namespace. The caller holds the lock.
func (k *Keeper) state(s *space) string {
	switch {
	case s.failed:
		return "failing"
	case k.now != nil && s.current(*k.now):
		return "current"
	default:
		return "outdated"
	}
}
