package e2e

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
)

func (p *programBed) checkUplinkMayChangeItsAddress(t *testing.T) {
	handle, err := p.ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	up0, err := handle.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "02:00:00:00:00:77", "02:00:00:00:00:78"} {
		if text != "" {
			mac, err := net.ParseMAC(text)
			if err == nil {
				err = handle.LinkSetHardwareAddr(up0, mac)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := p.say(t, p.ns, tunnelled4, 1); got != relayed(tunnelled4) {
			t.Errorf("with the address %q: %q", text, got)
		}
		uplinks, err := p.datapath.Maps.Uplinks()
		if err != nil || len(uplinks) != 1 || text != "" && uplinks[0].MAC.String() != text {
			t.Errorf("uplinks are %+v, %v; want the address %q", uplinks, err, text)
		}
	}
}

func (p *programBed) checkExemptSocketsPassTheUplink(t *testing.T) {
	conn, err := p.ns.ListenPacket(t.Context(), "udp4", ":6004") // which no later socket gets
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := p.datapath.Maps.Stamp(descriptor(t, conn.(*net.UDPConn))); err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(ioTimeout))
	before := p.counters(t, nil)
	buf := make([]byte, 64)
	for range 3 {
		if _, err := conn.WriteTo([]byte{0}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(tunnelled4))); err != nil {
			t.Fatal(err)
		}
		if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "direct 1" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	p.wantWays(t, before, "packet_exempt", "packet_opened")
}

// tun makes a device without Ethernet headers, to which the tunnelled and the
// bypassed range are routed. What leaves by it is read from the file.
func (p *programBed) tun(t *testing.T) *os.File {
	t.Helper()
	handle, err := p.ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	device := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_DEFAULTS, NonPersist: true,
	}
	if err := p.ns.Do(func() error { return netlink.LinkAdd(device) }); err != nil {
		t.Fatal(err)
	}
	wire := device.Fds[0]
	t.Cleanup(func() { wire.Close() })
	if err := handle.LinkSetUp(device); err != nil {
		t.Fatal(err)
	}
	for _, addr := range prefixes("10.7.0.2/24", "fd07::2/64") {
		if err := p.ns.AddAddr("tun0", addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range prefixes("192.168.11.0/24", "192.168.13.0/24", "fd00:11::/64") {
		route := &netlink.Route{LinkIndex: device.Index, Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}}
		if err := handle.RouteAdd(route); err != nil {
			t.Fatal(err)
		}
	}
	return wire
}

func (p *programBed) checkUplinkMayHaveNoEthernetHeaders(t *testing.T) {
	wire := p.tun(t)
	uplink, e := p.openEnclave(t, "tun0")
	err := p.datapath.Maps.SetUplink(maps.Uplink{Index: uplink, Pair: e.Device(), PairMAC: e.PeerMAC(), L3: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.datapath.Maps.DeleteUplink(uplink); err != nil {
			t.Error(err)
		}
	})
	before := p.counters(t, nil)
	for _, to := range []string{tunnelled4, tunnelled6} {
		for _, size := range []int{1, 1400, 4000} {
			conn, err := p.dial(t, p.ns, "udp", "", to)
			if err != nil {
				t.Fatal(err)
			}
			if got := converse(t, conn, size); got[:len("relay for ")] != "relay for " {
				t.Errorf("%d bytes to %s: %q", size, to, got)
			}
		}
		conn, err := p.dial(t, p.ns, "tcp", "", to)
		if err != nil {
			t.Fatal(err)
		}
		if got := converse(t, conn, 0); got != "relay for "+to {
			t.Errorf("connection to %s: %q", to, got)
		}
		whole := bytes.Repeat([]byte("train"), 40000)
		go conn.Write(whole)
		for len(whole) > 0 {
			n, err := conn.Read(make([]byte, len(whole)))
			if err != nil {
				t.Fatal(err)
			}
			whole = whole[n:]
		}
	}
	p.wantWays(t, before, "packet_acquire")

	conn, err := p.dial(t, p.ns, "udp", "", bypassed4)
	if err != nil {
		t.Fatal(err)
	}
	marker := []byte("goes direct")
	if _, err := conn.Write(marker); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for seen := false; !seen; {
		wire.SetReadDeadline(time.Now().Add(ioTimeout))
		n, err := wire.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen = bytes.HasSuffix(buf[:n], marker)
		tunnelled := netip.MustParseAddrPort(tunnelled4).Addr().As4()
		if bytes.Contains(buf[:n], tunnelled[:]) {
			t.Errorf("on the wire there is % x", buf[:n])
		}
	}
}

// A container on a macvlan of the uplink is another host on the same wire: its
// packets have its own address, and what the host learnt of it would be wrong.
func (p *programBed) checkOtherHostsOnTheUplinkAreLeftAlone(t *testing.T) {
	testutil.LinkType(t, "macvlan")
	if got := p.say(t, p.ns, tunnelled4, 1); got != relayed(tunnelled4) {
		t.Fatal(got)
	}
	other := testutil.Netns(t)
	handle, err := p.ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	device := &netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "mac0", ParentIndex: p.uplink}, Mode: netlink.MACVLAN_MODE_BRIDGE,
	}
	if err := handle.LinkAdd(device); err != nil {
		t.Fatal(err)
	}
	if err := handle.LinkSetNsFd(device, other.Fd()); err != nil {
		t.Fatal(err)
	}
	away, err := other.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	moved, err := away.LinkByName("mac0")
	if err == nil {
		err = away.LinkSetUp(moved)
	}
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		other.AddAddr("mac0", netip.MustParsePrefix("10.9.0.3/24")), other.AddRoute("mac0", defaultBy(wireAddr4)))
	if err != nil {
		t.Fatal(err)
	}

	before := p.counters(t, nil)
	want := tunnelled4 + " says direct 8\n"
	if got := testutil.Child(t, other, p.cgroup, "datagram", "udp4", "ask="+tunnelled4); got != want {
		t.Errorf("datagram: %q, want %q", got, want)
	}
	want = "peer " + tunnelled4 + " to direct"
	if got := testutil.Child(t, other, p.cgroup, "connect", "plain", tunnelled4); got != want {
		t.Errorf("connection: %q, want %q", got, want)
	}
	p.wantWays(t, before, "packet_foreign_netns", "pass_foreign_netns")
	if got := p.say(t, p.ns, tunnelled4, 1); got != relayed(tunnelled4) {
		t.Errorf("datagram of the host: %q", got)
	}
}
