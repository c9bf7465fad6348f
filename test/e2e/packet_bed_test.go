package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Where things are on a site with a packet path. The host's way to the edge leads
// over the wire, where nothing for a private network may ever be seen.
const (
	uplinkAddr4  = "198.51.100.1"
	gateway4     = "198.51.100.254"
	uplinkAddr6  = "2001:db8:100::1"
	gateway6     = "2001:db8:100::fe"
	container4   = "10.8.0.2"
	container6   = "fd08::2"
	edgesGateway = "192.0.2.254"

	private6 = "2001:db8:10::/44" // what the edge leads to, beside privateNetwork
)

// packetSite is a host with an uplink, strict reverse path filters, a firewall
// and a container, and an edge beyond the wire.
type packetSite struct {
	*site
	wire      *netns.Namespace
	container *netns.Namespace

	direct bool // set by tests whose packets may be seen on the wire
	tun    bool // the uplink is a tun device
}

// newPacketSite is a site whose one uplink is the plain veth up0.
func newPacketSite(t testing.TB) *packetSite {
	t.Helper()
	s := barePacketSite(t)
	s.plug(t)
	testutil.Unchanged(t, s.host)
	s.furnish(t)
	return s
}

// barePacketSite is a site without an uplink: a test makes one and calls furnish.
func barePacketSite(t testing.TB) *packetSite {
	t.Helper()
	s := &packetSite{site: bareSite(t), wire: testutil.Netns(t), container: testutil.Netns(t)}
	s.tune(t, s.host, "ipv4/conf/all/rp_filter", "1")
	s.tune(t, s.host, "ipv4/conf/default/rp_filter", "1")
	for _, ns := range []*netns.Namespace{s.host, s.wire} {
		s.tune(t, ns, "ipv4/ip_forward", "1")
		s.tune(t, ns, "ipv6/conf/all/forwarding", "1")
	}
	testutil.Veth(t,
		netns.End{Namespace: s.wire, Name: "edges", Addrs: prefixes(edgesGateway + "/24")},
		netns.End{
			Namespace: s.net, Name: "up0", Addrs: prefixes(edgeAddr + "/24"),
			Routes: []netns.Route{defaultBy(edgesGateway)},
		})
	testutil.Veth(t,
		netns.End{Namespace: s.host, Name: "ct0", Addrs: prefixes("10.8.0.1/24", "fd08::1/64")},
		netns.End{
			Namespace: s.container, Name: "eth0", Addrs: prefixes(container4+"/24", container6+"/64"),
			Routes: []netns.Route{defaultBy("10.8.0.1"), defaultBy("fd08::1")},
		})
	s.nft(t, s.wire, wireRules)
	s.nft(t, s.host, hostRules)
	testutil.AnswerAll(t, s.net, netip.MustParsePrefix(private6))
	return s
}

// furnish makes all but the connections of namespaces, with a profile of the
// packet path. The uplinks are there.
func (s *packetSite) furnish(t testing.TB) {
	t.Helper()
	s.site.furnish(t)
	s.setProfile(t, packetProfile(packetRules()...))
	t.Cleanup(func() {
		if seen := s.seen(t); !s.direct && seen != "" {
			t.Errorf("on the wire there was %s", seen)
		}
	})
}

// plug makes the uplink up0 and the host's default routes.
func (s *packetSite) plug(t testing.TB) {
	t.Helper()
	testutil.Veth(t, s.wireEnd("host0"), netns.End{
		Namespace: s.host, Name: "up0", Addrs: prefixes(uplinkAddr4+"/24", uplinkAddr6+"/64"),
		Routes: []netns.Route{defaultBy(gateway4), defaultBy(gateway6)},
	})
}

