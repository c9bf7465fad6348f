package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// The lengths of the prefixes that synthetic addresses can come from: the
// shortest leaves the rest of the family alone, the longest still has room for
// a few names.
const (
	shortestPool4, longestPool4 = 8, 30
	shortestPool6, longestPool6 = 48, 124
)

// CheckPool returns why synthetic addresses cannot come from pool, or nil.
//
// An IPv4 pool has a prefix of 8 to 30 bits; an IPv6 pool is a unique local
// prefix (RFC 4193) of 48 to 124 bits. Neither has host bits. A pool overlaps
// nothing of [NeverAcquired], and no address range of a Tunnel rule of p: both
// would be out of reach. Ranges of a whole address family do not count, as they
// mean whatever else there is. Other protections and private DNS servers may
// lie in the pool, see [Policy.Reserved].
func CheckPool(p *Policy, pool netip.Prefix) error {
	if err := checkPrefix(pool); err != nil {
		return fmt.Errorf("use %s for synthetic addresses: %w", pool, err)
	}
	for _, never := range NeverAcquired() {
		if never.Prefix.Overlaps(pool) {
			return fmt.Errorf("use %s for synthetic addresses: it overlaps %s, which is never acquired (%s)",
				pool, never.Prefix, never.Reason)
		}
	}
	addrs := rangeOf(pool)
	for _, rule := range p.Rules {
		if rule.Action != ActionTunnel {
			continue
		}
		for _, r := range rule.Addrs {
			if r.overlaps(addrs) && !r.wholeFamily() {
				return fmt.Errorf("use %s for synthetic addresses: it overlaps %s of tunnel rule %q", pool, r, rule.ID)
			}
		}
	}
	return nil
}

// checkPrefix returns why a prefix alone is no pool, or nil.
func checkPrefix(pool netip.Prefix) error {
	addr, bits := pool.Addr(), pool.Bits()
	shortest, longest := shortestPool4, longestPool4
	if addr.Is6() {
		shortest, longest = shortestPool6, longestPool6
	}
	switch {
	case !pool.IsValid() || addr.Is4In6():
		return fmt.Errorf("want a prefix of IPv4 or IPv6 addresses")
	case pool != pool.Masked():
		return fmt.Errorf("want no host bits, as in %s", pool.Masked())
	case addr.Is6() && !addr.IsPrivate():
		return fmt.Errorf("want a prefix in fc00::/7, the unique local addresses")
	case bits < shortest:
		return fmt.Errorf("want at least /%d, which is a smaller prefix", shortest)
	case bits > longest:
		return fmt.Errorf("want at most /%d, which is a larger prefix", longest)
	}
	return nil
}

// Reserved returns the addresses of pool that no name may get, sorted: those of
// private DNS servers, and those of protected destinations that are one address.
func (p *Policy) Reserved(pool netip.Prefix) []netip.Addr {
	var addrs []netip.Addr
	for _, rule := range p.PrivateDNS {
		if pool.Contains(rule.Server) {
			addrs = append(addrs, rule.Server)
		}
	}
	for _, protected := range p.Protected {
		if protected.Prefix.IsSingleIP() && pool.Contains(protected.Prefix.Addr()) {
			addrs = append(addrs, protected.Prefix.Addr())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// overlaps reports whether two ranges share an address.
func (r AddrRange) overlaps(other AddrRange) bool {
	return r.First.BitLen() == other.First.BitLen() &&
		r.First.Compare(other.Last) <= 0 && other.First.Compare(r.Last) <= 0
}

// wholeFamily reports whether r holds all addresses of its family.
func (r AddrRange) wholeFamily() bool {
	return firstOf(r.First) == point{} && lastOf(r.Last) == lastPoint()
}
