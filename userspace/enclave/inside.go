package enclave

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// arriving is the priority of the rule of what comes in by the pair.
	arriving = 10

	// leastMTU6 is the least MTU of IPv6 (RFC 8200, section 5).
	leastMTU6 = 1280

	loopback = 1 // index of lo
)

// family is how one version of IP is routed inside.
type family struct {
	number  int
	gateway net.IP // where answers go; nobody is there
	any     *net.IPNet
	least   int // MTU
}

func families() []family {
	all := []family{{netlink.FAMILY_V4, net.IPv4(169, 254, 0, 1).To4(), &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, 0}}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		all = append(all, family{netlink.FAMILY_V6, net.ParseIP("fe80::1"), &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, leastMTU6})
	}
	return all
}

// settings are the sysctls inside. A new namespace has many of the host's.
func settings() [][2]string {
	return [][2]string{
		// The stricter of all and a device's own holds.
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/" + peerName + "/rp_filter", "0"},
		{"net/ipv4/conf/all/log_martians", "0"},
		{"net/ipv4/conf/" + peerName + "/log_martians", "0"},
		// Each refused flow is told so at once. The masks lift the limit of all
		// messages together, which is the host's.
		{"net/ipv4/icmp_ratelimit", "0"},
		{"net/ipv4/icmp_ratemask", "0"},
		{"net/ipv6/icmp/ratelimit", "0"},
		{"net/ipv6/icmp/ratemask", "0"},
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/lo/disable_ipv6", "0"},
		{"net/ipv6/conf/" + peerName + "/disable_ipv6", "0"},
		// Sockets answer from any address, as those of IPv4 may by the local route.
		{"net/ipv6/ip_nonlocal_bind", "1"},
		// And from any port, without CAP_NET_BIND_SERVICE.
		{"net/ipv4/ip_unprivileged_port_start", "0"},
		// No address, and so nothing that is said unasked.
		{"net/ipv6/conf/" + peerName + "/addr_gen_mode", "1"},
		{"net/ipv6/conf/" + peerName + "/accept_ra", "0"},
		{"net/ipv6/conf/" + peerName + "/router_solicitations", "0"},
	}
}

// furnish makes every destination that arrives by the pair local, and sends all
// that is answered back by it.
func (e *Enclave) furnish(opts Options) error {
	err := e.namespace.Do(func() error {
		for _, s := range settings() {
			if err := set(s[0], s[1]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	peer, err := e.inside.LinkByName(peerName)
	if err != nil {
		return fmt.Errorf("find the end inside: %w", err)
	}
	e.peer = peer.Attrs().Index
	if err := e.inside.LinkSetARPOff(peer); err != nil {
		return fmt.Errorf("switch ARP inside off: %w", err)
	}
	if err := e.inside.LinkSetUp(peer); err != nil {
		return fmt.Errorf("set the end inside up: %w", err)
	}
	for _, f := range families() {
		if err := e.address(f); err != nil {
			return err
		}
		if err := e.receive(f); err != nil {
			return err
		}
		if err := e.answer(f, opts.MAC); err != nil {
			return err
		}
	}
	return e.SetMTU(opts.MTU)
}

// address gives the namespace an address of its own where refusals need one:
// those of IPv6 do not come from the destination of what is refused. It is a
// unique local one (RFC 4193), made of "bpfacq".
func (e *Enclave) address(f family) error {
	if f.number != netlink.FAMILY_V6 {
		return nil
	}
	own := &net.IPNet{IP: net.ParseIP("fd62:7066:6163:7100::1"), Mask: net.CIDRMask(128, 128)}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}
	if err := e.inside.AddrReplace(lo, &netlink.Addr{IPNet: own, Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	return nil
}

// receive makes what comes in by the pair local. That is so in the kernel's own
// table: in it the kernel looks for the source of a refusal, which is the
// destination of what is refused. For what is sent from inside it is no table then.
func (e *Enclave) receive(f family) error {
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, LinkIndex: loopback, Dst: f.any}
	if err := e.inside.RouteReplace(local); err != nil {
		return fmt.Errorf("add local route: %w", err)
	}
	// The gateway of answers is not.
	bits := 8 * len(f.any.IP)
	gateway := &netlink.Route{
		Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_LINK, LinkIndex: e.peer,
		Dst: &net.IPNet{IP: f.gateway, Mask: net.CIDRMask(bits, bits)},
	}
	if err := e.inside.RouteReplace(gateway); err != nil {
		return fmt.Errorf("add route to gateway: %w", err)
	}
	rule := netlink.NewRule()
	rule.Family, rule.IifName, rule.Table, rule.Priority = f.number, peerName, unix.RT_TABLE_LOCAL, arriving
	if err := e.inside.RuleAdd(rule); err != nil {
		return fmt.Errorf("add rule: %w", err)
	}
	every := netlink.NewRule()
	every.Family, every.Table, every.Priority = f.number, unix.RT_TABLE_LOCAL, 0
	if err := e.inside.RuleDel(every); err != nil {
		return fmt.Errorf("remove rule: %w", err)
	}
	return nil
}

// answer makes the gateway known, for which nobody is asked.
func (e *Enclave) answer(f family, mac net.HardwareAddr) error {
	if len(mac) != len(hostMAC()) {
		mac = hostMAC()
	}
	gateway := &netlink.Neigh{LinkIndex: e.peer, Family: f.number, State: netlink.NUD_PERMANENT, IP: f.gateway, HardwareAddr: mac}
	if err := e.inside.NeighSet(gateway); err != nil {
		return fmt.Errorf("add neighbour: %w", err)
	}
	return nil
}

// SetMTU follows a change of the uplink's MTU, in bytes.
func (e *Enclave) SetMTU(mtu int) error {
	for _, f := range families() {
		// The pair's own MTU stays: a route's is followed by flows that live.
		route := &netlink.Route{
			Family: f.number, Dst: f.any, Gw: f.gateway, LinkIndex: e.peer,
			MTU: min(max(mtu, f.least), pairMTU),
		}
		if f.number == netlink.FAMILY_V4 {
			route.Flags = int(netlink.FLAG_ONLINK)
		}
		if err := e.inside.RouteReplace(route); err != nil {
			return fmt.Errorf("set MTU of the enclave to %d: %w", mtu, err)
		}
	}
	return nil
}
