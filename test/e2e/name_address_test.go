package e2e

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// The names of nameTables, by their synthetic addresses. Only port 443 of each is
// covered by a Tunnel rule.
const (
	plainName    = "6.6.0.1" // hardening Bypass
	orphanName   = "6.6.0.2" // the same without original address
	hardName     = "6.6.0.3" // hardening Block
	coveredName  = "6.6.0.4" // its original address is covered by an address rule
	bypassedName = "6.6.0.5" // other ports by a Bypass rule
	loopingName  = "6.6.0.6" // its original address lies in the pool
	plainName6   = "fd66::1"
	unknownName  = "6.6.9.9"
	unknownName6 = "fd66::99"
)

// The cells of nameTables, which are indexes of its entries plus one.
const (
	cellNone = iota
	cellSynthetic
	cellTunnel
	cellTunnelHard
	cellBypass
	cellAddress
)

// The rows of nameTables, two port classes each: 443 and the rest.
const (
	rowPool = iota * 2
	rowAddress
	rowPlain
	rowHard
	rowBypassed
	rowsEnd
)

func nameTables() *maps.Tables {
	prefixes := func(rows map[string]uint32) maps.Rows {
		return maps.Rows{Len: len(rows), All: func(yield func(netip.Prefix, uint32) bool) {
			for text, row := range rows {
				if !yield(netip.MustParsePrefix(text), row) {
					return
				}
			}
		}}
	}
	entry := func(id string, rule uint32, action maps.Action, hardening maps.Hardening) maps.Entry {
		return maps.Entry{ID: id, Rule: rule, Action: action, Hardening: hardening}
	}
	name := func(addr, original string, row uint32) maps.Name {
		n := maps.Name{Addr: netip.MustParseAddr(addr), Row: row}
		if original != "" {
			n.Original = netip.MustParseAddr(original)
		}
		return n
	}
	t := &maps.Tables{
		IPv4:     prefixes(map[string]uint32{"6.6.0.0/16": rowPool, "198.51.100.0/24": rowAddress}),
		IPv6:     prefixes(map[string]uint32{"fd66::/64": rowPool}),
		TCP:      new([65536]uint16),
		UDP:      new([65536]uint16),
		Width:    2,
		Verdicts: make([]uint32, rowsEnd),
		Entries: []maps.Entry{
			entry("pool", 0, maps.ActionSynthetic, maps.HardeningNone),
			entry("tunnel", 7, maps.ActionTunnel, maps.HardeningBypass),
			entry("hard", 8, maps.ActionTunnel, maps.HardeningBlock),
			entry("bypass", 9, maps.ActionBypass, maps.HardeningBypass),
			entry("address", 10, maps.ActionTunnel, maps.HardeningBypass),
		},
		Channels: []maps.Channel{{ID: "c", Name: "Private"}},
		Names: []maps.Name{
			name(plainName, far4, rowPlain),
			name(orphanName, "", rowPlain),
			name(hardName, far4, rowHard),
			name(coveredName, "198.51.100.9", rowPlain),
			name(bypassedName, far4, rowBypassed),
			name(loopingName, "6.6.0.1", rowPlain),
			name(plainName6, far6, rowPlain),
		},
		SpareRows: 4, SpareNames: 4,
	}
	copy(t.Verdicts, []uint32{
		rowPool: cellSynthetic, rowPool + 1: cellSynthetic,
		rowAddress: cellAddress, rowAddress + 1: cellAddress,
		rowPlain: cellTunnel, rowPlain + 1: cellNone,
		rowHard: cellTunnelHard, rowHard + 1: cellNone,
		rowBypassed: cellTunnel, rowBypassed + 1: cellBypass,
	})
	for port := range t.TCP {
		if port != 443 {
			t.TCP[port], t.UDP[port] = 1, 1
		}
	}
	return t
}

// sniffer sees every frame that comes out of the far end of the wire.
type sniffer struct{ fd int }

