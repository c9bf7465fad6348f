package e2e

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// acquiredBy are the counters of one flow that was acquired in order.
var acquiredBy = map[string]uint64{"acquire": 1, "handoff_offered": 1, "handoff_taken": 1}

func TestEveryKindOfConnectIsAcquired(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24", "2001:db8::/32"))
	const to4, to6 = "192.168.11.200:80", "[2001:db8::c8]:443"
	const got4 = " to 192.168.11.200:80 rule 0 generation 1\n"
	tests := []struct {
		way, to string
		want    string
	}{
		{"plain", to4, "peer " + to4 + got4},
		{"plain", to6, "peer " + to6 + " to " + to6 + " rule 1 generation 1\n"},
		{"mapped", to4, "peer [::ffff:192.168.11.200]:80" + got4},
		{"nonblock", to4, "peer " + to4 + got4},
		{"nonblock", to6, "peer " + to6 + " to " + to6 + " rule 1 generation 1\n"},
		{"fastopen", to4, "peer " + to4 + got4},
		{"fastopen-connect", to4, "peer " + to4 + got4},
		{"source=0.0.0.0:40123", to4, "peer " + to4 + got4}, // a port alone does not bind to a place
		{"uring", to4, "peer " + to4 + got4},
	}
	for _, test := range tests {
		t.Run(test.way+" "+test.to, func(t *testing.T) {
			before := b.counters(t, nil)
			got := testutil.Child(t, b.ns, b.cgroup, "connect", test.way, test.to)
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if diff := cmp.Diff(acquiredBy, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
	if n := b.handoffs(t); n != 0 {
		t.Errorf("%d records left in the handoff", n)
	}
}

// The application's getpeername runs on the MPTCP socket, which is not the one
// that connects: it sees the listener. All else is as for plain TCP.
func TestMultipathSocketIsAcquired(t *testing.T) {
	testutil.KernelSince(t, 6, 1, "MPTCP in Debian's kernels")
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	before := b.counters(t, nil)
	got := testutil.Child(t, b.ns, b.cgroup, "connect", "mptcp", "192.168.11.200:80")
	if !strings.HasSuffix(got, " to 192.168.11.200:80 rule 0 generation 1\n") {
		t.Errorf("got %q, want the original destination", got)
	}
	if diff := cmp.Diff(acquiredBy, b.counters(t, before)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
}

func TestReusedSocketForgetsItsLastDestination(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	direct := testutil.Respond(t, b.ns, "127.0.0.1:0", func(c *net.TCPConn) { c.Write([]byte("direct\n")) }).String()

	got := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", "192.168.11.1:80", "192.168.11.2:81", direct, "192.168.11.3:82")
	want := "peer 192.168.11.1:80 to 192.168.11.1:80 rule 0 generation 1\n" +
		"peer 192.168.11.2:81 to 192.168.11.2:81 rule 0 generation 1\n" +
		"peer " + direct + " to direct\n" +
		"peer 192.168.11.3:82 to 192.168.11.3:82 rule 0 generation 1\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := b.handoffs(t); n != 0 {
		t.Errorf("%d records left in the handoff", n)
	}
}

func TestNestedCgroupIsAcquired(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	nested := filepath.Join(b.cgroup, "a", "b")
	if err := os.MkdirAll(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	got := testutil.Child(t, b.ns, nested, "connect", "plain", "192.168.11.200:80")
	if want := "peer 192.168.11.200:80 to 192.168.11.200:80 rule 0 generation 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// neighbour connects the bed's namespace with another one, where a responder
// listens on 192.0.2.2:80, and returns that namespace.
func (b *bed) neighbour(t *testing.T) *netns.Namespace {
	t.Helper()
	other := testutil.Netns(t)
	testutil.Veth(t,
		netns.End{Namespace: b.ns, Name: "up0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
		netns.End{Namespace: other, Name: "up0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}})
	testutil.Respond(t, other, "192.0.2.2:80", func(c *net.TCPConn) { c.Write([]byte("direct\n")) })
	return other
}

func TestWhatThisPathDoesNotCarryPassesUntouched(t *testing.T) {
	b := newBed(t)
	other := b.neighbour(t)
	b.apply(t, tunnel("192.0.2.0/24"))
	const to, direct = "192.0.2.2:80", "peer 192.0.2.2:80 to direct\n"
	tests := []struct {
		name   string
		ns     *netns.Namespace
		cgroup string
		way    string
		counts map[string]uint64
	}{
		{"bound to a device", b.ns, b.cgroup, "device=up0", map[string]uint64{"pass_bound": 1}},
		{"bound to a source address", b.ns, b.cgroup, "source=192.0.2.1:0", map[string]uint64{"pass_bound": 1}},
		{"another namespace", other, b.cgroup, "plain", map[string]uint64{"pass_foreign_netns": 1}},
		{"another cgroup", b.ns, "", "plain", map[string]uint64{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := b.counters(t, nil)
			if got := testutil.Child(t, test.ns, test.cgroup, "connect", test.way, to); got != direct {
				t.Errorf("got %q, want %q", got, direct)
			}
			if diff := cmp.Diff(test.counts, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
}

func TestBypassRuleAndUnmatchedPassUntouched(t *testing.T) {
	b := newBed(t)
	b.neighbour(t)
	const to, direct = "192.0.2.2:80", "peer 192.0.2.2:80 to direct\n"
	bypass := tunnel("192.0.2.2/32", "192.0.2.0/24")
	bypass.Rules[0].Action = policy.ActionBypass
	tests := []struct {
		name    string
		policy  *policy.Policy
		counter string
	}{
		{"an earlier Bypass", bypass, "pass_bypass"},
		{"no rule", tunnel("198.51.100.0/24"), "pass_no_match"},
		{"no rules", tunnel(), "pass_no_match"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b.apply(t, test.policy)
			before := b.counters(t, nil)
			if got := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", to); got != direct {
				t.Errorf("got %q, want %q", got, direct)
			}
			if diff := cmp.Diff(map[string]uint64{test.counter: 1}, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
}

func TestProtectedDestinationsPassUnderTunnelAll(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("0.0.0.0/0", "::/0"))
	for _, text := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "169.254.0.1",
		"168.63.129.16", "224.0.0.1", "239.255.255.255", "255.255.255.255", "100.100.100.200",
		"::1", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
	} {
		for _, way := range []string{"plain", "mapped"} {
			addr := netip.MustParseAddr(text)
			if way == "mapped" && addr.Is6() {
				continue
			}
			t.Run(way+" "+text, func(t *testing.T) {
				before := b.counters(t, nil)
				testutil.Child(t, b.ns, b.cgroup, "connect", way, netip.AddrPortFrom(addr, 9).String())
				if diff := cmp.Diff(map[string]uint64{"pass_never_acquired": 1}, b.counters(t, before)); diff != "" {
					t.Errorf("counters:\n%s", diff)
				}
			})
		}
	}
	// The neighbours of what is protected are not.
	for _, text := range []string{"128.0.0.1", "168.63.129.17", "100.100.100.201", "169.253.255.255", "223.255.255.255", "fd00:ec2::255"} {
		before := b.counters(t, nil)
		testutil.Child(t, b.ns, b.cgroup, "connect", "plain", netip.AddrPortFrom(netip.MustParseAddr(text), 9).String())
		if diff := cmp.Diff(acquiredBy, b.counters(t, before)); diff != "" {
			t.Errorf("%s: counters:\n%s", text, diff)
		}
	}
}

func TestConnectionToTheListenerWithoutRecordIsReset(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	before := b.counters(t, nil)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.port4).String()
	if got, want := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", to), "ECONNRESET\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := map[string]uint64{"pass_never_acquired": 1, "handoff_missed": 1}
	if diff := cmp.Diff(want, b.counters(t, before)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
}

// A connect that is given up before the handshake ends must not leave a record
// for a successor with the same ports.
func TestAbandonedConnectIsWithdrawn(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	// Nobody listens there: the handshake ends by a reset.
	b.announce(t, maps.Agent{Port4: 1})
	before := b.counters(t, nil)
	if got, want := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", "192.168.11.1:80"), "ECONNREFUSED\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := map[string]uint64{"acquire": 1, "handoff_offered": 1, "handoff_withdrawn": 1}
	if diff := cmp.Diff(want, b.counters(t, before)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
	if n := b.handoffs(t); n != 0 {
		t.Errorf("%d records left in the handoff", n)
	}
}
