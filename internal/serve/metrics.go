package serve

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// resource is what a request is for, as a label.
type resource int

const (
	documentResource resource = iota
	keysResource
	otherResource
	resources
)

func (r resource) String() string {
	return [...]string{"configuration", "keys", "other"}[r]
}

// statuses are those that a Site sends.
var statuses = [...]int{
	http.StatusOK, http.StatusNoContent, http.StatusPartialContent, http.StatusNotModified,
	http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable,
	http.StatusServiceUnavailable,
}

// Metrics are those of the public side. Counters are created once, so that a
// request only increments one.
type Metrics struct {
	requests    [resources][len(statuses)]prometheus.Counter
	connections prometheus.Gauge
	evicted     prometheus.Counter
	certificate prometheus.Gauge
	reloads     *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	const namespace = "oidc_publisher"
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "http_requests_total",
		Help: "Requests answered on the public side, by resource (configuration, keys, other) and status code."}, []string{"resource", "code"})
	m := &Metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "http_connections", Help: "Open connections on the public side."}),
		evicted:     prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "http_connections_evicted_total", Help: "Connections that were closed to make room for others."}),
		certificate: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "certificate_expiry_timestamp_seconds", Help: "When the certificate that is served expires, in seconds since 1970; 0 without TLS."}),
		reloads:     prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "certificate_loads_total", Help: "Reloads of a changed certificate by result: ok or failed."}, []string{"result"}),
	}
	for r := range resources {
		for i, status := range statuses {
			m.requests[r][i] = requests.WithLabelValues(r.String(), strconv.Itoa(status))
		}
	}
	m.reloads.WithLabelValues("ok")
	m.reloads.WithLabelValues("failed")
	registry.MustRegister(requests, m.connections, m.evicted, m.certificate, m.reloads)
	return m
}

// Expiry sets the time at which the served certificate expires.
func (m *Metrics) Expiry(at time.Time) { m.certificate.Set(float64(at.Unix())) }

func (m *Metrics) count(r resource, status int) {
	for i, known := range statuses {
		if known == status {
			m.requests[r][i].Inc()
			return
		}
	}
}