func sniff(t testing.TB, ns *netns.Namespace) *sniffer {
	t.Helper()
	s := &sniffer{}
	err := ns.Do(func() (err error) {
		everything := int(htons(unix.ETH_P_ALL))
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, everything)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// saw counts the frames since the last call that hold an address of a pool, and all.
func (s *sniffer) saw(t testing.TB) (pooled, all int) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err == unix.EAGAIN {
			return pooled, all
		}
		if err != nil {
			t.Fatal(err)
		}
		all++
		if bytes.Contains(buf[:n], []byte{6, 6, 0}) || bytes.Contains(buf[:n], []byte{6, 6, 9, 9}) ||
			bytes.Contains(buf[:n], []byte{0xfd, 0x66, 0, 0, 0, 0, 0, 0}) {
			pooled++
		}
	}
}

// newNameBed is a bed with names, where all that is not told otherwise would go
// out of the wire.
func newNameBed(t *testing.T) (*bed, *sniffer) {
	t.Helper()
	b := newBed(t)
	other := b.wire(t)
	for _, route := range []netns.Route{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(far4)},
		{Prefix: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr(far6)},
	} {
		if err := b.ns.AddRoute("up0", route); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.AddAddr("up0", netip.MustParsePrefix("198.51.100.9/32")); err != nil {
		t.Fatal(err)
	}
	testutil.Respond(t, other, "198.51.100.9:80", func(c *net.TCPConn) { c.Write([]byte("direct\n")) })
	b.startResolver(t)
	b.store(t, nameTables())
	return b, sniff(t, other)
}

// refusal is what a refused call says on this kernel.
func (b *bed) refusal() string {
	if b.datapath.Features.SetRetval {
		return "ECONNREFUSED"
	}
	return "EPERM"
}

