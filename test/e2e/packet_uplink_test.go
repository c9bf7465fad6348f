package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// acquiring returns the uplinks that the agent acquires from.
func (s *packetSite) acquiring(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, u := range s.status(t).Packets.Uplinks {
		if u.Cause == "" {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names
}

// awaitUplinks returns once the agent acquires from exactly these.
func (s *packetSite) awaitUplinks(t testing.TB, names ...string) {
	t.Helper()
	await(t, fmt.Sprintf("uplinks %v", names), func() bool { return slices.Equal(s.acquiring(t), names) })
}

// checkBothPlaces sends datagrams and makes connections, from the host and from
// the container, to an address of each family.
func (s *packetSite) checkBothPlaces(t *testing.T, sizes ...int) {
	t.Helper()
	for _, from := range s.places() {
		p := s.speaker(t, from.namespace)
		for family, addr := range privateAddrs() {
			p.want(t, "opened", "open", family, family)
			for _, size := range sizes {
				p.want(t, echoed(at(addr, echoPort), size), "echo", family, at(addr, echoPort), size)
			}
			got := p.do(t, "train", family, at(addr, echoPort), 1000, 32)
			// Before Linux 6.11 there are none by devices that compute no checksum.
			if got != "32 segments of 1000 bytes" && !(got == "EIO" && s.tun) {
				t.Fatalf("train of the %s: %s", from.name, got)
			}
		}
		const to = "192.168.11.200:443"
		got := testutil.Child(t, from.namespace, s.cgroup, "exchange", "bulk=200000", to)
		if want := "200000 bytes came back"; got != want {
			t.Errorf("TCP of the %s: got %q, want %q", from.name, got, want)
		}
	}
}

// Each is used in full, and followed while flows live.
func TestMTUOfTheUplinkIsFollowed(t *testing.T) {
	s := newPacketSite(t)
	s.startPacketEdge(t)
	testutil.Echo(t, s.net, "192.168.11.200:443")
	s.start(t)
	const to = "192.168.11.200:4433"
	whole := s.speaker(t, s.host)
	whole.want(t, "opened", "open", "whole", "udp4", "whole")
	for _, mtu := range []int{1500, 1280, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			s.setMTU(t, mtu, "ct0", "up0")
			s.awaitMTU(t, mtu)
			s.checkBothPlaces(t, mtu-48, 4000, 20_000)
			whole.want(t, "EMSGSIZE", "echo", "whole", to, mtu-27)
			whole.want(t, echoed(to, mtu-28), "echo", "whole", to, mtu-28)
		})
	}
	t.Run("9000 is more than a container takes", func(t *testing.T) {
		s.setMTU(t, 1500, "ct0")
		p := s.speaker(t, s.container)
		p.want(t, "opened", "open", "a", "udp4")
		for _, size := range []int{1472, 4000, 20_000} {
			p.want(t, echoed(to, size), "echo", "a", to, size)
		}
	})
	s.setMTU(t, 1500, "up0") // as it was
	s.stop(t)
}

// awaitMTU returns once the agent has noticed.
func (s *packetSite) awaitMTU(t *testing.T, mtu int) {
	t.Helper()
	await(t, "the agent to know the MTU", func() bool {
		return slices.ContainsFunc(s.status(t).Packets.Uplinks, func(u control.Uplink) bool { return u.MTU == mtu })
	})
}

// setMTU sets that of devices of the host, and of their other ends.
func (s *packetSite) setMTU(t *testing.T, mtu int, devices ...string) {
	t.Helper()
	change := func(h *netlink.Handle, link netlink.Link) error { return h.LinkSetMTU(link, mtu) }
	for _, device := range devices {
		s.link(t, s.host, device, change)
		if device == "ct0" {
			s.link(t, s.container, "eth0", change)
		} else {
			s.link(t, s.wire, "host0", change)
		}
	}
}

