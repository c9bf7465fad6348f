package uplink

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routed are the devices that carry a default route or a route to a Tunnel prefix,
// in whatever table: which rule chooses it is not asked, since a program that sees
// no packet costs nothing.
func (w *Watcher) routed(here devices) (map[int]bool, error) {
	var all []netip.Prefix
	if w.opts.Prefixes != nil {
		all = w.opts.Prefixes()
	}
	tunnelled := disjoint(all)
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	return settled(func() (map[int]bool, error) {
		wanted := make(map[int]bool)
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			err := w.handle.RouteListFilteredIter(family, every, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
				to := destination(r, family)
				if r.Type != unix.RTN_UNICAST || r.Table == unix.RT_TABLE_LOCAL || to.Bits() > 0 && !meets(tunnelled, to) {
					return true
				}
				for _, hop := range hops(r) {
					if here[hop.LinkIndex] != nil && (to.Bits() == 0 || hop.Gw != nil || hop.Via != nil || here.leadsAway(hop.LinkIndex)) {
						wanted[hop.LinkIndex] = true
					}
				}
				return true
			})
			if err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
		}
		return wanted, nil
	})
}

// destination is where a route leads to.
func destination(r netlink.Route, family int) netip.Prefix {
	if r.Dst != nil {
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		return netip.PrefixFrom(addr.Unmap(), ones)
	}
	if family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func hops(r netlink.Route) []*netlink.NexthopInfo {
	if len(r.MultiPath) > 0 {
		return r.MultiPath
	}
	return []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
}

// disjoint sorts prefixes and leaves out those that lie within others.
func disjoint(all []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(all))
	for _, p := range all {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, byAddress)
	kept := sorted[:0]
	for _, p := range sorted {
		if len(kept) == 0 || !kept[len(kept)-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// meets reports whether a prefix overlaps one of several disjoint ones.
func meets(sorted []netip.Prefix, p netip.Prefix) bool {
	at, _ := slices.BinarySearchFunc(sorted, p, byAddress)
	return at < len(sorted) && sorted[at].Overlaps(p) || at > 0 && sorted[at-1].Overlaps(p)
}

// byAddress sorts prefixes such that one that contains others comes before them.
func byAddress(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
