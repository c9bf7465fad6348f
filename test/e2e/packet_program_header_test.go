package e2e

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// padding is an extension header of IPv6, of eight bytes of options without
// meaning (RFC 8200, section 4.2), before a header of the protocol next.
func padding(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

// Options may come behind the fragment header, so that no fragment but the first
// tells that this is UDP.
func TestFragmentsWithOptionsGoOneWay(t *testing.T) {
	const more = 1
	p := newProgramBed(t, loader.Options{})
	datagram := append(padding(unix.IPPROTO_UDP), 0x13, 0x88, 0x13, 0x88, 0, 16, 0, 0)
	for _, side := range []struct {
		ns   *netns.Namespace
		addr string
	}{{p.ns, ownAddr6}, {p.box, boxAddr6}} {
		for text, way := range map[string]string{tunnelled6: "packet_acquire", bypassed6: "packet_pass"} {
			to := netip.MustParseAddrPort(text).Addr()
			first := append([]byte{unix.IPPROTO_DSTOPTS, 0, 0, more, 0, 0, 0, 1}, datagram...)
			second := []byte{unix.IPPROTO_DSTOPTS, 0, 0, byte(len(datagram)), 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8}
			before := p.counters(t, nil)
			for _, body := range [][]byte{first, second} {
				raw(t, side.ns, unix.AF_INET6, to, packet6(side.addr, to.String(), unix.IPPROTO_FRAGMENT, body))
			}
			limit := time.Now().Add(ioTimeout)
			for p.counters(t, before)[way] < 2 && time.Now().Before(limit) {
			}
			if got := p.counters(t, before)[way]; got != 2 {
				t.Errorf("to %s %d fragments go the way %s: %v", text, got, way, p.counters(t, before))
			}
		}
	}
}

// raw sends a packet with its IP header as it is.
func raw(t *testing.T, ns *netns.Namespace, family int, to netip.Addr, packet []byte) {
	t.Helper()
	err := ns.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var sockaddr unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
		if family == unix.AF_INET {
			sockaddr = &unix.SockaddrInet4{Addr: to.As4()}
		}
		return unix.Sendto(fd, packet, 0, sockaddr)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// packet6 is a packet of IPv6 with a body of the protocol next.
func packet6(from, to string, next byte, body []byte) []byte {
	head := []byte{0x60, 0, 0, 0, 0, byte(len(body)), next, 64}
	return slices.Concat(head, netip.MustParseAddr(from).AsSlice(), netip.MustParseAddr(to).AsSlice(), body)
}

// padded6 is a datagram of IPv6 to port 5000 behind so many extension headers.
func padded6(from, to string, extensions int) []byte {
	next, body := byte(unix.IPPROTO_UDP), []byte{0x13, 0x88, 0x13, 0x88, 0, 8, 0, 0}
	for range extensions {
		next, body = unix.IPPROTO_DSTOPTS, append(padding(next), body...)
	}
	return packet6(from, to, next, body)
}

// packet4 is a packet of IPv4 whose fragment field is given, with eight bytes that
// may be the beginning of a TCP segment to port 5000.
func packet4(from, to string, fragment uint16) []byte {
	packet := make([]byte, 20, 28)
	packet[0], packet[5], packet[8], packet[9] = 0x45, 1, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(packet[2:], 28)
	binary.BigEndian.PutUint16(packet[6:], fragment)
	copy(packet[12:], netip.MustParseAddr(from).AsSlice())
	copy(packet[16:], netip.MustParseAddr(to).AsSlice())
	return append(packet, 0x13, 0x88, 0x13, 0x88, 0, 0, 0, 0)
}

func TestPacketsWithoutPortsAreNotSentPastARule(t *testing.T) {
	const moreFragments = 0x2000
	p := newProgramBed(t, loader.Options{})
	tests := []struct{ name, to, way string }{
		{"to a rule's destination", tunnelled6, "packet_unplaced_fragment"},
		{"to no rule's destination", "[fd00:15::200]:5000", "packet_pass"},
		{"to a rule's destination", blocked4, "packet_unplaced_fragment"},
		{"to no rule's destination", unruled4, "packet_pass"},
	}
	sides := []struct {
		ns           *netns.Namespace
		addr4, addr6 string
	}{{p.ns, ownAddr4, ownAddr6}, {p.box, boxAddr4, boxAddr6}}
	for _, side := range sides {
		for _, test := range tests {
			to := netip.MustParseAddrPort(test.to).Addr()
			before := p.counters(t, nil)
			if to.Is6() {
				raw(t, side.ns, unix.AF_INET6, to, padded6(side.addr6, to.String(), 5))
			} else {
				raw(t, side.ns, unix.AF_INET, to, packet4(side.addr4, to.String(), moreFragments))
			}
			p.awaitWay(t, before, test.way)
			p.wantWays(t, before, test.way)
		}
		before := p.counters(t, nil)
		raw(t, side.ns, unix.AF_INET6, netip.MustParseAddrPort(tunnelled6).Addr(), padded6(side.addr6, "fd00:11::200", 4))
		p.awaitWay(t, before, "packet_acquire")
	}
}

// What a tunnel of the host sends has the socket of what is in it: that one is
// exempt or not, but it is not the one that is connected there.
func TestTunnelsOfTheHostAreJudgedByThemselves(t *testing.T) {
	testutil.LinkType(t, "vxlan")
	p := newProgramBed(t, loader.Options{})
	now, err := maps.Monotonic()
	if err == nil {
		err = p.datapath.Maps.SetLearnFrom(now + time.Hour)
	}
	if err != nil {
		t.Fatal(err)
	}
	handle, err := p.ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	outer := netip.MustParseAddrPort(tunnelled4)
	device := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "vx0"}, VxlanId: 1, Group: outer.Addr().AsSlice(),
		Port: int(outer.Port()), PortLow: 4999, PortHigh: 5000,
	}
	if err := handle.LinkAdd(device); err != nil {
		t.Fatal(err)
	}
	p.tune(t, "ipv6/conf/vx0/disable_ipv6", "1") // else it solicits routers
	if err := handle.LinkSetUp(device); err != nil {
		t.Fatal(err)
	}
	deaf, err := p.ns.ListenPacket(t.Context(), "udp4", ":4999") // where answers come, which are no VXLAN
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	if err := p.ns.AddAddr("vx0", netip.MustParsePrefix("10.77.0.1/24")); err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC("02:00:00:00:00:79")
	if err != nil {
		t.Fatal(err)
	}
	err = handle.NeighSet(&netlink.Neigh{
		LinkIndex: device.Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("10.77.0.2"), HardwareAddr: mac,
	})
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct{ network, stamp, way string }{
		{"udp", "", "packet_acquire"}, {"udp", "stamped", "packet_exempt"}, {"tcp", "", "packet_acquire"}, {"tcp", "stamped", "packet_exempt"},
	} {
		before := p.counters(t, nil)
		p.knock(t, test.network, "10.77.0.2:9", test.stamp != "")
		p.awaitWay(t, before, test.way)
		p.wantWays(t, before, test.way)
	}
	ends := maps.Ends{Protocol: maps.UDP, Local: netip.MustParseAddrPort(ownAddr4 + ":4999"), Remote: outer}
	if opener, err := p.datapath.Maps.Opener(ends); err != nil || opener != maps.OpenerNone {
		t.Errorf("what was connected in the tunnel makes %s the opener of its flow, %v", opener, err)
	}
}

// knock sends a first packet from a socket of the host, which is closed then.
func (p *programBed) knock(t *testing.T, network, to string, stamp bool) {
	t.Helper()
	kind := unix.SOCK_DGRAM
	if strings.HasPrefix(network, "tcp") {
		kind = unix.SOCK_STREAM
	}
	dest := netip.MustParseAddrPort(to)
	err := p.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if stamp {
			if err := p.datapath.Maps.Stamp(fd); err != nil {
				return err
			}
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(dest.Port()), Addr: dest.Addr().As4()})
		if kind == unix.SOCK_STREAM && err == unix.EINPROGRESS {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, []byte("knock"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
