package profile

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// maxRanges is how many address ranges a profile can have: twice the million
// that the policy compiler is made for.
const maxRanges = 2_000_000

// addrs reads a rule's list of addresses. The vendor's format has inclusive
// IPv4 ranges {start, end} in decimal; bpfacq also takes textual addresses,
// prefixes and ranges of both families, as the vendor's has no IPv6.
func addrs(list *node) []policy.AddrRange {
	var ranges []policy.AddrRange
	for item := range list.items() {
		if item.doc.ranges == maxRanges {
			item.reject(fmt.Sprintf("at most %d address ranges in all", maxRanges))
			break
		}
		item.doc.ranges++
		if r, ok := addrRange(item); ok {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

func addrRange(n *node) (policy.AddrRange, bool) {
	switch {
	case n.kind() == '{':
		return startAndEnd(n)
	case n.kind() == '"' && strings.Contains(unquote(n.raw()), "/"):
		p, ok := n.prefix()
		return policy.AddrRange{First: p.Addr(), Last: lastAddr(p)}, ok
	case n.kind() == '[' || n.kind() == 't' || n.kind() == 'f' || n.isNull():
		n.reject("a range {start, end}, an address or a prefix")
		return policy.AddrRange{}, false
	}
	addr, ok := n.address()
	return policy.AddrRange{First: addr, Last: addr}, ok
}

func startAndEnd(n *node) (policy.AddrRange, bool) {
	o, _ := n.object("start", "end")
	first, ok1 := o.required("start").address()
	last, ok2 := o.required("end").address()
	r := policy.AddrRange{First: first, Last: last}
	switch {
	case !ok1 || !ok2:
		return r, false
	case first.BitLen() != last.BitLen():
		n.rejectAs(r.String(), "start and end of one address family")
		return r, false
	case last.Less(first):
		n.rejectAs(r.String(), "a start that is not after the end")
		return r, false
	}
	return r, true
}

// address reads an address: an IPv4 address as a decimal number, or one of
// either family as text. An IPv4-mapped address is the IPv4 address.
func (n *node) address() (netip.Addr, bool) {
	if n == nil {
		return netip.Addr{}, false
	}
	if text, ok := n.numeral(); ok {
		if v, err := strconv.ParseUint(text, 10, 32); err == nil {
			return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
		}
	} else if n.kind() == '"' {
		addr, err := netip.ParseAddr(unquote(n.raw()))
		if err == nil && addr.Zone() == "" {
			return addr.Unmap(), true
		}
		if err == nil {
			n.reject("an address without a zone")
			return netip.Addr{}, false
		}
	}
	n.reject(fmt.Sprintf("an IPv4 address as a whole number from 0 to %d, or an IPv4 or IPv6 address as text",
		uint32(math.MaxUint32)))
	return netip.Addr{}, false
}

// prefix reads a textual prefix whose host bits are zero. An IPv4-mapped
// prefix is the IPv4 prefix.
func (n *node) prefix() (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(unquote(n.raw()))
	if err != nil {
		n.reject(`a prefix such as "10.0.0.0/8" or "2001:db8::/32"`)
		return p, false
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		n.reject(fmt.Sprintf("a prefix without host bits: %q", p.Masked()))
		return p, false
	}
	return p, true
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	addr := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(addr)*8; bit++ {
		addr[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(addr)
	return last
}

// subnet reads an IPv4 subnet that is written as address and mask.
func subnet(n *node) netip.Prefix {
	o, ok := n.object("subnetAddress", "subnetMask")
	if !ok {
		return netip.Prefix{}
	}
	address, mask := o.required("subnetAddress"), o.required("subnetMask")
	base, ok1 := address.address()
	ones, ok2 := maskBits(mask)
	if !ok1 || !ok2 {
		return netip.Prefix{}
	}
	if !base.Is4() {
		address.reject("an IPv4 address")
		return netip.Prefix{}
	}
	p := netip.PrefixFrom(base, ones)
	if p != p.Masked() {
		address.rejectAs(base.String(), fmt.Sprintf("a subnet without host bits: %s", p.Masked()))
	}
	return p
}

// maskBits reads an IPv4 subnet mask and returns its length.
func maskBits(n *node) (int, bool) {
	mask, ok := n.address()
	if !ok {
		return 0, false
	}
	if mask.Is4() && !mask.IsUnspecified() {
		b := mask.As4()
		v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		if ones := bits.LeadingZeros32(^v); v == math.MaxUint32<<(32-ones) {
			return ones, true
		}
	}
	n.rejectAs(mask.String(), "a contiguous subnet mask that is not empty")
	return 0, false
}
