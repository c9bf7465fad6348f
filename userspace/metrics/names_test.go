package metrics

import (
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// resolving is a source whose agent answers queries.
type resolving struct{ source }

func (r resolving) Gauges() Gauges {
	g := r.source.Gauges()
	g.DNS = control.DNS{
		On:   true,
		Pool: control.Pool{Capacity: 11, Used: 12, Held: 13, Full: 14, LogSize: 15, Syncs: 16, SyncTime: 17, LogError: "full disk"},
		Private: []control.PrivateDNS{
			{PrivateDNSRule: control.PrivateDNSRule{Suffix: "corp.example"}, Active: true},
			{PrivateDNSRule: control.PrivateDNSRule{Suffix: "lab.example"}},
			{PrivateDNSRule: control.PrivateDNSRule{Suffix: "corp.example"}},
		},
		Pending: 18, Connections: 19, Lookups: 20,
		Queries: map[string]uint64{"synthetic": 21, "forwarded": 0},
		Events:  map[string]uint64{"stray": 22},
		Latency: map[string]control.Latency{"direct": {Count: 3, Sum: 2.5, Buckets: []control.LatencyBucket{{Bound: 0.5, Count: 1}, {Bound: 1, Count: 2}}}},
	}
	return g
}

func TestMetricsOfNamesHaveTheirNamesAndValues(t *testing.T) {
	const want = `
# HELP bpfacq_dns_answer_duration_seconds How long answers took, by the way they came from.
# TYPE bpfacq_dns_answer_duration_seconds histogram
bpfacq_dns_answer_duration_seconds_bucket{way="direct",le="0.5"} 1
bpfacq_dns_answer_duration_seconds_bucket{way="direct",le="1"} 2
bpfacq_dns_answer_duration_seconds_bucket{way="direct",le="+Inf"} 3
bpfacq_dns_answer_duration_seconds_sum{way="direct"} 2.5
bpfacq_dns_answer_duration_seconds_count{way="direct"} 3
# HELP bpfacq_dns_connections TCP connections of those who ask.
# TYPE bpfacq_dns_connections gauge
bpfacq_dns_connections 19
# HELP bpfacq_dns_events_total What else was worth counting about DNS.
# TYPE bpfacq_dns_events_total counter
bpfacq_dns_events_total{event="stray"} 22
# HELP bpfacq_dns_lookups Original addresses that are asked for.
# TYPE bpfacq_dns_lookups gauge
bpfacq_dns_lookups 20
# HELP bpfacq_dns_pending_queries DNS queries that wait for an answer.
# TYPE bpfacq_dns_pending_queries gauge
bpfacq_dns_pending_queries 18
# HELP bpfacq_dns_queries_total DNS queries, by what became of them.
# TYPE bpfacq_dns_queries_total counter
bpfacq_dns_queries_total{outcome="forwarded"} 0
bpfacq_dns_queries_total{outcome="synthetic"} 21
# HELP bpfacq_dns_taken Whether the host's DNS queries are taken.
# TYPE bpfacq_dns_taken gauge
bpfacq_dns_taken 1
# HELP bpfacq_private_dns_up Whether a private DNS rule is in use.
# TYPE bpfacq_private_dns_up gauge
bpfacq_private_dns_up{suffix="corp.example"} 1
bpfacq_private_dns_up{suffix="lab.example"} 0
# HELP bpfacq_query_datagrams_total Datagrams that came to the agent as queries, by what is known of them.
# TYPE bpfacq_query_datagrams_total counter
bpfacq_query_datagrams_total{asker="known"} 23
# HELP bpfacq_synthetic_full_total Queries for which the pool had no address.
# TYPE bpfacq_synthetic_full_total counter
bpfacq_synthetic_full_total 14
# HELP bpfacq_synthetic_log_bytes Size of the names on disk.
# TYPE bpfacq_synthetic_log_bytes gauge
bpfacq_synthetic_log_bytes 15
# HELP bpfacq_synthetic_log_up Whether new names can be put on disk.
# TYPE bpfacq_synthetic_log_up gauge
bpfacq_synthetic_log_up 0
# HELP bpfacq_synthetic_names Names that hold addresses of the pool.
# TYPE bpfacq_synthetic_names gauge
bpfacq_synthetic_names 12
# HELP bpfacq_synthetic_names_capacity Names that the pool has addresses for.
# TYPE bpfacq_synthetic_names_capacity gauge
bpfacq_synthetic_names_capacity 11
# HELP bpfacq_synthetic_names_held Names whose address a flow uses.
# TYPE bpfacq_synthetic_names_held gauge
bpfacq_synthetic_names_held 13
# HELP bpfacq_synthetic_sync_seconds How long writes to the disk took.
# TYPE bpfacq_synthetic_sync_seconds summary
bpfacq_synthetic_sync_seconds_sum 17
bpfacq_synthetic_sync_seconds_count 16
`
	c := newCollector(resolving{source{counters: map[string]uint64{"query_known": 23}}}, "v1")
	var names []string
	for line := range strings.Lines(want) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	problems, err := testutil.CollectAndLint(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Every description that there is was made, said and used.
func TestEveryMetricOfNamesIsCollected(t *testing.T) {
	c := newCollector(resolving{}, "v1")
	said := make(chan *prometheus.Desc, 100)
	c.names.describe(said)
	close(said)
	described := make(map[*prometheus.Desc]bool)
	for d := range said {
		described[d] = true
	}
	sent := make(chan prometheus.Metric, 1000)
	dns := resolving{}.Gauges().DNS
	c.names.collect(&dns, sent)
	close(sent)
	collected := make(map[*prometheus.Desc]bool)
	for m := range sent {
		collected[m.Desc()] = true
	}
	fields := reflect.TypeFor[names]().NumField()
	if len(described) != fields || len(collected) != fields {
		t.Errorf("%d metrics are described and %d collected, want %d", len(described), len(collected), fields)
	}
	for d := range collected {
		if !described[d] {
			t.Errorf("%v is not described", d)
		}
	}
}
