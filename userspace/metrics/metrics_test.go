package metrics

import (
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type source struct {
	counters map[string]uint64
	err      error
}

func (s source) Counters() (map[string]uint64, error) { return s.counters, s.err }

func (s source) Gauges() Gauges {
	return Gauges{
		Generation: 7,
		TCP:        control.Totals{Active: 1, Closed: 2, Reset: 3, Refused: 4, Failed: 5, BytesSent: 6, BytesReceived: 8},
		UDP:        control.Totals{Active: 21, Closed: 22, BytesSent: 26, BytesReceived: 28, DatagramsSent: 29, DatagramsReceived: 30},
		NoRecord:   9,
		Channels:   map[string]bool{"a": true, "b": false},
	}
}

func TestMetricsHaveTheirNamesAndValues(t *testing.T) {
	s := source{counters: map[string]uint64{"acquire": 10, "pass_no_match": 11, "handoff_taken": 12, "bug_flags": 13}}
	const want = `
# HELP bpfacq_build_info A constant 1.
# TYPE bpfacq_build_info gauge
# HELP bpfacq_channel_up Whether a channel can carry flows.
# TYPE bpfacq_channel_up gauge
bpfacq_channel_up{channel="a"} 1
bpfacq_channel_up{channel="b"} 0
# HELP bpfacq_collection_errors_total Scrapes that could not read everything.
# TYPE bpfacq_collection_errors_total counter
bpfacq_collection_errors_total 0
# HELP bpfacq_connects_total TCP connects, and UDP to port 53 or a synthetic address, by what was decided.
# TYPE bpfacq_connects_total counter
bpfacq_connects_total{reason="no_match",verdict="pass"} 11
bpfacq_connects_total{reason="rule",verdict="acquire"} 10
# HELP bpfacq_datapath_bugs_total Branches that should never be taken.
# TYPE bpfacq_datapath_bugs_total counter
bpfacq_datapath_bugs_total{reason="flags"} 13
# HELP bpfacq_flow_bytes_total Bytes of applications.
# TYPE bpfacq_flow_bytes_total counter
bpfacq_flow_bytes_total{direction="received",protocol="tcp"} 8
bpfacq_flow_bytes_total{direction="received",protocol="udp"} 28
bpfacq_flow_bytes_total{direction="sent",protocol="tcp"} 6
bpfacq_flow_bytes_total{direction="sent",protocol="udp"} 26
# HELP bpfacq_flow_datagrams_total Datagrams of applications.
# TYPE bpfacq_flow_datagrams_total counter
bpfacq_flow_datagrams_total{direction="received"} 30
bpfacq_flow_datagrams_total{direction="sent"} 29
# HELP bpfacq_flows Flows that are carried.
# TYPE bpfacq_flows gauge
bpfacq_flows{protocol="tcp"} 1
bpfacq_flows{protocol="udp"} 21
# HELP bpfacq_flows_total Flows that have ended.
# TYPE bpfacq_flows_total counter
bpfacq_flows_total{protocol="tcp",state="closed"} 2
bpfacq_flows_total{protocol="tcp",state="failed"} 5
bpfacq_flows_total{protocol="tcp",state="refused"} 4
bpfacq_flows_total{protocol="tcp",state="reset"} 3
bpfacq_flows_total{protocol="udp",state="closed"} 22
bpfacq_flows_total{protocol="udp",state="failed"} 0
bpfacq_flows_total{protocol="udp",state="refused"} 0
bpfacq_flows_total{protocol="udp",state="reset"} 0
# HELP bpfacq_generation Number of the policy in force, 0 for none.
# TYPE bpfacq_generation gauge
bpfacq_generation 7
# HELP bpfacq_handoffs_total Records on their way to the listener.
# TYPE bpfacq_handoffs_total counter
bpfacq_handoffs_total{result="taken"} 12
# HELP bpfacq_listener_resets_total Connections that came without a record.
# TYPE bpfacq_listener_resets_total counter
bpfacq_listener_resets_total 9
`
	c := newCollector(s, "v1")
	names := []string{"bpfacq_channel_up", "bpfacq_collection_errors_total", "bpfacq_connects_total",
		"bpfacq_datapath_bugs_total", "bpfacq_flow_bytes_total", "bpfacq_flow_datagrams_total", "bpfacq_flows", "bpfacq_flows_total",
		"bpfacq_generation", "bpfacq_handoffs_total", "bpfacq_listener_resets_total"}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(c, "bpfacq_build_info"); n != 1 {
		t.Errorf("%d bpfacq_build_info, want 1", n)
	}
}

func TestMetricsPassLint(t *testing.T) {
	s := source{counters: map[string]uint64{"acquire": 1, "pass_bypass": 1, "handoff_taken": 1, "bug_flags": 1}}
	problems, err := testutil.CollectAndLint(newCollector(s, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestFailingSourceIsCountedAndTheRestIsShown(t *testing.T) {
	c := newCollector(source{err: errors.New("gone")}, "v1")
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	if _, err := registry.Gather(); err != nil {
		t.Fatal(err)
	}
	if n := c.errors.Load(); n != 1 {
		t.Errorf("%d collection errors, want 1", n)
	}
	if n := testutil.CollectAndCount(c, "bpfacq_generation", "bpfacq_flows"); n != 3 {
		t.Errorf("%d metrics beside the failing ones, want 3", n)
	}
}

func TestHandlerServesThem(t *testing.T) {
	answer := httptest.NewRecorder()
	Handler(source{}, "v1").ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.Code != 200 {
		t.Fatalf("status %d, %v", answer.Code, err)
	}
	for _, name := range []string{"bpfacq_generation 7", `bpfacq_build_info{`, "go_goroutines"} {
		if !strings.Contains(string(body), name) {
			t.Errorf("answer lacks %q", name)
		}
	}
}
