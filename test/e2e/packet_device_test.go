package e2e

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// uplinkKind is a kind of device that uplinks are.
type uplinkKind struct {
	name string // of the kernel
	l3   bool   // whether packets have no link-layer header
	join func(*packetSite, *testing.T)
}

func uplinkKinds() []uplinkKind {
	stacked := func(kind string, make func(port netlink.Link) netlink.Link) uplinkKind {
		return uplinkKind{name: kind, join: func(s *packetSite, t *testing.T) {
			s.stack(t, s.wire, "host0", make)
			s.stack(t, s.host, "up0", make)
			s.dressBoth(t)
		}}
	}
	return []uplinkKind{
		stacked("bridge", func(netlink.Link) netlink.Link { return &netlink.Bridge{} }),
		stacked("vlan", func(port netlink.Link) netlink.Link {
			return &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{ParentIndex: port.Attrs().Index}, VlanId: 7}
		}),
		stacked("bond", func(netlink.Link) netlink.Link {
			bond := netlink.NewLinkBond(netlink.LinkAttrs{})
			bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 100
			return bond
		}),
		{name: "tun", l3: true, join: (*packetSite).joinTuns},
		{name: "wireguard", l3: true, join: (*packetSite).joinWireGuards},
	}
}

// The uplink becomes a device of another kind again and again, as when a VPN
// begins and ends, and one agent follows all of it. Kernels lack some kinds; those of
// make vmtest have them all.
func TestUplinksMayBeOfAnyKind(t *testing.T) {
	s := barePacketSite(t)
	testutil.Veth(t,
		netns.End{Namespace: s.wire, Name: "port0", Addrs: prefixes(farPort + "/24")},
		netns.End{Namespace: s.host, Name: "port0", Addrs: prefixes(nearPort + "/24")})
	s.furnish(t)
	s.probeOften(t)
	s.startPacketEdge(t)
	testutil.Echo(t, s.net, "192.168.11.200:443")
	s.start(t)
	for _, kind := range uplinkKinds() {
		t.Run(kind.name, func(t *testing.T) {
			if kind.name != "tun" { // which links are not made of
				testutil.LinkType(t, kind.name)
			}
			s.tun = kind.name == "tun"
			kind.join(s, t)
			s.awaitUplinks(t, "up0") // and not what is below
			if u := s.status(t).Packets.Uplinks[0]; u.L3 != kind.l3 {
				t.Errorf("the agent takes %s for a device without a link-layer header: %t", u.Name, u.L3)
			}
			s.awaitChannel(t, "up")
			s.checkBothPlaces(t, 10, 4000, 20_000)
			if seen := s.seen(t); seen != "" {
				t.Errorf("on the wire there was %s", seen)
			}
		})
		s.awaitUplinks(t) // none
	}
	s.wantFirewallAtEase(t)
	s.stop(t)
}

// Addresses of the veth below other kinds of devices.
const (
	nearPort = "203.0.113.1"
	farPort  = "203.0.113.2"
)

// stack puts a device on a namespace's port0, until the end of the test, which bonds
// leave down.
func (s *packetSite) stack(t *testing.T, ns *netns.Namespace, name string, make func(port netlink.Link) netlink.Link) {
	t.Helper()
	t.Cleanup(func() {
		s.link(t, ns, "port0", func(h *netlink.Handle, port netlink.Link) error { return h.LinkSetUp(port) })
	})
	s.link(t, ns, "port0", func(h *netlink.Handle, port netlink.Link) error {
		device := make(port)
		device.Attrs().Name = name
		if err := h.LinkAdd(device); err != nil {
			return err
		}
		if device.Type() == "vlan" {
			return nil
		}
		if err := h.LinkSetDown(port); err != nil { // as bonds want it
			return err
		}
		if err := h.LinkSetMaster(port, device); err != nil {
			return err
		}
		return h.LinkSetUp(port)
	})
	s.goesAtTheEnd(t, ns, name)
}

// goesAtTheEnd removes a device at the end of the test.
func (s *packetSite) goesAtTheEnd(t *testing.T, ns *netns.Namespace, name string) {
	t.Helper()
	t.Cleanup(func() {
		s.link(t, ns, name, func(h *netlink.Handle, device netlink.Link) error { return h.LinkDel(device) })
	})
}

// dressBoth gives up0 and the wire's end addresses and routes, and sets them up.
func (s *packetSite) dressBoth(t *testing.T) {
	t.Helper()
	s.dress(t, s.wire, "host0", prefixes(gateway4+"/24", gateway6+"/64"))
	s.dress(t, s.host, "up0", prefixes(uplinkAddr4+"/24", uplinkAddr6+"/64"), defaultBy(gateway4), defaultBy(gateway6))
}