func TestSyntheticAddressesAreDecidedByTheirNames(t *testing.T) {
	b, wire := newNameBed(t)
	refused := b.refusal() + "\n"
	one := func(counter string) map[string]uint64 { return map[string]uint64{counter: 1} }
	tests := []struct {
		name, way, to, want string
		counts              map[string]uint64
		dead                string // what it comes to without an agent
		deadCounts          map[string]uint64
	}{
		{"covered", "plain", plainName + ":443", "peer 6.6.0.1:443 to 6.6.0.1:443 rule 7 generation 1\n", acquiredBy,
			"peer 6.6.0.1:443 to direct\n", one("pass_hardened")},
		{"covered IPv6", "plain", "[" + plainName6 + "]:443", "peer [fd66::1]:443 to [fd66::1]:443 rule 7 generation 1\n", acquiredBy,
			"peer [fd66::1]:443 to direct\n", one("pass_hardened")},
		{"covered, mapped", "mapped", plainName + ":443", "peer [::ffff:6.6.0.1]:443 to 6.6.0.1:443 rule 7 generation 1\n", acquiredBy,
			"peer [::ffff:6.6.0.1]:443 to direct\n", one("pass_hardened")},
		{"covered without original", "plain", orphanName + ":443", "peer 6.6.0.2:443 to 6.6.0.2:443 rule 7 generation 1\n", acquiredBy,
			refused, one("block_no_original")},
		{"covered, hardening Block", "plain", hardName + ":443", "peer 6.6.0.3:443 to 6.6.0.3:443 rule 8 generation 1\n", acquiredBy,
			refused, one("block")},
		{"uncovered", "plain", plainName + ":80", "peer 6.6.0.1:80 to direct\n", one("pass_original"),
			"peer 6.6.0.1:80 to direct\n", one("pass_original")},
		{"uncovered IPv6", "plain", "[" + plainName6 + "]:80", "peer [fd66::1]:80 to direct\n", one("pass_original"),
			"peer [fd66::1]:80 to direct\n", one("pass_original")},
		{"uncovered without original", "plain", orphanName + ":80", refused, one("block_no_original"),
			refused, one("block_no_original")},
		{"uncovered, the original in the pool", "plain", loopingName + ":80", refused, one("block_no_original"),
			refused, one("block_no_original")},
		{"uncovered, the original by an address rule", "plain", coveredName + ":80",
			"peer 6.6.0.4:80 to 198.51.100.9:80 rule 10 generation 1\n", acquiredBy,
			"peer 6.6.0.4:80 to direct\n", one("pass_hardened")},
		{"Bypass", "plain", bypassedName + ":80", "peer 6.6.0.5:80 to direct\n", one("pass_original"),
			"peer 6.6.0.5:80 to direct\n", one("pass_original")},
		{"unknown", "plain", unknownName + ":443", refused, one("block_unknown_name"), refused, one("block_unknown_name")},
		{"unknown IPv6", "plain", "[" + unknownName6 + "]:80", refused, one("block_unknown_name"), refused, one("block_unknown_name")},
		{"covered, bound to a device", "device=up0", plainName + ":443", "peer 6.6.0.1:443 to direct\n", one("pass_hardened"),
			"peer 6.6.0.1:443 to direct\n", one("pass_hardened")},
		{"covered, bound to a source address", "source=" + near4 + ":0", plainName + ":443", "peer 6.6.0.1:443 to direct\n", one("pass_hardened"),
			"peer 6.6.0.1:443 to direct\n", one("pass_hardened")},
		{"unknown, bound to a device", "device=up0", unknownName + ":443", refused, one("block_unknown_name"),
			refused, one("block_unknown_name")},
	}
	for _, alive := range []bool{true, false} {
		state := "agent"
		if !alive {
			state = "no agent"
			if err := b.datapath.Maps.EndLease(); err != nil {
				t.Fatal(err)
			}
		}
		for _, test := range tests {
			want, counts := test.want, test.counts
			if !alive {
				want, counts = test.dead, test.deadCounts
			}
			t.Run(state+"/"+test.name, func(t *testing.T) {
				before := b.counters(t, nil)
				if got := testutil.Child(t, b.ns, b.cgroup, "connect", test.way, test.to); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				if diff := cmp.Diff(counts, b.counters(t, before)); diff != "" {
					t.Errorf("counters:\n%s", diff)
				}
				if pooled, _ := wire.saw(t); pooled != 0 {
					t.Errorf("%d frames with a synthetic address on the wire", pooled)
				}
			})
		}
	}
}

func TestDatagramsToSyntheticAddressesGoToTheOriginal(t *testing.T) {
	b, wire := newNameBed(t)
	refused := b.refusal()
	tests := []struct {
		name, socket string
		steps, want  []string
		counts       map[string]uint64
	}{
		{"sent", "udp4", []string{"ask=" + plainName + ":80", "ask=" + bypassedName + ":443", "ask=" + plainName + ":80"},
			[]string{"6.6.0.1:80 says direct", "6.6.0.5:443 says direct", "6.6.0.1:80 says direct"},
			map[string]uint64{"pass_original": 2, "pass_hardened": 1}},
		{"connected", "udp4", []string{"connect=" + plainName + ":80", "peer", "write", "read"},
			[]string{"connected", "peer 6.6.0.1:80", "written", "6.6.0.1:80 says direct"},
			map[string]uint64{"pass_original": 1}},
		{"IPv6", "udp6", []string{"ask=[" + plainName6 + "]:80", "connect=[" + plainName6 + "]:443", "peer", "write", "read"},
			[]string{"[fd66::1]:80 says direct", "connected", "peer [fd66::1]:443", "written", "[fd66::1]:443 says direct"},
			map[string]uint64{"pass_original": 1, "pass_hardened": 1}},
		{"of both families", "udp6", []string{"ask=" + mapped(plainName+":80"), "ask=[" + plainName6 + "]:80"},
			[]string{"[::ffff:6.6.0.1]:80 says direct", "[fd66::1]:80 says direct"},
			map[string]uint64{"pass_original": 2}},
		{"bound to a device", "udp4,device=up0", []string{"ask=" + plainName + ":80"},
			[]string{"6.6.0.1:80 says direct"}, map[string]uint64{"pass_original": 1}},
		{"hardening Block", "udp4", []string{"send=" + hardName + ":443", "connect=" + hardName + ":443", "ask=" + hardName + ":80"},
			[]string{refused, refused, "6.6.0.3:80 says direct"},
			map[string]uint64{"block": 2, "pass_original": 1}},
		{"without original", "udp4", []string{"send=" + orphanName + ":80", "connect=" + orphanName + ":443"},
			[]string{refused, refused}, map[string]uint64{"block_no_original": 2}},
		{"unknown", "udp4", []string{"send=" + unknownName + ":80", "connect=" + unknownName + ":443"},
			[]string{refused, refused}, map[string]uint64{"block_unknown_name": 2}},
		{"unknown IPv6", "udp6", []string{"send=[" + unknownName6 + "]:80", "connect=[" + unknownName6 + "]:80"},
			[]string{refused, refused}, map[string]uint64{"block_unknown_name": 2}},
		{"a query", "udp4", []string{"ask=" + unknownName + ":53"},
			[]string{known(unknownName+":53", 0, 0)}, map[string]uint64{"acquire_query": 1, "query_known": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := b.counters(t, nil)
			if diff := cmp.Diff(test.want, b.exchange(t, test.socket, test.steps...)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.counts, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
			if pooled, _ := wire.saw(t); pooled != 0 {
				t.Errorf("%d frames with a synthetic address on the wire", pooled)
			}
		})
	}
	t.Run("a query without agent", func(t *testing.T) {
		if err := b.datapath.Maps.EndLease(); err != nil {
			t.Fatal(err)
		}
		before := b.counters(t, nil)
		want := []string{refused, "6.6.0.1:53 says direct"}
		if diff := cmp.Diff(want, b.exchange(t, "udp4", "send="+unknownName+":53", "ask="+plainName+":53")); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]uint64{"block_unknown_name": 1, "pass_original": 1}, b.counters(t, before)); diff != "" {
			t.Errorf("counters:\n%s", diff)
		}
	})
}

// The sniffer would see what must not be there.
func TestWithoutDatapathSyntheticAddressesReachTheWire(t *testing.T) {
	b, wire := newNameBed(t)
	if pooled, all := wire.saw(t); pooled != 0 {
		t.Errorf("%d of %d frames before the first datagram", pooled, all)
	}
	if got, want := testutil.Child(t, b.ns, "", "datagram", "udp4", "send="+unknownName+":80"), "sent\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if pooled, _ := wire.saw(t); pooled == 0 {
		t.Error("no frame is seen")
	}
}

// A name that comes later is put beside those that are there.
func TestNamesAreAddedAndForgottenInForce(t *testing.T) {
	b, _ := newNameBed(t)
	const addr, to = "6.6.0.77", "6.6.0.77:80"
	ask := func() string { return testutil.Child(t, b.ns, b.cgroup, "connect", "plain", to) }
	if got, want := ask(), b.refusal()+"\n"; got != want {
		t.Errorf("unknown: got %q, want %q", got, want)
	}
	row, err := b.datapath.Maps.AppendRow(1, []uint32{cellNone, cellTunnel})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.datapath.Maps.PutName(1, maps.Name{Addr: netip.MustParseAddr(addr), Row: row}); err != nil {
		t.Fatal(err)
	}
	if got, want := ask(), "peer "+to+" to "+to+" rule 7 generation 1\n"; got != want {
		t.Errorf("known: got %q, want %q", got, want)
	}
	if err := b.datapath.Maps.DeleteName(1, netip.MustParseAddr(addr)); err != nil {
		t.Fatal(err)
	}
	if got, want := ask(), b.refusal()+"\n"; got != want {
		t.Errorf("forgotten: got %q, want %q", got, want)
	}
}
