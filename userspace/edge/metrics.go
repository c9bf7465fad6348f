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

	datagramsSent     prometheus.Counter
	datagramsReceived prometheus.Counter
	datagramsDropped  prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bpfacq_edge_bytes_total",
		Help: "Bytes carried between clients and destinations; sent is towards the destination.",
	}, []string{"direction"})
	datagrams := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bpfacq_edge_datagrams_total",
		Help: "UDP datagrams carried between clients and destinations; sent is towards the destination.",
	}, []string{"direction"})
	m := &metrics{
		flows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bpfacq_edge_flows_total",
			Help: "Flows that clients asked for, by protocol (tcp or udp), verdict (pass or block) and its reason.",
		}, []string{"protocol", "verdict", "reason"}),
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
		datagramsSent:     datagrams.WithLabelValues("sent"),
		datagramsReceived: datagrams.WithLabelValues("received"),
		datagramsDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bpfacq_edge_datagrams_dropped_total",
			Help: "UDP datagrams that a socket or a tunnel did not take at once.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.flows, m.active, m.connections, bytes, m.dial, datagrams, m.datagramsDropped} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) passed(p protocol) {
	m.flows.WithLabelValues(string(p), "pass", reasonAllowed).Inc()
}

func (m *metrics) blocked(p protocol, reason string) {
	m.flows.WithLabelValues(string(p), "block", reason).Inc()
}

// forwarded counts datagrams that went to their destination.
func (m *metrics) forwarded(batch [][]byte) {
	bytes := 0
	for _, p := range batch {
		bytes += len(p)
	}
	m.sent.Add(float64(bytes))
	m.datagramsSent.Add(float64(len(batch)))
}

// returned counts datagrams of a destination.
func (m *metrics) returned(datagrams, bytes int) {
	m.received.Add(float64(bytes))
	m.datagramsReceived.Add(float64(datagrams))
}

func (m *metrics) dropped(datagrams int) { m.datagramsDropped.Add(float64(datagrams)) }
