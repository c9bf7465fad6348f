// Package metrics shows an agent to Prometheus.
package metrics

import (
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// Source is what a scrape reads.
type Source interface {
	// Counters returns the datapath's counters by name.
	Counters() (map[string]uint64, error)

	// Gauges returns what the agent knows of itself without asking the kernel.
	Gauges() Gauges
}

// Gauges are the agent's own figures.
type Gauges struct {
	Generation uint32
	TCP, UDP   control.Totals
	NoRecord   uint64          // connections that reached a listener without a record
	Channels   map[string]bool // by identifier: whether it is up
	Datagrams  map[string]bool // by identifier, where it is known: whether it carries UDP
	DNS        control.DNS
	Packets    control.Packets
}

// Handler serves the metrics of source.
func Handler(source Source, version string) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(source, version), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// collector reads its source at each scrape. A source that fails is counted, and
// what can be read is shown all the same.
type collector struct {
	source  Source
	version string
	errors  atomic.Uint64

	connects, handoffs, bugs          *prometheus.Desc
	flows, active, bytes, unrecorded  *prometheus.Desc
	generation, channelUp, channelUDP *prometheus.Desc
	queries, datagrams                *prometheus.Desc
	collectionErrors, buildInfo       *prometheus.Desc
	names                             *names
	packets                           *packets
}

func newCollector(source Source, version string) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bpfacq_"+name, help, labels, nil)
	}
	return &collector{
		source:  source,
		version: version,

		connects:         desc("connects_total", "TCP connects, and UDP to port 53 or a synthetic address, by what was decided.", "verdict", "reason"),
		handoffs:         desc("handoffs_total", "Records on their way to the listener.", "result"),
		queries:          desc("query_datagrams_total", "Datagrams that came to the agent as queries, by what is known of them.", "asker"),
		bugs:             desc("datapath_bugs_total", "Branches that should never be taken.", "reason"),
		flows:            desc("flows_total", "Flows that have ended.", "protocol", "state"),
		active:           desc("flows", "Flows that are carried.", "protocol"),
		bytes:            desc("flow_bytes_total", "Bytes of applications.", "protocol", "direction"),
		datagrams:        desc("flow_datagrams_total", "Datagrams of applications.", "direction"),
		unrecorded:       desc("listener_resets_total", "Connections that came without a record."),
		generation:       desc("generation", "Number of the policy in force, 0 for none."),
		channelUp:        desc("channel_up", "Whether a channel can carry flows.", "channel"),
		channelUDP:       desc("channel_datagrams", "Whether the edges of a channel carry UDP, where that is known.", "channel"),
		collectionErrors: desc("collection_errors_total", "Scrapes that could not read everything."),
		buildInfo:        desc("build_info", "A constant 1.", "version", "go_version"),
		names:            newNames(desc),
		packets:          newPackets(desc),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.connects, c.handoffs, c.bugs, c.flows, c.active, c.bytes, c.unrecorded, c.queries, c.datagrams,
		c.generation, c.channelUp, c.channelUDP, c.collectionErrors, c.buildInfo,
	} {
		out <- d
	}
	c.names.describe(out)
	c.packets.describe(out)
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}

	counters, err := c.source.Counters()
	if err != nil {
		c.errors.Add(1)
	}
	for name, n := range counters {
		switch family, rest := split(name); family {
		case "handoff":
			counter(c.handoffs, n, rest)
		case "query":
			counter(c.queries, n, rest)
		case "bug":
			counter(c.bugs, n, rest)
		default:
			if desc, label := c.packets.counter(family, rest); desc != nil {
				counter(desc, n, label)
				continue
			}
			counter(c.connects, n, family, rest)
		}
	}

	g := c.source.Gauges()
	for protocol, t := range map[string]*control.Totals{"tcp": &g.TCP, "udp": &g.UDP} {
		for state, n := range map[string]uint64{"closed": t.Closed, "reset": t.Reset, "refused": t.Refused, "failed": t.Failed} {
			counter(c.flows, n, protocol, state)
		}
		gauge(c.active, float64(t.Active), protocol)
		counter(c.bytes, t.BytesSent, protocol, "sent")
		counter(c.bytes, t.BytesReceived, protocol, "received")
	}
	counter(c.datagrams, g.UDP.DatagramsSent, "sent")
	counter(c.datagrams, g.UDP.DatagramsReceived, "received")
	counter(c.unrecorded, g.NoRecord)
	gauge(c.generation, float64(g.Generation))
	for id, up := range g.Channels {
		gauge(c.channelUp, truth(up), id)
	}
	for id, yes := range g.Datagrams {
		gauge(c.channelUDP, truth(yes), id)
	}
	c.names.collect(&g.DNS, out)
	c.packets.collect(&g.Packets, out)
	counter(c.collectionErrors, c.errors.Load())
	gauge(c.buildInfo, 1, c.version, runtime.Version())
}

// truth is a condition as a gauge has it.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// withoutReason is the reason of a verdict that has none: its rule.
const withoutReason = "rule"

// split takes the datapath's name of a counter apart: "pass_bypass" is the
// verdict pass for the reason bypass. A verdict alone has its rule as reason.
func split(name string) (family, rest string) {
	family, rest, found := strings.Cut(name, "_")
	if !found {
		rest = withoutReason
	}
	return family, rest
}
