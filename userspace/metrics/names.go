package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// names are the metrics of names and of queries for them. Servers that were asked
// are not among them: how many there are is up to applications.
type names struct {
	taken, pending, connections, lookups *prometheus.Desc
	queries, events, duration            *prometheus.Desc
	capacity, used, held, full           *prometheus.Desc
	logged, logBytes, syncs              *prometheus.Desc
	private                              *prometheus.Desc
}

func newNames(desc func(name, help string, labels ...string) *prometheus.Desc) *names {
	return &names{
		taken:       desc("dns_taken", "Whether the host's DNS queries are taken."),
		pending:     desc("dns_pending_queries", "DNS queries that wait for an answer."),
		connections: desc("dns_connections", "TCP connections of those who ask."),
		lookups:     desc("dns_lookups", "Original addresses that are asked for."),
		queries:     desc("dns_queries_total", "DNS queries, by what became of them.", "outcome"),
		events:      desc("dns_events_total", "What else was worth counting about DNS.", "event"),
		duration:    desc("dns_answer_duration_seconds", "How long answers took, by the way they came from.", "way"),

		capacity: desc("synthetic_names_capacity", "Names that the pool has addresses for."),
		used:     desc("synthetic_names", "Names that hold addresses of the pool."),
		held:     desc("synthetic_names_held", "Names whose address a flow uses."),
		full:     desc("synthetic_full_total", "Queries for which the pool had no address."),
		logged:   desc("synthetic_log_up", "Whether new names can be put on disk."),
		logBytes: desc("synthetic_log_bytes", "Size of the names on disk."),
		syncs:    desc("synthetic_sync_seconds", "How long writes to the disk took."),

		private: desc("private_dns_up", "Whether a private DNS rule is in use.", "suffix"),
	}
}

func (n *names) describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		n.taken, n.pending, n.connections, n.lookups, n.queries, n.events, n.duration,
		n.capacity, n.used, n.held, n.full, n.logged, n.logBytes, n.syncs, n.private,
	} {
		out <- d
	}
}

func (n *names) collect(d *control.DNS, out chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, v, labels...)
	}
	for _, g := range []struct {
		desc  *prometheus.Desc
		value float64
	}{
		{n.taken, truth(d.On)}, {n.pending, float64(d.Pending)}, {n.connections, float64(d.Connections)}, {n.lookups, float64(d.Lookups)},
		{n.capacity, float64(d.Pool.Capacity)}, {n.used, float64(d.Pool.Used)}, {n.held, float64(d.Pool.Held)},
		{n.logged, truth(d.Pool.LogError == "")}, {n.logBytes, float64(d.Pool.LogSize)},
	} {
		send(g.desc, prometheus.GaugeValue, g.value)
	}
	send(n.full, prometheus.CounterValue, float64(d.Pool.Full))
	for outcome, count := range d.Queries {
		send(n.queries, prometheus.CounterValue, float64(count), outcome)
	}
	for event, count := range d.Events {
		send(n.events, prometheus.CounterValue, float64(count), event)
	}
	for way, l := range d.Latency {
		buckets := make(map[float64]uint64, len(l.Buckets))
		for _, b := range l.Buckets {
			buckets[b.Bound] = b.Count
		}
		out <- prometheus.MustNewConstHistogram(n.duration, l.Count, l.Sum, buckets, way)
	}
	out <- prometheus.MustNewConstSummary(n.syncs, d.Pool.Syncs, d.Pool.SyncTime, nil)

	// A profile may name a suffix twice; then the first rule is the one.
	seen := make(map[string]bool)
	for _, p := range d.Private {
		if !seen[p.Suffix] {
			seen[p.Suffix] = true
			send(n.private, prometheus.GaugeValue, truth(p.Active), p.Suffix)
		}
	}
}