func TestTwoUplinksAtOnceEachCarryTheirOwn(t *testing.T) {
	s := barePacketSite(t)
	s.plug(t)
	// The closed networks are routed by the second one.
	testutil.Veth(t,
		netns.End{Namespace: s.wire, Name: "host1", Addrs: prefixes("198.51.101.254/24", "2001:db8:101::fe/64")},
		netns.End{
			Namespace: s.host, Name: "up1", Addrs: prefixes("198.51.101.1/24", "2001:db8:101::1/64"),
			Routes: []netns.Route{
				{Prefix: prefixes("192.168.12.0/24")[0], Via: defaultBy("198.51.101.254").Via},
				{Prefix: prefixes("2001:db8:12::/64")[0], Via: defaultBy("2001:db8:101::fe").Via},
			},
		})
	testutil.Unchanged(t, s.host)
	s.furnish(t)
	s.startPacketEdge(t)
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	s.start(t)
	s.awaitUplinks(t, "up0", "up1")
	for _, from := range s.places() {
		p := s.speaker(t, from.namespace)
		for _, test := range []struct{ family, addr string }{
			{"udp4", "192.168.11.1"}, {"udp4", "192.168.12.1"}, {"udp6", "2001:db8:11::1"}, {"udp6", "2001:db8:12::1"},
		} {
			p.want(t, "opened", "open", test.addr, test.family)
			for _, size := range []int{10, 4000} {
				to := at(test.addr, echoPort)
				p.want(t, echoed(to, size), "echo", test.addr, to, size)
			}
		}
	}
	for to, source := range map[string]string{"192.168.11.1:22": uplinkAddr4, "192.168.12.1:22": "198.51.101.1"} {
		if got := testutil.Child(t, s.container, s.cgroup, "connect", "plain", to); got != greeted(to)+"\n" {
			t.Errorf("TCP to %s: got %q", to, got)
		}
		if f := s.endedFlow(t, to); f.Source.Addr().String() != source {
			t.Errorf("TCP to %s comes from %s, want %s", to, f.Source, source)
		}
	}
	s.wantFirewallAtEase(t)
	s.stop(t)
}

func TestIPv6NeedsNoMoreThanARoute(t *testing.T) {
	s := barePacketSite(t)
	testutil.Veth(t, s.wireEnd("host0"), netns.End{
		Namespace: s.host, Name: "up0", Addrs: prefixes(uplinkAddr4+"/24", uplinkAddr6+"/64"),
		Routes: []netns.Route{defaultBy(gateway4)},
	})
	s.furnish(t)
	s.startPacketEdge(t)
	s.start(t)
	s.awaitUplinks(t, "up0")
	const to4, to6 = "192.168.11.200:4433", "[2001:db8:11::200]:4433"
	p := s.speaker(t, s.host)
	p.want(t, "opened", "open", "4", "udp4")
	p.want(t, "opened", "open", "6", "udp6")
	p.want(t, echoed(to4, 10), "echo", "4", to4, 10)
	p.want(t, "ENETUNREACH", "echo", "6", to6, 10) // as without an agent
	testutil.Respond(t, s.net, "[::]:22", greet)
	if got := s.connect(t, "[2001:db8:11::1]:22"); got != greeted("[2001:db8:11::1]:22") {
		t.Errorf("TCP needs no route: got %q", got)
	}
	route := netns.Route{Prefix: prefixes("2001:db8:11::/64")[0], Via: defaultBy(gateway6).Via}
	if err := s.host.AddRoute("up0", route); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 4000} {
		p.want(t, echoed(to6, size), "echo", "6", to6, size)
	}
	s.stop(t)
}

// forgetNeighbours has the wire look for the host's address anew, as it would
// when it is told.
func (s *packetSite) forgetNeighbours(t *testing.T) {
	t.Helper()
	s.link(t, s.wire, "host0", func(h *netlink.Handle, link netlink.Link) error {
		known, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		for _, neighbour := range known {
			h.NeighDel(&neighbour) // one that is gone is fine
		}
		return err
	})
}

// probeOften has the agent find an edge again soon that was out of reach.
func (s *packetSite) probeOften(t *testing.T) {
	t.Helper()
	s.setProfile(t, strings.Replace(packetProfile(packetRules()...), `InSeconds":10`, `InSeconds":1`, 1))
}

