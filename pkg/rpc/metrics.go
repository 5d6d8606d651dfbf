package rpc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"xapid/pkg/xenapi"
)

// metrics are what the API itself counts; gauges are read at scrape time.
type metrics struct {
	latency  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	gauges   []prometheus.Collector
}

func newMetrics(s *Server) *metrics {
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn)
	}
	return &metrics{
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "xapid_api_call_seconds",
			Help:    "Time that calls took, by family of messages.",
			Buckets: prometheus.ExponentialBuckets(20e-6, 4, 10)}, []string{"family"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "xapid_api_failures_total",
			Help: "Calls that failed, by error code."}, []string{"code"}),
		gauges: []prometheus.Collector{
			gauge("xapid_sessions", "Sessions that are open.", func() float64 { return float64(s.sessions.count()) }),
			gauge("xapid_row_cache_bytes", "Bytes of encoded rows that are kept.", func() float64 { return float64(s.rows.bytes()) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "xapid_commits_total",
				Help: "Transactions committed, ephemeral ones too."}, func() float64 { return float64(s.db.Commits()) }),
			gauge("xapid_event_waiters", "Calls that wait for events.", func() float64 { return float64(s.db.Feed().Waiting()) }),
		},
	}
}

// observe accounts for one call.
func (m *metrics) observe(family string, took time.Duration, err error) {
	m.latency.WithLabelValues(family).Observe(took.Seconds())
	if err != nil {
		code := xenapi.Code(err)
		if code == "" {
			code = "INTERNAL_ERROR"
		}
		m.failures.WithLabelValues(code).Inc()
	}
}

// Collectors are the server's metrics, to be registered.
func (s *Server) Collectors() []prometheus.Collector {
	return append([]prometheus.Collector{s.metrics.latency, s.metrics.failures}, s.metrics.gauges...)
}
