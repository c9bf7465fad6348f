package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// packets are the metrics of the packet path.
type packets struct {
	on, up, lost             *prometheus.Desc
	decided, looked, replies *prometheus.Desc
	flows, capacity, sockets *prometheus.Desc
	events                   *prometheus.Desc
}

func newPackets(desc func(name, help string, labels ...string) *prometheus.Desc) *packets {
	return &packets{
		on:   desc("packet_path_up", "Whether packets are acquired at uplinks."),
		up:   desc("uplink_up", "Whether packets are acquired at an uplink.", "uplink", "links"),
		lost: desc("uplink_links_lost_total", "How often the programs of an uplink were found detached.", "uplink"),

		decided: desc("packets_total", "Packets at uplinks, by what was decided; a train that is still whole is one.", "decision"),
		looked:  desc("enclave_lookups_total", "New flows in an enclave, by what became of them.", "result"),
		replies: desc("enclave_replies_total", "Packets on their way back from an enclave.", "result"),

		flows:    desc("udp_flows", "UDP flows that the relay keeps."),
		capacity: desc("udp_flows_capacity", "The most UDP flows that the relay keeps."),
		sockets:  desc("udp_reply_sockets", "Sockets that UDP replies are sent from."),
		events:   desc("udp_events_total", "What happened to UDP flows and datagrams.", "event"),
	}
}

func (p *packets) describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		p.on, p.up, p.lost, p.decided, p.looked, p.replies, p.flows, p.capacity, p.sockets, p.events,
	} {
		out <- d
	}
}

// counter returns the metric of a counter of the datapath and its label, or nil if
// it is not of the packet path.
func (p *packets) counter(family, rest string) (desc *prometheus.Desc, label string) {
	switch family {
	case "packet":
		return p.decided, rest
	case "lookup":
		return p.looked, rest
	case "reply":
		if rest == withoutReason {
			return p.replies, "sent"
		}
		return p.replies, rest
	}
	return nil, ""
}

func (p *packets) collect(now *control.Packets, out chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, v, labels...)
	}
	send(p.on, prometheus.GaugeValue, truth(now.On))
	send(p.flows, prometheus.GaugeValue, float64(now.UDP.Flows))
	send(p.capacity, prometheus.GaugeValue, float64(now.UDP.Capacity))
	send(p.sockets, prometheus.GaugeValue, float64(now.UDP.Sockets))
	for event, n := range now.UDP.Events {
		send(p.events, prometheus.CounterValue, float64(n), event)
	}
	// While a device is replaced there may be two of its name.
	seen := make(map[string]bool)
	for _, u := range now.Uplinks {
		if !seen[u.Name] {
			seen[u.Name] = true
			send(p.up, prometheus.GaugeValue, truth(u.Cause == ""), u.Name, u.Links)
			send(p.lost, prometheus.CounterValue, float64(u.Lost), u.Name)
		}
	}
}
