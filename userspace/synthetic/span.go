package synthetic

import (
	"fmt"
	"net/netip"
)

// The sizes of an IPv4 prefix that make a pool: from all of 10.0.0.0/8 to two
// addresses between the first and the last.
const (
	minBits = 8
	maxBits = 30
)

// span is the addresses of a pool, which are numbered by their offset in the
// IPv4 prefix.
type span struct {
	ipv4, ipv6  netip.Prefix
	first, last uint32 // that can be given out
	reserved    map[uint32]bool
	capacity    int
}

func newSpan(ipv4, ipv6 netip.Prefix, reserved []netip.Addr) (*span, error) {
	switch {
	case !ipv4.IsValid() || !ipv4.Addr().Is4() || ipv4.Bits() < minBits || ipv4.Bits() > maxBits:
		return nil, fmt.Errorf("use %s as a pool: want an IPv4 prefix of %d to %d bits", ipv4, minBits, maxBits)
	case ipv4 != ipv4.Masked():
		return nil, fmt.Errorf("use %s as a pool: host bits are set", ipv4)
	case !ipv4.Addr().IsGlobalUnicast():
		return nil, fmt.Errorf("use %s as a pool: want unicast addresses", ipv4)
	}
	hostBits := 32 - ipv4.Bits()
	if ipv6 != (netip.Prefix{}) {
		switch {
		case !ipv6.IsValid() || ipv6.Addr().Is4() || ipv6.Addr().Is4In6() || ipv6.Bits() > 128-hostBits:
			return nil, fmt.Errorf("use %s as a pool: want an IPv6 prefix of at most %d bits", ipv6, 128-hostBits)
		case ipv6 != ipv6.Masked():
			return nil, fmt.Errorf("use %s as a pool: host bits are set", ipv6)
		case !ipv6.Addr().IsGlobalUnicast():
			return nil, fmt.Errorf("use %s as a pool: want unicast addresses", ipv6)
		}
	}
	s := &span{ipv4: ipv4, ipv6: ipv6, first: 1, last: 1<<hostBits - 2, reserved: make(map[uint32]bool)}
	for _, addr := range reserved {
		if n, ok := s.number(addr); ok {
			s.reserved[n] = true
		}
	}
	s.capacity = min(int(s.last)-len(s.reserved), MaxNames)
	if s.capacity == 0 {
		return nil, fmt.Errorf("use %s as a pool: every address is reserved", ipv4)
	}
	return s, nil
}

// contains reports whether addr is in one of the prefixes.
func (s *span) contains(addr netip.Addr) bool {
	addr = addr.Unmap()
	return s.ipv4.Contains(addr) || s.ipv6.Contains(addr)
}

// number returns the number of an address that is given out, or would be were
// it not reserved.
func (s *span) number(addr netip.Addr) (n uint32, ok bool) {
	addr = addr.Unmap()
	octets := addr.As16()
	for _, octet := range octets[12:] {
		n = n<<8 | uint32(octet)
	}
	n &= 1<<(32-s.ipv4.Bits()) - 1
	if n < s.first || n > s.last {
		return 0, false
	}
	a := s.address(n)
	return n, addr == a.IPv4 || addr == a.IPv6 && addr.IsValid()
}

// address returns the addresses of a number.
func (s *span) address(n uint32) (a Address) {
	ipv4 := s.ipv4.Addr().As4()
	setLow(ipv4[:], n)
	a.IPv4 = netip.AddrFrom4(ipv4)
	if s.ipv6.IsValid() {
		ipv6 := s.ipv6.Addr().As16()
		setLow(ipv6[12:], n)
		a.IPv6 = netip.AddrFrom16(ipv6)
	}
	return a
}

// setLow sets the bits of n in four octets that have none of them.
func setLow(octets []byte, n uint32) {
	for i := range octets {
		octets[i] |= byte(n >> (24 - 8*i))
	}
}
