package edge

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what an edge does.
type metrics struct {
	flows       *prometheus.CounterVec
	active      prometheus.Gauge
	connections prometheus.Gauge
	sent        prometheus.Counter
	received    prometheus.Counter
	dial        prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bpfacq_edge_bytes_total",
		Help: "Bytes carried between clients and destinations; sent is towards the destination.",
	}, []string{"direction"})
	m := &metrics{
		flows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bpfacq_edge_flows_total",
			Help: "Flows that clients asked for, by verdict (pass or block) and its reason.",
		}, []string{"verdict", "reason"}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bpfacq_edge_flows",
			Help: "Flows being dialed or carried now.",
		}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bpfacq_edge_connections",
			Help: "Connections of clients now.",
		}),
		sent:     bytes.WithLabelValues("sent"),
		received: bytes.WithLabelValues("received"),
		dial: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bpfacq_edge_dial_seconds",
			Help:    "Time from a permitted CONNECT to the connection to its destination, resolution included.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9), // 0.1 ms to 6.6 s
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.flows, m.active, m.connections, bytes, m.dial} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) passed() { m.flows.WithLabelValues("pass", reasonAllowed).Inc() }

func (m *metrics) blocked(reason string) { m.flows.WithLabelValues("block", reason).Inc() }
