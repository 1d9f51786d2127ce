package pullsecret

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "oidc_publisher", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "oidc_publisher", Name: name, Help: help}
	}
	m := &metrics{
		exchanges:    prometheus.NewCounterVec(counter("exchanges_total", "Exchanges of the service account token by result: ok, refused or failed."), []string{"result"}),
		lastExchange: prometheus.NewGauge(gauge("last_exchange_timestamp_seconds", "Time of the last successful exchange.")),
		expiry:       prometheus.NewGauge(gauge("credential_expiry_timestamp_seconds", "Expiry of the newest credential; 0 if the service states none.")),
		writes:       prometheus.NewCounterVec(counter("pull_secret_writes_total", "Pull secrets written by outcome: created, updated, repaired, taken-over or replaced."), []string{"outcome"}),
		failures:     prometheus.NewCounterVec(counter("pull_secret_failures_total", "Failed attempts to write or attach the pull secret, by namespace; no series for a namespace without failures."), []string{"namespace"}),
		leader:       prometheus.NewGauge(gauge("leader", "1 on the replica that writes the secrets, 0 on the others.")),
	}
	registry.MustRegister(m.exchanges, m.lastExchange, m.expiry, m.writes, m.failures, m.leader, newCensus(k))
	return m
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
type census struct {
	keeper                     *Keeper
	expiry, exchanged, present *prometheus.Desc
}

func newCensus(k *Keeper) *census {
	return &census{
		keeper:    k,
		expiry:    prometheus.NewDesc("oidc_publisher_pull_secret_expiry_timestamp_seconds", "Expiry of the pull secret by namespace, as annotated.", []string{"namespace"}, nil),
		exchanged: prometheus.NewDesc("oidc_publisher_pull_secret_exchanged_timestamp_seconds", "Time of the exchange of the pull secret's credential by namespace, as annotated.", []string{"namespace"}, nil),
		present:   prometheus.NewDesc("oidc_publisher_pull_secret_namespaces", "Namespaces by state: current (has the newest credential), failing (the last write failed) or outdated.", []string{"state"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *census) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.expiry
	descs <- c.exchanged
	descs <- c.present
}

// Collect implements prometheus.Collector.
func (c *census) Collect(out chan<- prometheus.Metric) {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	states := map[string]float64{"current": 0, "failing": 0, "outdated": 0}
	for namespace, s := range c.keeper.spaces {
		if !s.writable() {
			continue
		}
		states[c.keeper.state(s)]++
		if s.seen.intact {
			out <- prometheus.MustNewConstMetric(c.exchanged, prometheus.GaugeValue, seconds(s.seen.exchanged), namespace)
			out <- prometheus.MustNewConstMetric(c.expiry, prometheus.GaugeValue, seconds(s.seen.expires), namespace)
		}
	}
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(c.present, prometheus.GaugeValue, n, state)
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
