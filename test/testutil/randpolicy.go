package testutil

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// RandomPolicy returns a valid policy whose rules overlap in every way that a
// compiler could get wrong: ranges off prefix borders, nested, equal and side
// by side, whole families, single ports and port lists, one protocol or both,
// Bypass inside Tunnel and the reverse, equal orders, rules that match nothing,
// QUIC rejected where it has an effect and where it has none.
// The never-acquired destinations are protected, and now and then an edge too.
//
// It is a function of r alone.
func RandomPolicy(r *rand.Rand) *policy.Policy {
	p := &policy.Policy{
		ID:        fmt.Sprintf("random-%d", r.Uint32()),
		Channels:  []policy.Channel{{ID: "private", Name: "Private"}, {ID: "internet", Name: "Internet"}},
		Protected: policy.NeverAcquired(),
	}
	// Rules draw from few addresses and ports, or they would hardly ever meet.
	addrs := [][]netip.Addr{randomAddrs(r, 4), randomAddrs(r, 16)}
	ports := []uint16{0, 80, 443, 65535, uint16(r.Uint32()), uint16(r.Uint32())}
	for i := range 1 + r.IntN(12) {
		p.Rules = append(p.Rules, randomRule(r, fmt.Sprintf("rule-%d", i), addrs, ports))
	}
	slices.SortStableFunc(p.Rules, func(a, b policy.Rule) int { return cmp.Compare(a.Order, b.Order) })
	for range r.IntN(3) {
		addr := pick(r, addrs[r.IntN(2)])
		p.Protected = append(p.Protected, policy.Protection{
			Prefix: netip.PrefixFrom(addr, addr.BitLen()-r.IntN(3)).Masked(),
			Ports:  randomPorts(r, ports),
			Reason: "edge",
		})
	}
	return p
}

// RandomFlow returns a flow to an address near the border of a range or a
// protection of p, on a port near the border of one of p's port ranges. Every
// now and then an IPv4 address is in its IPv4-mapped form. The flow has no name.
//
// It is a function of r and p alone.
func RandomFlow(r *rand.Rand, p *policy.Policy) policy.Flow {
	f := policy.Flow{
		Protocol: pick(r, []policy.Protocols{policy.TCP, policy.UDP}),
		Port:     uint16(r.Uint32()),
	}
	var addrs []netip.Addr
	rule := pick(r, p.Rules)
	for _, a := range rule.Addrs {
		addrs = append(addrs, a.First, a.Last)
	}
	if len(addrs) == 0 || r.IntN(4) == 0 {
		addrs = []netip.Addr{pick(r, p.Protected).Prefix.Addr()}
	}
	f.Addr = beside(r, pick(r, addrs))
	if f.Addr.Is4() && r.IntN(8) == 0 {
		f.Addr = netip.AddrFrom16(f.Addr.As16())
	}
	if len(rule.Ports) > 0 && r.IntN(4) != 0 {
		ports := pick(r, rule.Ports)
		f.Port = pick(r, []uint16{ports.First, ports.Last}) + uint16(r.IntN(3)) - 1
	}
	if r.IntN(8) == 0 {
		f.Protocol, f.Port = policy.UDP, 443 // QUIC
	}
	return f
}

func randomRule(r *rand.Rand, id string, addrs [][]netip.Addr, ports []uint16) policy.Rule {
	rule := policy.Rule{
		ID:        id,
		Order:     float64(r.IntN(8)) / 2,
		Channel:   pick(r, []string{"private", "internet"}),
		Action:    pick(r, []policy.Action{policy.ActionBypass, policy.ActionTunnel, policy.ActionTunnel}),
		Hardening: pick(r, []policy.Hardening{policy.HardeningBypass, policy.HardeningBlock}),
		Protocols: pick(r, []policy.Protocols{policy.AnyProtocol, policy.AnyProtocol, policy.TCP, policy.UDP}),
		Ports:     []policy.PortRange{policy.AllPorts()},

		RejectQUIC: r.IntN(2) == 0,
	}
	for range r.IntN(5) {
		rule.Addrs = append(rule.Addrs, randomRange(r, pick(r, addrs)))
	}
	if r.IntN(8) == 0 {
		rule.Names = patterns(`.+\.example`)
	}
	if r.IntN(2) == 0 {
		rule.Ports = nil
		for range 1 + r.IntN(3) {
			rule.Ports = append(rule.Ports, randomPorts(r, ports))
		}
	}
	return rule
}

// randomRange returns a range between two of addrs, a prefix around one of
// them, one of them alone, or the whole family.
func randomRange(r *rand.Rand, addrs []netip.Addr) policy.AddrRange {
	a, b := pick(r, addrs), pick(r, addrs)
	if b.Less(a) {
		a, b = b, a
	}
	switch r.IntN(8) {
	case 0:
		return policy.AddrRange{First: a, Last: a}
	case 1, 2, 3:
		return prefixRange(netip.PrefixFrom(a, r.IntN(a.BitLen()+1)))
	case 4:
		return prefixRange(netip.PrefixFrom(a, 0))
	}
	return policy.AddrRange{First: a, Last: b}
}

// prefixRange returns the addresses of prefix.
func prefixRange(prefix netip.Prefix) policy.AddrRange {
	first := prefix.Masked().Addr()
	last := first.AsSlice()
	for bit := prefix.Bits(); bit < first.BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return policy.AddrRange{First: first, Last: addr}
}

// randomPorts returns a range between two of ports, or one of them alone.
func randomPorts(r *rand.Rand, ports []uint16) policy.PortRange {
	a, b := pick(r, ports), pick(r, ports)
	if r.IntN(2) == 0 {
		b = a
	}
	return policy.PortRange{First: min(a, b), Last: max(a, b)}
}

// randomAddrs returns addresses of size octets: both ends of the family, and
// a few that lie within a prefix of random length, some of them neighbours.
func randomAddrs(r *rand.Rand, size int) []netip.Addr {
	all := func(octet func() byte) []byte {
		octets := make([]byte, size)
		for i := range octets {
			octets[i] = octet()
		}
		return octets
	}
	octet := func() byte { return byte(r.Uint32()) }
	addrs := []netip.Addr{
		addrOf(all(func() byte { return 0 })),
		addrOf(all(func() byte { return 0xff })),
	}
	shared, from := all(octet), r.IntN(size)
	for range 5 {
		addr := addrOf(append(slices.Clone(shared[:from]), all(octet)[from:]...))
		addrs = append(addrs, addr, beside(r, addr))
	}
	return addrs
}

func addrOf(octets []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(octets)
	return addr
}

// beside returns addr, or the address before or after it if there is one.
func beside(r *rand.Rand, addr netip.Addr) netip.Addr {
	for _, near := range []netip.Addr{addr.Prev(), addr.Next()} {
		if near.IsValid() && r.IntN(3) == 0 {
			return near
		}
	}
	return addr
}

// pick returns one element of a list that is not empty.
func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }
