package container

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// masqueraded is an entry of connection tracking: a flow of a container whose
// source the host translated.
func masqueraded(protocol uint8, before, after, dest netip.AddrPort) *netlink.ConntrackFlow {
	family := netlink.FAMILY_V4
	if dest.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	f := &netlink.ConntrackFlow{
		FamilyType: uint8(family),
		Forward: netlink.IPTuple{
			Protocol: protocol,
			SrcIP:    before.Addr().AsSlice(), SrcPort: before.Port(), DstIP: dest.Addr().AsSlice(), DstPort: dest.Port(),
		},
		Reverse: netlink.IPTuple{
			Protocol: protocol,
			SrcIP:    dest.Addr().AsSlice(), SrcPort: dest.Port(), DstIP: after.Addr().AsSlice(), DstPort: after.Port(),
		},
		TimeOut: 600,
	}
	if protocol == unix.IPPROTO_TCP {
		f.ProtoInfo = &netlink.ProtoInfoTCP{State: nlEstablished}
	}
	return f
}

// nlEstablished is TCP_CONNTRACK_ESTABLISHED.
const nlEstablished = 3

func TestTranslatedSourcesAreFound(t *testing.T) {
	ns := testutil.Netns(t)
	at := netip.MustParseAddrPort
	before, after, dest := at("172.17.0.2:5000"), at("192.0.2.2:61000"), at("198.51.100.1:53")
	before6, after6, dest6 := at("[fd00::2]:5000"), at("[2001:db8::2]:61000"), at("[2001:db8:1::1]:53")

	err := ns.Do(func() error {
		for _, f := range []*netlink.ConntrackFlow{
			masqueraded(unix.IPPROTO_UDP, before, after, dest),
			masqueraded(unix.IPPROTO_TCP, before6, after6, dest6),
		} {
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(f.FamilyType), f); err != nil {
				return err
			}
		}
		for _, test := range []struct {
			behaviour    string
			protocol     flow.Protocol
			source, dest netip.AddrPort
			want         netip.AddrPort
		}{
			{"a masqueraded flow", flow.UDP, after, dest, before},
			{"one of a mapped address", flow.UDP, at("[::ffff:192.0.2.2]:61000"), dest, before},
			{"an IPv6 one", flow.TCP, after6, dest6, before6},
			{"another protocol", flow.TCP, after, dest, netip.AddrPort{}},
			{"another port", flow.UDP, at("192.0.2.2:61001"), dest, netip.AddrPort{}},
			{"another destination", flow.UDP, after, at("198.51.100.1:54"), netip.AddrPort{}},
			{"no source", flow.UDP, netip.AddrPort{}, dest, netip.AddrPort{}},
			{"two families", flow.UDP, after, dest6, netip.AddrPort{}},
		} {
			got, err := translated("/proc", test.protocol, test.source, test.dest)
			if err != nil || got != test.want {
				t.Errorf("%s comes from %s, %v; want %s", test.behaviour, got, err, test.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostThatTracksNothingIsNotAsked(t *testing.T) {
	if tracks(t.TempDir()) {
		t.Error("a kernel without connection tracking would be asked to load it")
	}
}

func TestMalformedAnswersAreNoSource(t *testing.T) {
	for _, answer := range [][]byte{nil, {0}, make([]byte, 4), make([]byte, 40), {2, 0, 0, 0, 255, 255, 1, 128, 0}} {
		if got, ok := originalSource(answer); ok {
			t.Errorf("%v is %s", answer, got)
		}
	}
}

func FuzzOriginalSource(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 1, 128, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, answer []byte) {
		if got, ok := originalSource(answer); ok != got.IsValid() {
			t.Errorf("source is %s, %t", got, ok)
		}
	})
}
