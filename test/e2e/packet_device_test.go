package e2e

import (
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// stack puts a device of a kind on a namespace's port0.
func (s *packetSite) stack(t *testing.T, ns *netns.Namespace, kind, name string, addrs []netip.Prefix, routes ...netns.Route) {
	t.Helper()
	s.link(t, ns, "port0", func(h *netlink.Handle, port netlink.Link) error {
		var device netlink.Link = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if kind == "vlan" {
			device = &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: port.Attrs().Index}, VlanId: 7}
		}
		if err := h.LinkAdd(device); err != nil {
			return err
		}
		if kind == "bridge" {
			if err := h.LinkSetMaster(port, device); err != nil {
				return err
			}
		}
		return nil
	})
	s.tune(t, ns, "ipv6/conf/"+name+"/accept_dad", "0")
	s.link(t, ns, name, func(h *netlink.Handle, device netlink.Link) error { return h.LinkSetUp(device) })
	s.dress(t, ns, name, addrs, routes...)
}

// dress gives a device addresses and routes.
func (s *packetSite) dress(t *testing.T, ns *netns.Namespace, name string, addrs []netip.Prefix, routes ...netns.Route) {
	t.Helper()
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
	s.tun = true
	near, far := openTun(t, s.host, "up0"), openTun(t, s.wire, "host0")
	var carrying sync.WaitGroup
	t.Cleanup(func() {
		near.Close()
		far.Close()
		carrying.Wait()
	})
	carrying.Go(func() { carryPackets(far, near) })
	carrying.Go(func() { carryPackets(near, far) })
	s.dress(t, s.wire, "host0", prefixes(gateway4+"/24", gateway6+"/64"))
	s.dress(t, s.host, "up0", prefixes(uplinkAddr4+"/24", uplinkAddr6+"/64"), defaultBy(gateway4), defaultBy(gateway6))
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
