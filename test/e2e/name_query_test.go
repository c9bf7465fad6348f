package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestQueriesReachTheAgentWithTheirServer(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	b.startResolver(t)
	device := b.setDevice(t)
	const one4, two4, one6, two6 = "198.51.100.1:53", "198.51.100.2:53", "[2001:db8::1]:53", "[2001:db8::2]:53"
	tests := []struct {
		name, socket string
		steps        []string
		want         []string
		queries      map[string]uint64
	}{
		{"connected IPv4", "udp4,mark", []string{"connect=" + one4, "peer", "write", "read"},
			[]string{"connected", "peer " + one4, "written", known(one4, 0, 77)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"connected IPv6", "udp6,mark", []string{"connect=" + one6, "peer", "write", "read"},
			[]string{"connected", "peer " + one6, "written", known(one6, 0, 77)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"several servers", "udp4", []string{"ask=" + one4, "ask=" + two4, "ask=" + one4},
			[]string{known(one4, 0, 0), known(two4, 0, 0), known(one4, 0, 0)},
			map[string]uint64{"acquire_query": 3, "query_known": 3}},
		{"answers of several servers", "udp4", []string{"send=" + one4, "read", "send=" + two4, "read"},
			[]string{"sent", known(one4, 0, 0), "sent", known(two4, 0, 0)},
			map[string]uint64{"acquire_query": 2, "query_known": 2}},
		{"a platform's resolver", "udp4", []string{"ask=169.254.169.253:53"}, []string{known("169.254.169.253:53", 0, 0)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a source address", "udp4,source=" + near4 + ":0", []string{"ask=" + one4, "connect=" + two4, "write", "read"},
			[]string{known(one4, 0, 0), "connected", "written", known(two4, 0, 0)},
			map[string]uint64{"acquire_query": 2, "query_known": 2}},
		{"bound to an IPv6 source address", "udp6,source=[" + near6 + "]:0", []string{"ask=" + one6, "connect=" + two6, "write", "read"},
			[]string{known(one6, 0, 0), "connected", "written", known(two6, 0, 0)},
			map[string]uint64{"acquire_query": 2, "query_known": 2}},
		{"bound to a port", "udp4,source=0.0.0.0:40053", []string{"ask=" + one4}, []string{known(one4, 0, 0)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a device while it connects", "udp4,leave-by=up0,device=up0,mark",
			[]string{"connect=" + one4, "unbind", "write", "read", "peer"},
			[]string{"connected", "unbound", "written", known(one4, device, 77), "peer " + one4},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a device while it connects by IPv6", "udp6,leave-by=up0,device=up0",
			[]string{"connect=" + one6, "unbind", "write", "read"},
			[]string{"connected", "unbound", "written", known(one6, device, 0)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a device for good", "udp4,device=up0", []string{"ask=" + one4, "connect=" + two4, "write", "read"},
			[]string{askerless(one4, device), "connected", "written", askerless(two4, device)},
			map[string]uint64{"acquire_query": 2, "query_askerless": 2}},
		{"bound to a device for good by IPv6", "udp6,device=up0", []string{"ask=" + one6, "connect=" + two6, "write", "read"},
			[]string{askerless(one6, device), "connected", "written", askerless(two6, device)},
			map[string]uint64{"acquire_query": 2, "query_askerless": 2}},
		{"a link-local server", "udp6,device=up0", []string{"connect=[fe80::53]:53", "peer", "write", "read"},
			[]string{"connected", "peer [fe80::53]:53", "written", askerless("[fe80::53]:53", device)},
			map[string]uint64{"acquire_query": 1, "query_askerless": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := b.counters(t, nil)
			got := b.exchange(t, test.socket, test.steps...)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.queries, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
}

// A host without IPv6 has no AF_INET6 sockets.
func TestAgentOfIPv4AloneReceivesQueries(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	r := b.openResolver(t, b.cgroup, "4")
	if err := b.datapath.Maps.SetDNS(r.port, 0, nil); err != nil {
		t.Fatal(err)
	}
	const server4, server6 = "198.51.100.1:53", "[" + far6 + "]:53"
	want := []string{known(server4, 0, 0)}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server4)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	before := b.counters(t, nil)
	want = []string{server6 + " says direct"}
	if diff := cmp.Diff(want, b.exchange(t, "udp6", "ask="+server6)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"pass_query_unserved": 1}, b.counters(t, before)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
}

// The hook that finds out who sent a query runs for the cgroup of the agent.
func TestAgentOfAnotherCgroupReceivesQueries(t *testing.T) {
	b := &bed{
		ns:     testutil.Netns(t),
		cgroup: testutil.Cgroup(t),
		pins:   filepath.Join(testutil.BPFFS(t), "bpfacq"),
	}
	relayCgroup := testutil.Cgroup(t)
	b.load(t, loader.Options{RelayCgroup: relayCgroup})
	b.announce(t, maps.Agent{})
	r := b.openResolver(t, relayCgroup, "6")
	if err := b.datapath.Maps.SetDNS(r.port, r.port, nil); err != nil {
		t.Fatal(err)
	}
	const server = "198.51.100.1:53"
	want := []string{known(server, 0, 0)}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// A socket that was taken stays so while one agent takes over from another, and
// gets its answers from the next one's sockets when it asks again.
func TestNextAgentTakesTheQueriesOver(t *testing.T) {
	b := newBed(t)
	first := b.startResolver(t)
	const server = "198.51.100.1:53"
	want := []string{known(server, 0, 0)}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server)); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if err := b.datapath.Close(); err != nil {
		t.Fatal(err)
	}
	b.load(t, loader.Options{})
	if !b.datapath.TookOver {
		t.Error("the second agent did not take over")
	}
	second := b.startResolver(t)
	if first.port == second.port {
		t.Errorf("both agents listen at port %d", first.port)
	}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server)); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
}

// musl asks all servers of both families from one AF_INET6 socket.
func TestOneSocketAsksServersOfBothFamilies(t *testing.T) {
	b := newBed(t)
	b.startResolver(t)
	servers := []string{"198.51.100.1:53", "198.51.100.2:53", "[2001:db8::1]:53"}
	var steps, want []string
	for _, server := range slices.Concat(servers, servers) {
		steps = append(steps, "ask="+server)
		want = append(want, strings.Replace(known(server, 0, 0), server, mapped(server), 1))
	}
	if diff := cmp.Diff(want, b.exchange(t, "udp6", steps...)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// Never a wrong server: a query that cannot be told apart goes where it was sent.
func TestTooManyServersOfOneSocketPassUntouched(t *testing.T) {
	for _, socket := range []string{"udp4", "udp4,device=up0"} {
		t.Run(socket, func(t *testing.T) {
			b := newBed(t)
			b.wire(t)
			b.startResolver(t)
			device := b.setDevice(t)
			var steps, want []string
			for i := range maps.DNSPorts {
				server := fmt.Sprintf("198.51.100.%d:53", i+1)
				steps = append(steps, "ask="+server)
				if strings.Contains(socket, "device") {
					want = append(want, askerless(server, device))
				} else {
					want = append(want, known(server, 0, 0))
				}
			}
			steps = append(steps, "ask="+far4+":53", steps[0])
			want = append(want, far4+":53 says direct", want[0])
			before := b.counters(t, nil)
			if diff := cmp.Diff(want, b.exchange(t, socket, steps...)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			counters := b.counters(t, before)
			if counters["pass_query_crowded"] != 1 || counters["acquire_query"] != uint64(maps.DNSPorts)+1 {
				t.Errorf("counters: %v", counters)
			}
		})
	}
}

// Two sockets that are connected to different servers from the same port would
// both be connected to the same socket of the agent.
func TestSocketsThatShareAPortAreToldApart(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	b.startResolver(t)
	const server = "198.51.100.1:53"
	got := b.exchange(t, "udp4,reuse,source=0.0.0.0:40055",
		"connect="+server, "write", "read", "twin="+far4+":53", "write", "read", "connect="+server, "write", "read")
	want := []string{
		"connected", "written", known(server, 0, 0),
		far4 + ":53 says direct",
		"written", known(server, 0, 0),
		"connected", "written", known(server, 0, 0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestDatagramsThatAreNoQueriesPassUntouched(t *testing.T) {
	b := newBed(t)
	other := b.wire(t)
	b.startResolver(t)
	respondDatagrams(t, b.ns, "127.0.0.1:53")
	respondDatagrams(t, b.ns, "[::1]:53")
	const to4, to6 = far4 + ":53", "[" + far6 + "]:53"
	const direct4, direct6 = to4 + " says direct", to6 + " says direct"
	tests := []struct {
		name, socket string
		ns           *netns.Namespace
		cgroup       string
		steps, want  []string
		counts       map[string]uint64
	}{
		{"a loopback stub", "udp4", b.ns, b.cgroup, []string{"ask=127.0.0.1:53", "connect=127.0.0.1:53"},
			[]string{"127.0.0.1:53 says direct", "connected"}, map[string]uint64{}},
		{"an IPv6 loopback stub", "udp6", b.ns, b.cgroup, []string{"ask=[::1]:53"},
			[]string{"[::1]:53 says direct"}, map[string]uint64{}},
		{"another port", "udp4", b.ns, b.cgroup, []string{"ask=" + far4 + ":443", "connect=" + far4 + ":80", "peer"},
			[]string{far4 + ":443 says direct", "connected", "peer " + far4 + ":80"}, map[string]uint64{}},
		{"another namespace", "udp4", other, b.cgroup, []string{"ask=" + to4, "connect=" + to4},
			[]string{direct4, "connected"}, map[string]uint64{"pass_foreign_netns": 2}},
		{"another cgroup", "udp4", b.ns, "", []string{"ask=" + to4}, []string{direct4}, map[string]uint64{}},
		{"a device without address", "udp4,device=up0", b.ns, b.cgroup, []string{"ask=" + to4},
			[]string{direct4}, map[string]uint64{"pass_query_device": 1}},
		{"from a server's port", "udp4,source=" + near4 + ":53", b.ns, b.cgroup, []string{"ask=" + to4, "connect=" + to4, "write", "read"},
			[]string{direct4, "connected", "written", direct4}, map[string]uint64{"pass_query_server": 2}},
		{"a link-local server of no device", "udp6", b.ns, b.cgroup, []string{"connect=[fe80::53]:53"},
			[]string{"EINVAL"}, map[string]uint64{"pass_query_scope": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := b.counters(t, nil)
			out := testutil.Child(t, test.ns, test.cgroup, "datagram", append([]string{test.socket}, test.steps...)...)
			if diff := cmp.Diff(test.want, strings.Split(strings.TrimSuffix(out, "\n"), "\n")); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.counts, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}

	t.Run("no agent", func(t *testing.T) {
		if err := b.datapath.Maps.EndLease(); err != nil {
			t.Fatal(err)
		}
		before := b.counters(t, nil)
		want := []string{direct6, "connected", "peer " + to6}
		if diff := cmp.Diff(want, b.exchange(t, "udp6", "ask="+to6, "connect="+to6, "peer")); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]uint64{"pass_query_unserved": 2}, b.counters(t, before)); diff != "" {
			t.Errorf("counters:\n%s", diff)
		}
	})
}

// A socket that goes on to speak with somebody else forgets whom it asked.
func TestConnectForgetsTheServersOfItsSocket(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	r := b.startResolver(t)
	const server, other = "198.51.100.1:53", "198.51.100.2:53"
	agent := fmt.Sprintf("127.0.0.1:%d", r.port)
	got := b.exchange(t, "udp4", "connect="+server, "peer", "connect="+agent, "peer", "write", "read", "connect="+other, "peer", "write", "read")
	want := []string{
		"connected", "peer " + server, "connected", "peer " + agent, "written", agent + " says nobody knows",
		"connected", "peer " + other, "written", known(other, 0, 0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestQueriesOverTCPReachTheListener(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	const to4, to6, direct = far4 + ":53", "[" + far6 + "]:53", "direct\n"
	ask := func(way, to string) string { return testutil.Child(t, b.ns, b.cgroup, "connect", way, to) }
	if got, want := ask("plain", to4), "peer "+to4+" to direct\n"; got != want {
		t.Errorf("no resolver: got %q, want %q", got, want)
	}
	b.startResolver(t)
	tests := []struct {
		way, to, want string
		counts        map[string]uint64
	}{
		{"plain", to4, "peer " + to4 + " to " + to4 + " query\n", queriedOverTCP()},
		{"plain", to6, "peer " + to6 + " to " + to6 + " query\n", queriedOverTCP()},
		{"mapped", to4, "peer " + mapped(to4) + " to " + to4 + " query\n", queriedOverTCP()},
		{"fastopen", to4, "peer " + to4 + " to " + to4 + " query\n", queriedOverTCP()},
		{"source=" + near4 + ":0", to4, "peer " + to4 + " to direct\n", map[string]uint64{"pass_inactive": 1}},
		{"device=up0", to4, "peer " + to4 + " to direct\n", map[string]uint64{"pass_inactive": 1}},
	}
	for _, test := range tests {
		t.Run(test.way+" "+test.to, func(t *testing.T) {
			before := b.counters(t, nil)
			if got := ask(test.way, test.to); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if diff := cmp.Diff(test.counts, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
}

func queriedOverTCP() map[string]uint64 {
	return map[string]uint64{"acquire_query": 1, "handoff_offered": 1, "handoff_taken": 1}
}
