package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// carrying is a source whose agent has a packet path.
type carrying struct{ source }

func (c carrying) Gauges() Gauges {
	g := c.source.Gauges()
	g.Datagrams = map[string]bool{"a": true, "b": false}
	g.Packets = control.Packets{
		On: true,
		Uplinks: []control.Uplink{
			{Name: "eth0", Links: "tcx", Lost: 3},
			{Name: "wlan0", Links: "tcx", Cause: "no enclave"},
			{Name: "eth0", Links: "tcx", Lost: 9},
		},
		UDP: control.UDP{Flows: 11, Capacity: 12, Sockets: 13, Events: map[string]uint64{"evicted": 14, "refused": 0}},
	}
	return g
}

func TestMetricsOfPacketsHaveTheirNamesAndValues(t *testing.T) {
	s := carrying{source{counters: map[string]uint64{
		"packet_acquire": 1, "packet_pass": 2, "lookup_refuse": 3, "reply": 4, "reply_drop": 5,
	}}}
	const want = `
# HELP bpfacq_channel_datagrams Whether the edges of a channel carry UDP, where that is known.
# TYPE bpfacq_channel_datagrams gauge
bpfacq_channel_datagrams{channel="a"} 1
bpfacq_channel_datagrams{channel="b"} 0
# HELP bpfacq_enclave_lookups_total New flows in an enclave, by what became of them.
# TYPE bpfacq_enclave_lookups_total counter
bpfacq_enclave_lookups_total{result="refuse"} 3
# HELP bpfacq_enclave_replies_total Packets on their way back from an enclave.
# TYPE bpfacq_enclave_replies_total counter
bpfacq_enclave_replies_total{result="drop"} 5
bpfacq_enclave_replies_total{result="sent"} 4
# HELP bpfacq_packet_path_up Whether packets are acquired at uplinks.
# TYPE bpfacq_packet_path_up gauge
bpfacq_packet_path_up 1
# HELP bpfacq_packets_total Packets at uplinks, by what was decided; a train that is still whole is one.
# TYPE bpfacq_packets_total counter
bpfacq_packets_total{decision="acquire"} 1
bpfacq_packets_total{decision="pass"} 2
# HELP bpfacq_udp_events_total What happened to UDP flows and datagrams.
# TYPE bpfacq_udp_events_total counter
bpfacq_udp_events_total{event="evicted"} 14
bpfacq_udp_events_total{event="refused"} 0
# HELP bpfacq_udp_flows UDP flows that the relay keeps.
# TYPE bpfacq_udp_flows gauge
bpfacq_udp_flows 11
# HELP bpfacq_udp_flows_capacity The most UDP flows that the relay keeps.
# TYPE bpfacq_udp_flows_capacity gauge
bpfacq_udp_flows_capacity 12
# HELP bpfacq_udp_reply_sockets Sockets that UDP replies are sent from.
# TYPE bpfacq_udp_reply_sockets gauge
bpfacq_udp_reply_sockets 13
# HELP bpfacq_uplink_links_lost_total How often the programs of an uplink were found detached.
# TYPE bpfacq_uplink_links_lost_total counter
bpfacq_uplink_links_lost_total{uplink="eth0"} 3
bpfacq_uplink_links_lost_total{uplink="wlan0"} 0
# HELP bpfacq_uplink_up Whether packets are acquired at an uplink.
# TYPE bpfacq_uplink_up gauge
bpfacq_uplink_up{links="tcx",uplink="eth0"} 1
bpfacq_uplink_up{links="tcx",uplink="wlan0"} 0
`
	names := []string{"bpfacq_channel_datagrams", "bpfacq_enclave_lookups_total", "bpfacq_enclave_replies_total",
		"bpfacq_packet_path_up", "bpfacq_packets_total", "bpfacq_udp_events_total", "bpfacq_udp_flows",
		"bpfacq_udp_flows_capacity", "bpfacq_udp_reply_sockets", "bpfacq_uplink_links_lost_total", "bpfacq_uplink_up",
		"bpfacq_connects_total"}
	c := newCollector(s, "v1")
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