// In each state that the uplink comes back in, what lives goes on.
func TestUplinkThatChangesIsFollowed(t *testing.T) {
	s := barePacketSite(t)
	s.plug(t)
	s.furnish(t)
	s.startPacketEdge(t)
	s.probeOften(t)
	s.start(t)
	p := s.speaker(t, s.host)
	const to = "192.168.11.1:4433"
	p.want(t, "opened", "open", "live", "udp4")
	p.want(t, echoed(to, 10), "echo", "live", to, 10)
	for _, test := range []struct {
		name   string
		change func(*testing.T, *packetSite) (uplink string)
	}{
		{"another MAC", changeMAC}, {"down and up", downAndUp}, {"another name", rename}, {"another device", replace},
	} {
		t.Run(test.name, func(t *testing.T) {
			uplink := test.change(t, s)
			s.awaitUplinks(t, uplink)
			s.forgetNeighbours(t)
			s.awaitChannel(t, "up")
			p.want(t, echoed(to, 4000), "echo", "live", to, 4000)
			q := s.speaker(t, s.container)
			for family, addr := range privateAddrs() {
				p.want(t, "opened", "open", family, family)
				p.want(t, echoed(at(addr, echoPort), 10), "echo", family, at(addr, echoPort), 10)
				q.want(t, "opened", "open", family, family)
				q.want(t, echoed(at(addr, echoPort), 10), "echo", family, at(addr, echoPort), 10)
			}
		})
	}
	t.Run("other devices that come and go", s.checkChurn)
	if pairs := s.pairs(t); pairs != 1 {
		t.Errorf("%d pairs for one uplink", pairs)
	}
	s.stop(t)
	if pairs := s.pairs(t); pairs != 0 {
		t.Errorf("%d pairs after the agent's end", pairs)
	}
}

func changeMAC(t *testing.T, s *packetSite) string {
	s.link(t, s.host, "up0", func(h *netlink.Handle, link netlink.Link) error {
		return h.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 9, 1})
	})
	return "up0"
}

func downAndUp(t *testing.T, s *packetSite) string {
	s.link(t, s.host, "up0", func(h *netlink.Handle, link netlink.Link) error { return h.LinkSetDown(link) })
	await(t, "an uplink that is away", func() bool {
		all := s.status(t).Packets.Uplinks
		return len(all) == 1 && all[0].State == "away"
	})
	s.link(t, s.host, "up0", func(h *netlink.Handle, link netlink.Link) error { return h.LinkSetUp(link) })
	s.restore(t, "up0")
	return "up0"
}

func rename(t *testing.T, s *packetSite) string {
	s.link(t, s.host, "up0", func(h *netlink.Handle, link netlink.Link) error {
		if err := h.LinkSetDown(link); err != nil {
			return err
		}
		if err := h.LinkSetName(link, "wan0"); err != nil {
			return err
		}
		return h.LinkSetUp(link)
	})
	s.restore(t, "wan0")
	return "wan0"
}

func replace(t *testing.T, s *packetSite) string {
	s.link(t, s.host, "wan0", func(h *netlink.Handle, link netlink.Link) error { return h.LinkDel(link) })
	s.plug(t)
	return "up0"
}

// restore gives the uplink what it loses when it goes down.
func (s *packetSite) restore(t *testing.T, uplink string) {
	t.Helper()
	if err := s.host.AddAddr(uplink, prefixes(uplinkAddr6 + "/64")[0]); err != nil {
		t.Fatal(err)
	}
	for _, gateway := range []string{gateway4, gateway6} {
		if err := s.host.AddRoute(uplink, defaultBy(gateway)); err != nil {
			t.Fatal(err)
		}
	}
}

// pairs is how many devices of the host are the agent's.
func (s *packetSite) pairs(t testing.TB) int {
	t.Helper()
	handle, err := s.host.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, link := range links {
		if link.Attrs().Alias == "bpfacq" {
			n++
		}
	}
	return n
}

// checkChurn has ten devices come and go each second, as containers start and stop.
// No flow notices.
func (s *packetSite) checkChurn(t *testing.T) {
	p := s.speaker(t, s.host)
	const to = "192.168.11.1:4433"
	p.want(t, "opened", "open", "live", "udp4")
	devices := 30
	if testing.Short() {
		devices = 10
	}
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	before := s.log.count("level=ERROR")
	for i := range devices {
		<-pace.C
		name := fmt.Sprintf("c%d", i)
		testutil.Veth(t,
			netns.End{Namespace: s.host, Name: name, Addrs: prefixes(fmt.Sprintf("10.20.%d.1/24", i))},
			netns.End{Namespace: s.container, Name: name})
		p.want(t, echoed(to, 1000), "echo", "live", to, 1000)
		s.link(t, s.host, name, func(h *netlink.Handle, link netlink.Link) error { return h.LinkDel(link) })
		p.want(t, echoed(to, 4000), "echo", "live", to, 4000)
	}
	s.awaitUplinks(t, "up0")
	if n := s.log.count("level=ERROR") - before; n != 0 {
		t.Errorf("the agent logged %d errors", n)
	}
}
