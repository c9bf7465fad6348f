package policy

import (
	"net/netip"
	"slices"
)

// Lookup decides f from the tables, as the kernel does. It reads f's address
// only: a flow without a valid address matches nothing.
func (c *Compiled) Lookup(f Flow) Decision {
	f = f.canonical()
	prefixes := c.IPv6
	if f.Addr.Is4() {
		prefixes = c.IPv4
	}
	row, ok := longestPrefix(prefixes, f.Addr)
	if !ok {
		return noMatch()
	}
	cell := c.Verdicts[row+uint32(c.Ports.Of(f.Protocol, f.Port))]
	if cell == 0 {
		return noMatch()
	}
	return c.Entries[cell-1].Decision()
}

// longestPrefix returns the row of the longest prefix that holds addr.
func longestPrefix(rows []PrefixRow, addr netip.Addr) (uint32, bool) {
	// Every prefix that holds addr also holds the last one that sorts before
	// it, so it is no longer than what those two have in common.
	for bits := addr.BitLen(); bits >= 0 && addr.IsValid(); {
		want := netip.PrefixFrom(addr, bits).Masked()
		i, found := slices.BinarySearchFunc(rows, want, func(r PrefixRow, want netip.Prefix) int {
			return r.Prefix.Compare(want)
		})
		switch {
		case found:
			return rows[i].Row, true
		case i == 0:
			return 0, false
		case rows[i-1].Prefix.Contains(addr):
			return rows[i-1].Row, true
		}
		bits = firstOf(rows[i-1].Prefix.Addr()).commonBits(firstOf(addr))
	}
	return 0, false
}