// dress sets a device up and gives it addresses and routes.
func (s *packetSite) dress(t *testing.T, ns *netns.Namespace, name string, addrs []netip.Prefix, routes ...netns.Route) {
	t.Helper()
	s.tune(t, ns, "ipv6/conf/"+name+"/accept_dad", "0")
	s.link(t, ns, name, func(h *netlink.Handle, device netlink.Link) error { return h.LinkSetUp(device) })
	for _, addr := range addrs {
		if err := ns.AddAddr(name, addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, route := range routes {
		if err := ns.AddRoute(name, route); err != nil {
			t.Fatal(err)
		}
	}
}

// joinTuns connects host and wire by tun devices.
func (s *packetSite) joinTuns(t *testing.T) {
	t.Helper()
	near, far := openTun(t, s.host, "up0"), openTun(t, s.wire, "host0")
	var carrying sync.WaitGroup
	t.Cleanup(func() {
		near.Close()
		far.Close()
		carrying.Wait()
	})
	carrying.Go(func() { carryPackets(far, near) })
	carrying.Go(func() { carryPackets(near, far) })
	s.dressBoth(t)
}

// joinWireGuards connects host and wire by a tunnel of the kernel's own.
func (s *packetSite) joinWireGuards(t *testing.T) {
	t.Helper()
	near, far := wireGuardKey(t), wireGuardKey(t)
	// A router that has no room for a datagram of IPv6 loses it, and says so.
	s.setMTU(t, wireGuardMTU, "ct0")
	s.openWireGuard(t, s.host, "up0", near, far.PublicKey(), farPort)
	s.openWireGuard(t, s.wire, "host0", far, near.PublicKey(), nearPort)
	s.dressBoth(t)
}

func wireGuardKey(t *testing.T) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// openWireGuard makes a WireGuard device whose one peer gets everything.
func (s *packetSite) openWireGuard(t *testing.T, ns *netns.Namespace, name string, own *ecdh.PrivateKey, peer *ecdh.PublicKey, at string) {
	t.Helper()
	device := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name}}
	err := ns.Do(func() error {
		if err := netlink.LinkAdd(device); err != nil {
			return err
		}
		family, err := netlink.GenlFamilyGet(unix.WG_GENL_NAME)
		if err != nil {
			return err
		}
		request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
		// The library sends the two bytes behind its header as the reserved ones,
		// which have to be zero since 7.x.
		header := &struct {
			nl.Genlmsg
			reserved uint16
		}{Genlmsg: nl.Genlmsg{Command: unix.WG_CMD_SET_DEVICE, Version: unix.WG_GENL_VERSION}}
		request.AddData(&header.Genlmsg)
		request.AddData(nl.NewRtAttr(unix.WGDEVICE_A_IFINDEX, nl.Uint32Attr(uint32(device.Index))))
		request.AddData(nl.NewRtAttr(unix.WGDEVICE_A_PRIVATE_KEY, own.Bytes()))
		request.AddData(nl.NewRtAttr(unix.WGDEVICE_A_LISTEN_PORT, nl.Uint16Attr(wireGuardPort)))
		request.AddData(wireGuardPeer(peer, at))
		_, err = request.Execute(unix.NETLINK_GENERIC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.goesAtTheEnd(t, ns, name)
}

const (
	wireGuardPort = 51820 // where both ends receive
	wireGuardMTU  = 1420  // the kernel's choice
)

// wireGuardPeer is the attribute of the one peer, for all addresses of both families.
func wireGuardPeer(key *ecdh.PublicKey, at string) *nl.RtAttr {
	endpoint := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	endpoint = append(endpoint, wireGuardPort>>8, wireGuardPort&0xff)
	endpoint = append(endpoint, netip.MustParseAddr(at).AsSlice()...)
	endpoint = append(endpoint, make([]byte, unix.SizeofSockaddrInet4-len(endpoint))...)

	peers := nl.NewRtAttr(unix.WGDEVICE_A_PEERS|unix.NLA_F_NESTED, nil)
	peer := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	peer.AddRtAttr(unix.WGPEER_A_PUBLIC_KEY, key.Bytes())
	peer.AddRtAttr(unix.WGPEER_A_ENDPOINT, endpoint)
	allowed := peer.AddRtAttr(unix.WGPEER_A_ALLOWEDIPS|unix.NLA_F_NESTED, nil)
	for family, size := range map[uint16]int{unix.AF_INET: net.IPv4len, unix.AF_INET6: net.IPv6len} {
		all := allowed.AddRtAttr(unix.NLA_F_NESTED, nil)
		all.AddRtAttr(unix.WGALLOWEDIP_A_FAMILY, nl.Uint16Attr(family))
		all.AddRtAttr(unix.WGALLOWEDIP_A_IPADDR, make([]byte, size))
		all.AddRtAttr(unix.WGALLOWEDIP_A_CIDR_MASK, []byte{0})
	}
	return peers
}

// openTun makes a tun device that goes with its descriptor.
func openTun(t *testing.T, ns *netns.Namespace, name string) *os.File {
	t.Helper()
	device := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN,
		Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1,
	}
	err := ns.Do(func() error {
		if err := netlink.LinkAdd(device); err != nil {
			return err
		}
		return netlink.LinkSetUp(device)
	})
	if err != nil {
		t.Fatal(err)
	}
	return device.Fds[0]
}

// carryPackets carries packets until a device is closed.
func carryPackets(to, from *os.File) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		to.Write(buf[:n]) // what a full device does not take is lost
	}
}
