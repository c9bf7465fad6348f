package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Network is what others have made of a network namespace.
type Network struct {
	Links  []Link
	Rules  []Rule
	Routes []Route
}

// Route leads to a part of the addresses, in whichever table it stands.
type Route struct {
	Prefix netip.Prefix
	Link   int // index, 0 for none
}

// Link is a network device.
type Link struct {
	Index   int
	Name    string
	Kind    string   // such as tun, wireguard, veth; "device" for hardware
	Uplink  bool     // it has a default route in the main table
	Mark    uint32   // of a WireGuard link's own packets, 0 for none
	MarkErr error    // why Mark is not known
	Filters []string // kinds of its tc filters without BPF program; only of uplinks
}

// Rule is a rule of policy routing.
type Rule struct {
	IPv6     bool
	Priority int
	Mark     uint32
	Mask     uint32 // 0: the rule does not look at marks
	Not      bool   // it means packets that do not match
	Table    int
}

// ReadNetwork reads the network namespace of the calling thread. Only the marks
// of WireGuard links need privilege.
func ReadNetwork() (*Network, error) {
	links, err := settled(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	uplinks, err := defaultLinks()
	if err != nil {
		return nil, fmt.Errorf("list default routes: %w", err)
	}
	n := new(Network)
	for _, l := range links {
		link := Link{
			Index: l.Attrs().Index, Name: l.Attrs().Name, Kind: l.Type(),
			Uplink: slices.Contains(uplinks, l.Attrs().Index),
		}
		if link.Kind == "wireguard" {
			link.Mark, link.MarkErr = wireguardMark(link.Name)
		}
		if link.Uplink {
			link.Filters = filters(l)
		}
		n.Links = append(n.Links, link)
	}
	n.Rules, err = markRules()
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	n.Routes, err = partRoutes()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return n, nil
}

// settled lists again what changed while it was listed.
func settled[T any](list func() ([]T, error)) ([]T, error) {
	all, err := list()
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < 5; tries++ {
		all, err = list()
	}
	return all, err
}

func defaultLinks() ([]int, error) {
	routes, err := settled(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	var indexes []int
	for _, r := range routes {
		if r.Dst != nil {
			// Two halves are how VPNs outdo a default route without
			// removing it.
			if ones, _ := r.Dst.Mask.Size(); ones > 1 {
				continue
			}
		}
		indexes = append(indexes, r.LinkIndex)
		for _, hop := range r.MultiPath {
			indexes = append(indexes, hop.LinkIndex)
		}
	}
	return indexes, nil
}

// partRoutes lists the routes of all tables that packets can take. Default routes
// and their halves are left out: they lead to whatever there is.
func partRoutes() ([]Route, error) {
	all, err := settled(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	var routes []Route
	for _, r := range all {
		if r.Dst == nil || r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_LOCAL {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		if prefix := netip.PrefixFrom(addr.Unmap(), ones); prefix.IsValid() && ones >= shortestRoute {
			routes = append(routes, Route{prefix, r.LinkIndex})
		}
	}
	return routes, nil
}

// shortestRoute is the fewest bits of a route that leads to somebody, as the agent
// sees it: what is wider is a default route in parts.
const shortestRoute = 8

// markRules lists the rules that look at marks.
func markRules() ([]Rule, error) {
	rules, err := settled(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	var all []Rule
	for _, r := range rules {
		rule := Rule{
			IPv6: r.Family == netlink.FAMILY_V6, Priority: r.Priority, Mark: r.Mark, Not: r.Invert, Table: r.Table,
		}
		if r.Mask != nil {
			rule.Mask = *r.Mask
		}
		if rule.Mask != 0 {
			all = append(all, rule)
		}
	}
	return all, nil
}

// filters names the tc filters of a link, but for those with a BPF program, which
// the loader knows. A link without a classifier has none,
// and the kernel's refusal to list them is not worth a word.
func filters(l netlink.Link) []string {
	var names []string
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		all, err := netlink.FilterList(l, parent)
		if err != nil {
			continue
		}
		for _, filter := range all {
			if filter.Type() == "bpf" {
				continue
			}
			names = append(names, filter.Type())
		}
	}
	return names
}

// wireguardMark asks for the mark of a link's own packets. The answer holds keys,
// too, which are not looked at.
func wireguardMark(name string) (uint32, error) {
	request, err := wireguardRequest(name, unix.WG_CMD_GET_DEVICE, unix.NLM_F_DUMP)
	if err != nil {
		return 0, err
	}
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask WireGuard for %q: %w", name, err)
	}
	for _, answer := range answers {
		attributes, err := nl.ParseRouteAttr(answer[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, fmt.Errorf("read WireGuard's answer for %q: %w", name, err)
		}
		for _, a := range attributes {
			if a.Attr.Type == unix.WGDEVICE_A_FWMARK && len(a.Value) >= 4 {
				return nl.NativeEndian().Uint32(a.Value), nil
			}
		}
	}
	return 0, nil
}

// wireguardRequest begins a question about a device.
func wireguardRequest(name string, command uint8, flags int) (*nl.NetlinkRequest, error) {
	family, err := netlink.GenlFamilyGet(unix.WG_GENL_NAME)
	if err != nil {
		return nil, fmt.Errorf("find WireGuard: %w", err)
	}
	// The library sends the two bytes behind its header as the reserved ones,
	// which have to be zero since 7.x.
	header := &struct {
		nl.Genlmsg
		reserved uint16
	}{Genlmsg: nl.Genlmsg{Command: command, Version: unix.WG_GENL_VERSION}}
	request := nl.NewNetlinkRequest(int(family.ID), flags)
	request.AddData(&header.Genlmsg)
	request.AddData(nl.NewRtAttr(unix.WGDEVICE_A_IFNAME, nl.ZeroTerminated(name)))
	return request, nil
}
