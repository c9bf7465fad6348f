package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// The names of fakeAgent, which has one that the sample profile acquires.
const (
	fakeName     = "private.edgediagnostic.globalsecureaccess.microsoft.com"
	fakeAddress  = "6.6.0.1"
	fakeOriginal = "192.0.2.80"
)

func (a *fakeAgent) Hostnames() []control.Hostname {
	loaded, err := a.Loaded()
	if err != nil {
		return nil
	}
	return []control.Hostname{
		{
			Name: fakeName, Synthetic: []netip.Addr{netip.MustParseAddr(fakeAddress), netip.MustParseAddr("fd00:1::1")},
			Original: netip.MustParseAddr(fakeOriginal), Acquired: true, Rule: loaded.Policy.Rules[1].ID, Channel: loaded.Policy.Channels[0].ID,
			PID: 815, UID: 1000, Command: "curl", Queries: 12, Flows: 3, First: a.at(2), Last: a.at(4),
		},
		{Name: "www.example.com", Original: netip.MustParseAddr("192.0.2.81"), PID: 816, Queries: 1, First: a.at(3), Last: a.at(3)},
		{Name: "zzz.example.com", Synthetic: []netip.Addr{netip.MustParseAddr("6.6.0.2")}, Acquired: true},
	}
}

func (a *fakeAgent) DNS() control.DNS {
	if _, err := a.Loaded(); err != nil {
		return control.DNS{Cause: "no policy is loaded"}
	}
	quick := control.Latency{Count: 40, Sum: 0.004, Buckets: []control.LatencyBucket{{Bound: 0.000125, Count: 39}, {Bound: 0.01, Count: 40}}}
	slow := control.Latency{Count: 100, Sum: 1.25, Buckets: []control.LatencyBucket{{Bound: 0.000125, Count: 0}, {Bound: 0.01, Count: 80}}}
	return control.DNS{
		On: true, PortIPv4: 40000, PortIPv6: 40000, Patterns: 4,
		Pool: control.Pool{
			Prefixes: []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16"), netip.MustParsePrefix("fd00:1::/64")},
			Capacity: 65533, Used: 2, Held: 1, Full: 5, LogError: "no space left on device", LogSize: 12345, Syncs: 4, SyncTime: 0.01, SyncMax: 0.0075,
		},
		Private: []control.PrivateDNS{{
			PrivateDNSRule: control.PrivateDNSRule{Suffix: "corp.example.com", Server: netip.MustParseAddr("6.6.255.254"), SingleLabel: true},
			Channel:        "channel-1", Active: true,
		}},
		Pending: 2, Connections: 1, Lookups: 3,
		Queries: map[string]uint64{"synthetic": 40, "forwarded": 100, "malformed": 0},
		Events:  map[string]uint64{"stray": 6, "refreshed": 0},
		Latency: map[string]control.Latency{"synthetic": quick, "direct": slow, "private": {Buckets: []control.LatencyBucket{}}},
		Servers: []control.DNSServer{{
			Server: netip.MustParseAddrPort("192.0.2.53:53"), Way: "direct", Queries: 101, Answers: 100, Timeouts: 1, Cause: "no answer in 10s", Latency: slow,
		}},
	}
}

// DNSQuery knows three names: one that is acquired, one that does not exist, and
// one whose server is silent.
func (a *fakeAgent) DNSQuery(_ context.Context, q control.Question) (control.Trace, error) {
	if q.Type == "NONE" {
		return control.Trace{}, fmt.Errorf("find type %q: %w", q.Type, control.ErrQuestion)
	}
	server := "192.0.2.53:53"
	if q.Server.IsValid() {
		server = q.Server.String()
	}
	asked := control.Hop{Kind: "ask", Text: "asked " + server, Server: server, Network: "udp", Way: "direct", Took: 0.0025}
	t := control.Trace{Name: q.Name, Type: q.Type, Server: server, Took: 0.0031, Code: "NXDOMAIN"}
	switch q.Name {
	case fakeName:
		asked.Code, asked.Records = "NOERROR", []string{q.Name + ".\t300\tIN\tA\t" + fakeOriginal}
		t.Code, t.Records = "NOERROR", []string{q.Name + ".\t30\tIN\tA\t" + fakeAddress}
		t.Hops = []control.Hop{
			{Kind: "judge", Text: "rule rule-1 acquires the name"},
			asked,
			{Kind: "assign", Text: "6.6.0.1 stands for the name", Took: 0.0005},
			{Kind: "rewrite", Text: "answered here", Records: t.Records},
		}
	case "silent.example.com":
		asked.Cause = "no answer in 10s"
		t.Code, t.Cause, t.Hops = "", "the server is silent", []control.Hop{asked}
	default:
		asked.Code = "NXDOMAIN"
		t.Hops = []control.Hop{{Kind: "judge", Text: "no rule is about the name"}, asked, {Kind: "pass", Text: "the answer is passed on"}}
	}
	return t, nil
}

// explainName finds the name of a synthetic address, and the addresses of a name,
// as an agent does.
func (a *fakeAgent) explainName(p *policy.Policy, f policy.Flow) policy.Explanation {
	named := *p
	named.Pools = []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16")}
	if f.Addr.IsValid() && f.Addr == netip.MustParseAddr(fakeAddress) {
		f.Name, f.Addr = fakeName, netip.Addr{}
	}
	if f.Name == fakeName {
		f.Addr = netip.MustParseAddr(fakeOriginal)
	}
	why := policy.Explain(&named, f)
	if f.Name == fakeName {
		why.Hostname.Synthetic = []netip.Addr{netip.MustParseAddr(fakeAddress)}
	}
	return why
}

func TestExplainSaysThatTheHostsFileKnowsAName(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("# no\n192.0.2.9 x "+strings.ToUpper(fakeName)+" # y\n192.0.2.8 "+fakeName+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const profile, line = "../../userspace/profile/testdata/gsa-forwarding-profile.json",
		"/etc/hosts has the name at 192.0.2.9: applications connect there, and ask nobody"
	for _, test := range []struct {
		destination, hosts string
		want               bool
	}{
		{fakeName + ":443", hosts, true}, {fakeName + ".:443", hosts, true}, {"y:443", hosts, false},
		{"192.0.2.9:443", hosts, false}, {fakeName + ":443", hosts + ".none", false},
	} {
		for _, format := range []string{"table", "json"} {
			got := execute(t.Context(), func(e *env) { e.hosts = test.hosts }, "explain", "-o", format, "--profile", profile, "tcp", test.destination)
			text := line
			if format == "json" {
				text = `"hosts_file": "192.0.2.9"`
			}
			if got.status != 0 || strings.Contains(got.stdout, text) != test.want {
				t.Errorf("explain -o %s of %s with %s = %+v, told %v", format, test.destination, test.hosts, got, test.want)
			}
		}
	}
}
