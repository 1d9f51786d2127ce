package watch

import (
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/discovery/verify"
	"oidc-publisher/publish"
)

// Results of passes and checks, as label values.
const (
	resultOK      = "ok"
	resultFailed  = "failed"
	resultRefused = "refused"
)

// metrics are those of one watcher. Names follow the conventions of
// https://prometheus.io/docs/practices/naming/: base units, totals, and points in
// time instead of durations since or until them. key_publication_seconds is a
// duration because it measures one that is over.
type metrics struct {
	attempt, success *prometheus.GaugeVec
	unpublished      prometheus.Gauge
	rotations        prometheus.Counter
	toPublic         prometheus.Histogram
	fetches, writes  *prometheus.CounterVec
	checks           *prometheus.CounterVec
	certificate      prometheus.Gauge
	repairs          *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, publisher *publish.Publisher) *metrics {
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "oidc_publisher", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "oidc_publisher", Name: name, Help: help}
	}
	m := &metrics{
		attempt:     prometheus.NewGaugeVec(gauge("last_attempt_timestamp_seconds", "When publishing to a target was last attempted, in seconds since 1970."), []string{"target"}),
		success:     prometheus.NewGaugeVec(gauge("last_success_timestamp_seconds", "When a target was last found or made equal to the cluster, in seconds since 1970."), []string{"target"}),
		unpublished: prometheus.NewGauge(gauge("unpublished_keys", "Keys that the cluster lists or signs with and that are not public on every target yet.")),
		rotations:   prometheus.NewCounter(counter("rotations_total", "Observed changes of the cluster's set of keys.")),
		toPublic: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "oidc_publisher", Name: "key_publication_seconds",
			Help:    "Time from the first fetch of a key until every target had it.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2, 5, 10, 30, 60, 300, 3600},
		}),
		fetches:     prometheus.NewCounterVec(counter("fetches_total", "Fetches from the cluster by result: ok, failed or refused."), []string{"result"}),
		writes:      prometheus.NewCounterVec(counter("writes_total", "Objects written and passes that could not write, by target and result: ok, failed or refused."), []string{"target", "result"}),
		checks:      prometheus.NewCounterVec(counter("public_checks_total", "Checks of the public issuer by verdict: pass, fail or error."), []string{"verdict"}),
		certificate: prometheus.NewGauge(gauge("public_certificate_expiry_timestamp_seconds", "When the first certificate of the public issuer expires, in seconds since 1970; 0 where none was seen.")),
		repairs:     prometheus.NewCounterVec(counter("repairs_total", "Repairs of a target that another writer had changed."), []string{"target"}),
	}
	registry.MustRegister(m.attempt, m.success, m.unpublished, m.rotations, m.toPublic,
		m.fetches, m.writes, m.checks, m.certificate, m.repairs, newKeyCollector(publisher.Published))
	// Alerts need these series from the start.
	for _, target := range publisher.Targets {
		m.attempt.WithLabelValues(target.Name)
		m.success.WithLabelValues(target.Name)
		m.repairs.WithLabelValues(target.Name)
		for _, result := range []string{resultOK, resultFailed, resultRefused} {
			m.writes.WithLabelValues(target.Name, result)
		}
	}
	for _, verdict := range []verify.Status{verify.Pass, verify.Fail, verify.Error} {
		m.checks.WithLabelValues(string(verdict))
	}
	for _, result := range []string{resultOK, resultFailed, resultRefused} {
		m.fetches.WithLabelValues(result)
	}
	return m
}

// observe counts one pass.
func (m *metrics) observe(pass publish.Pass) {
	m.fetches.WithLabelValues(resultOf(pass.Err)).Inc()
	for _, t := range pass.Report.Targets {
		name := t.Target.Name
		m.attempt.WithLabelValues(name).Set(seconds(pass.Ended))
		m.writes.WithLabelValues(name, resultOK).Add(float64(len(t.Written)))
		if t.Err != nil {
			m.writes.WithLabelValues(name, resultOf(t.Err)).Inc()
			continue
		}
		m.success.WithLabelValues(name).Set(seconds(pass.Ended))
	}
}

func resultOf(err error) string {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, publish.ErrRefused):
		return resultRefused
	default:
		return resultFailed
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// keyCollector reads what is public at the time of the scrape.
type keyCollector struct {
	published  func() []publish.Published
	keys, ends *prometheus.Desc
}

func newKeyCollector(published func() []publish.Published) keyCollector {
	return keyCollector{
		published: published,
		keys:      prometheus.NewDesc("oidc_publisher_published_keys", "Public keys of a target by state: current or retired.", []string{"target", "state"}, nil),
		ends:      prometheus.NewDesc("oidc_publisher_key_grace_end_timestamp_seconds", "When a retired key will be dropped from a target, in seconds since 1970.", []string{"target", "kid"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (k keyCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- k.keys
	descs <- k.ends
}

// Collect implements prometheus.Collector.
func (k keyCollector) Collect(out chan<- prometheus.Metric) {
	for _, p := range k.published() {
		retired := len(p.GraceEnds)
		out <- prometheus.MustNewConstMetric(k.keys, prometheus.GaugeValue, float64(retired), p.Target, "retired")
		out <- prometheus.MustNewConstMetric(k.keys, prometheus.GaugeValue, float64(len(p.Keys.IDs())-retired), p.Target, "current")
		for kid, end := range p.GraceEnds {
			out <- prometheus.MustNewConstMetric(k.ends, prometheus.GaugeValue, seconds(end), p.Target, kid)
		}
	}
}

// rotation follows keys from their first fetch until every target has them.
type rotation struct {
	listed  []string
	waiting map[string]time.Time
	// unlisted is a key that signs and is neither listed nor public.
	unlisted string
}

// observe returns whether the cluster's set changed and how long each key took
// that is public now.
func (r *rotation) observe(pass publish.Pass) (changed bool, took []time.Duration) {
	if pass.Err != nil {
		return false, nil
	}
	ids := pass.Report.Snapshot.Keys.IDs()
	slices.Sort(ids)
	first := r.listed == nil
	changed = !first && !slices.Equal(ids, r.listed)
	if r.waiting == nil {
		r.waiting = map[string]time.Time{}
	}
	for _, id := range ids {
		if !slices.Contains(r.listed, id) {
			r.waiting[id] = pass.Began
		}
	}
	for id, since := range r.waiting {
		if !slices.Contains(ids, id) {
			delete(r.waiting, id)
		} else if everywhere(pass, id) {
			delete(r.waiting, id)
			if !first {
				took = append(took, pass.Ended.Sub(since))
			}
		}
	}
	r.listed = ids
	r.unlisted = ""
	if canary := pass.Report.Snapshot.Canary; canary != nil && !everywhere(pass, canary.KeyID) && !slices.Contains(ids, canary.KeyID) {
		r.unlisted = canary.KeyID
	}
	return changed, took
}

// unpublished is the number of keys that are known and not public everywhere.
func (r *rotation) unpublished() int {
	if r.unlisted != "" {
		return len(r.waiting) + 1
	}
	return len(r.waiting)
}

func everywhere(pass publish.Pass, id string) bool {
	for _, t := range pass.Report.Targets {
		if t.Err != nil || !t.Published.Holds(id) {
			return false
		}
	}
	return true
}
