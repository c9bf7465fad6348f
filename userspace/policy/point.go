package policy

import (
	"cmp"
	"math"
	"math/bits"
	"net/netip"
)

// point is a place on a line of 2^128 places, most significant half first.
// An IPv6 address is a point. An IPv4 address is the block of points that
// begin with its 32 bits, so that prefix lengths mean the same on both lines.
type point struct {
	hi, lo uint64
}

// lastPoint returns the end of the line.
func lastPoint() point { return point{math.MaxUint64, math.MaxUint64} }

// firstOf returns the first point of addr.
func firstOf(addr netip.Addr) point {
	var p point
	if addr.Is4() {
		for _, b := range addr.As4() {
			p.hi = p.hi<<8 | uint64(b)
		}
		p.hi <<= 32
		return p
	}
	octets := addr.As16()
	for i := range 8 {
		p.hi = p.hi<<8 | uint64(octets[i])
		p.lo = p.lo<<8 | uint64(octets[i+8])
	}
	return p
}

// lastOf returns the last point of addr.
func lastOf(addr netip.Addr) point {
	return firstOf(addr).end(addr.BitLen())
}

// addr returns the address that begins at p.
func (p point) addr(is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{byte(p.hi >> 56), byte(p.hi >> 48), byte(p.hi >> 40), byte(p.hi >> 32)})
	}
	var octets [16]byte
	for i := range 8 {
		octets[i] = byte(p.hi >> (56 - 8*i))
		octets[i+8] = byte(p.lo >> (56 - 8*i))
	}
	return netip.AddrFrom16(octets)
}

// compare orders points along the line.
func (p point) compare(q point) int {
	if p.hi != q.hi {
		return cmp.Compare(p.hi, q.hi)
	}
	return cmp.Compare(p.lo, q.lo)
}

// next returns the point after p, which must not be the last.
func (p point) next() point {
	lo, carry := bits.Add64(p.lo, 1, 0)
	return point{p.hi + carry, lo}
}

// previous returns the point before p, which must not be the first.
func (p point) previous() point {
	lo, borrow := bits.Sub64(p.lo, 1, 0)
	return point{p.hi - borrow, lo}
}

// octet returns an octet of p, counted from the least significant.
func (p point) octet(i int) uint8 {
	if i >= 8 {
		return uint8(p.hi >> (8 * (i - 8)))
	}
	return uint8(p.lo >> (8 * i))
}

// minus returns the distance from q to p, which must not be before q.
func (p point) minus(q point) point {
	lo, borrow := bits.Sub64(p.lo, q.lo, 0)
	return point{p.hi - q.hi - borrow, lo}
}

// end returns the last point of the prefix of n bits that begins at p.
func (p point) end(n int) point {
	if n >= 64 {
		return point{p.hi, p.lo | math.MaxUint64>>(n-64)}
	}
	return point{p.hi | math.MaxUint64>>n, math.MaxUint64}
}

// prefixBits returns the length of the shortest prefix that begins at p and
// does not reach beyond last.
func (p point) prefixBits(last point) int {
	aligned := bits.TrailingZeros64(p.lo) // as many low bits as p leaves free
	if p.lo == 0 {
		aligned = 64 + bits.TrailingZeros64(p.hi)
	}
	size := last.minus(p) // less by one than the number of points
	if size == lastPoint() {
		return 0
	}
	size = size.next()
	room := bits.Len64(size.lo) - 1
	if size.hi != 0 {
		room = 63 + bits.Len64(size.hi)
	}
	return 128 - min(aligned, room)
}

// commonBits returns how many leading bits p and q share.
func (p point) commonBits(q point) int {
	if p.hi != q.hi {
		return bits.LeadingZeros64(p.hi ^ q.hi)
	}
	return 64 + bits.LeadingZeros64(p.lo^q.lo)
}

// weight returns about how many points there are from p to last.
func (p point) weight(last point) float64 {
	d := last.minus(p)
	return math.Ldexp(float64(d.hi), 64) + float64(d.lo) + 1
}