// wireEnd is the other end of the host's uplink.
func (s *packetSite) wireEnd(name string) netns.End {
	return netns.End{Namespace: s.wire, Name: name, Addrs: prefixes(gateway4+"/24", gateway6+"/64")}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// defaultBy is the default route of the gateway's family.
func defaultBy(gateway string) netns.Route {
	via := netip.MustParseAddr(gateway)
	any := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if via.Is4() {
		any = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netns.Route{Prefix: any, Via: via}
}

// wireRules count what should not be there, before fragments are put together,
// and let nothing of it go on. Each network has its own counter; those of IPv6 are
// like those of IPv4.
const wireRules = `table inet wire {
	counter open { }
	counter closed { }
	counter other { }
	chain arrive {
		type filter hook prerouting priority -450;
		iifname "edges" accept
		ip daddr 192.168.11.0/24 counter name open drop
		ip6 daddr 2001:db8:11::/64 counter name open drop
		ip daddr 192.168.12.0/24 counter name closed drop
		ip6 daddr 2001:db8:12::/64 counter name closed drop
		ip daddr { 192.168.0.0/16, 6.6.0.0/16 } counter name other drop
		ip6 daddr 2001:db8:10::/44 counter name other drop
	}
}
`

// hostRules are a firewall that lets in what belongs to something that it knows,
// and what is meant for the ports 5000 and up; containers are hidden behind the
// host.
const hostRules = `table inet firewall {
	counter unknown { }
	chain enter {
		type filter hook input priority 0; policy drop;
		iif lo accept
		meta l4proto { icmp, ipv6-icmp } accept
		ct state established,related accept
		ct state invalid counter name unknown drop
		meta l4proto { tcp, udp } th dport 5000-5999 accept
		counter name unknown
	}
	chain pass {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		ct state invalid counter name unknown drop
		iifname ct0 accept
		counter name unknown
	}
}
table ip hidden {
	chain leave {
		type nat hook postrouting priority 100;
		ip saddr 10.8.0.0/24 oifname != ct0 masquerade
	}
}
table ip6 hidden {
	chain leave {
		type nat hook postrouting priority 100;
		ip6 saddr fd08::/64 oifname != ct0 masquerade
	}
}
`

// nft loads rules.
func (s *packetSite) nft(t testing.TB, ns *netns.Namespace, rules string) {
	t.Helper()
	cmd := testutil.Command(t, testutil.Program(t, "nft"), "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := testutil.Output(t, ns, "", cmd); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
}

// tune sets a value below /proc/sys/net.
func (s *packetSite) tune(t testing.TB, ns *netns.Namespace, name, value string) {
	t.Helper()
	err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// counted are the packets of each counter that has some.
func (s *packetSite) counted(t testing.TB, ns *netns.Namespace) map[string]int {
	t.Helper()
	var stdout bytes.Buffer
	cmd := exec.Command(testutil.Program(t, "nft"), "-j", "list", "counters")
	cmd.Stdout = &stdout
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var listed struct {
		Nftables []struct {
			Counter struct {
				Name    string
				Packets int
			}
		}
	}
	if err := json.Unmarshal(stdout.Bytes(), &listed); err != nil {
		t.Fatal(err)
	}
	counters := make(map[string]int)
	for _, each := range listed.Nftables {
		if each.Counter.Packets != 0 {
			counters[each.Counter.Name] = each.Counter.Packets
		}
	}
	return counters
}

// seen says what was seen on the wire that should not be there, if anything was.
func (s *packetSite) seen(t testing.TB) string {
	t.Helper()
	counters := s.counted(t, s.wire)
	for _, network := range []string{"open", "closed", "other"} {
		if counters[network] != 0 {
			return fmt.Sprintf("packets for private networks: %v", counters)
		}
	}
	return ""
}

// wantFirewallAtEase fails the test if the host's firewall has met something that
// it did not expect: answers that come from nowhere, or to nobody.
func (s *packetSite) wantFirewallAtEase(t testing.TB) {
	t.Helper()
	if counters := s.counted(t, s.host); len(counters) != 0 {
		t.Errorf("the host's firewall dropped %v", counters)
	}
}

// link runs a change of one of a namespace's links.
func (s *packetSite) link(t testing.TB, ns *netns.Namespace, name string, change func(*netlink.Handle, netlink.Link) error) {
	t.Helper()
	handle, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	link, err := handle.LinkByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := change(handle, link); err != nil {
		t.Fatalf("change %s: %v", name, err)
	}
}
