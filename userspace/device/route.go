package device

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/rtnetlink"
)

// shortest is the fewest bits of a route that leads to somebody: what is wider
// is a default route, or that in two or four parts, as VPN clients set it.
const shortest = 8

// Route is a route of the host that leads to a network.
type Route struct {
	Prefix netip.Prefix
	Device string // its name; empty for one with several next hops
	Table  int    // 254 is main
}

// String returns the route as `ip route` shows it.
func (r Route) String() string {
	text := "route " + r.Prefix.String()
	if r.Device != "" {
		text += " dev " + r.Device
	}
	if r.Table != unix.RT_TABLE_MAIN {
		text += fmt.Sprintf(" table %d", r.Table)
	}
	return text
}

// Overlapping returns the first route of the calling thread's namespace, in any
// of its tables, that leads to addresses of a prefix, if there is one. Default
// routes lead to everybody and so do not count, nor do routes that lead nowhere
// (blackhole, unreachable, prohibit, throw).
func Overlapping(prefix netip.Prefix) (Route, bool, error) {
	handle, err := rtnetlink.Open()
	if err != nil {
		return Route{}, false, err
	}
	defer handle.Close()
	family := netlink.FAMILY_V4
	if prefix.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	found, err := settled(func() (found *netlink.Route, err error) {
		err = handle.RouteListFilteredIter(family, every, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			// That to a network, of main, tells more than that to the host's
			// own address there.
			if leadsTo(r, prefix) && (found == nil || found.Table == unix.RT_TABLE_LOCAL) {
				found = &r
			}
			return true
		})
		return found, err
	})
	if err != nil {
		return Route{}, false, fmt.Errorf("list routes: %w", err)
	}
	if found == nil {
		return Route{}, false, nil
	}
	r := Route{Table: found.Table}
	r.Prefix, _ = destination(*found)
	if link, err := handle.LinkByIndex(found.LinkIndex); err == nil {
		r.Device = link.Attrs().Name
	}
	return r, true, nil
}

func leadsTo(r netlink.Route, prefix netip.Prefix) bool {
	switch r.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return false
	}
	to, ok := destination(r)
	return ok && to.Bits() >= shortest && to.Overlaps(prefix)
}

func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(addr, bits), ok
}
