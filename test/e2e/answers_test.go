package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestAgentAnswersWhatItDoes(t *testing.T) {
	s := newSite(t)
	s.config.Metrics.Listen = "127.0.0.1:9100"
	s.startEdge(t, 443, "192.168.11.0/24:80")
	testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
	s.start(t)
	if got, err := s.curl(t, "http://"+webAddr+"/"); got != fromWeb(webAddr+":80") || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	s.connect(t, webAddr+":81")
	s.connect(t, webAddr+":22")
	fetched := s.endedFlow(t, webAddr+":80")
	s.endedFlow(t, webAddr+":22")

	t.Run("flows", func(t *testing.T) { checkFetch(t, fetched) })
	t.Run("status", s.checkStatus)
	t.Run("explain", s.checkExplanations)
	t.Run("metrics", s.checkMetrics)
	s.stop(t)
}

func checkFetch(t *testing.T, f flow.Flow) {
	if f.PID == 0 || int(f.PID) == os.Getpid() {
		t.Errorf("flow is of process %d", f.PID)
	}
	if f.BytesSent < 50 || f.BytesReceived < 100 {
		t.Errorf("flow has %d bytes sent and %d received, want a request and its answer", f.BytesSent, f.BytesReceived)
	}
	if f.Ended.Before(f.Started) {
		t.Errorf("flow started at %v and ended at %v", f.Started, f.Ended)
	}
	want := flow.Flow{
		ID: 1, OrigDst: f.OrigDst, Rule: sampleRule, Channel: sampleChannel, Edge: sampleEdge + ":443",
		Generation: 1, PID: f.PID, State: flow.StateClosed, Status: http.StatusOK,
		BytesSent: f.BytesSent, BytesReceived: f.BytesReceived, Started: f.Started, Ended: f.Ended,
	}
	if diff := cmp.Diff(want, f, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func (s *site) checkStatus(t *testing.T) {
	s.awaitChannel(t, "up")
	status := s.status(t)
	if len(status.Hooks) != 9 {
		t.Errorf("hooks %+v, want 9", status.Hooks)
	}
	want := control.Status{
		Schema: control.Schema, Version: "v1.2.3", PID: s.agent.Process.Pid,
		Started: status.Started, Uptime: status.Uptime,
		Cgroup: s.cgroup, Pins: s.pins, Hooks: status.Hooks, Generation: 1,
		Profile: &control.Profile{
			ID: sampleTenant, Tenant: sampleTenant, Revision: status.Profile.Revision, Rules: 3,
			Source: s.config.Profile, Applied: status.Profile.Applied,
		},
		Channels: []control.Channel{{
			ID: sampleChannel, Name: "Private", State: "up", Since: status.Channels[0].Since,
			Edge: sampleEdge + ":443", Protocol: "h2", Datagrams: "unknown", Diagnostic: "200 OK",
		}},
		Lease: control.Lease{Period: 60, Fresh: true},
		Flows: control.Totals{
			Closed: 1, Refused: 1, BytesSent: status.Flows.BytesSent, BytesReceived: status.Flows.BytesReceived,
		},
		DNS: control.DNS{
			On: true, PortIPv4: status.DNS.PortIPv4, PortIPv6: status.DNS.PortIPv6, Patterns: 4,
			Pool:    control.Pool{Prefixes: []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16")}, Capacity: 65534, LogSize: status.DNS.Pool.LogSize},
			Private: []control.PrivateDNS{}, Servers: []control.DNSServer{},
			Queries: status.DNS.Queries, Events: status.DNS.Events, Latency: status.DNS.Latency,
		},
		Packets:  control.Packets{Uplinks: []control.Uplink{}, UDP: control.UDP{Events: map[string]uint64{}}},
		Counters: status.Counters, Warnings: []string{},
	}
	if diff := cmp.Diff(want, status, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	counters := map[string]uint64{"acquire": 2, "handoff_offered": 2, "handoff_taken": 2, "pass_no_match": 1}
	if diff := cmp.Diff(counters, flowCounters(status.Counters)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
}

func (s *site) checkExplanations(t *testing.T) {
	for _, test := range []struct {
		protocol, to, verdict string
		reason                policy.Reason
		rule                  string
	}{
		{"tcp", webAddr + ":80", "acquire", policy.ReasonRule, sampleRule},
		{"tcp", webAddr + ":81", "pass", policy.ReasonNoMatch, ""},
		{"udp", webAddr + ":80", "pass", policy.ReasonNoMatch, ""},
		{"tcp", edgeAddr + ":443", "pass", policy.ReasonNeverAcquired, ""},
		{"tcp", "169.254.169.254:80", "pass", policy.ReasonNeverAcquired, ""},
	} {
		got, err := s.control.Explain(t.Context(), test.protocol, test.to)
		if err != nil {
			t.Fatal(err)
		}
		rule := ""
		if got.Rule != nil {
			rule = got.Rule.ID
		}
		if got.Verdict != test.verdict || got.Reason != test.reason || rule != test.rule || got.Generation != 1 {
			t.Errorf("%s %s: %s for %q by rule %q of generation %d, want %s for %q by rule %q of generation 1",
				test.protocol, test.to, got.Verdict, got.Reason, rule, got.Generation, test.verdict, test.reason, test.rule)
		}
	}
}

func (s *site) checkMetrics(t *testing.T) {
	places := map[string]func(context.Context, string, string) (net.Conn, error){
		"on the control socket": func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.config.Control.Socket)
		},
		"on the address": s.host.DialContext,
	}
	for place, dial := range places {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
		response, err := client.Get("http://" + s.config.Metrics.Listen + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			`bpfacq_connects_total{reason="rule",verdict="acquire"} 2`,
			`bpfacq_connects_total{reason="no_match",verdict="pass"} 1`,
			`bpfacq_handoffs_total{result="taken"} 2`,
			`bpfacq_flows_total{protocol="tcp",state="closed"} 1`,
			`bpfacq_flows_total{protocol="tcp",state="refused"} 1`,
			`bpfacq_flows{protocol="tcp"} 0`,
			`bpfacq_generation 1`,
			`bpfacq_channel_up{channel="` + sampleChannel + `"} 1`,
			`bpfacq_collection_errors_total 0`,
		} {
			if !regexp.MustCompile("(?m)^" + regexp.QuoteMeta(line) + "$").Match(text) {
				t.Errorf("metrics %s lack %s", place, line)
			}
		}
	}
}
