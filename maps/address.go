package maps

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/bpfacq/bpfacq/bpf"
)

// wirePort turns a port from host to network byte order or back. The
// generated types carry a __be16 as a plain uint16 of this little-endian host.
func wirePort(port uint16) uint16 { return bits.ReverseBytes16(port) }

// addrPort reads an address and a port as the datapath stores them: 16 bytes,
// IPv4 as IPv4-mapped, and a port in network byte order.
func addrPort(addr [16]uint8, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), wirePort(port))
}

// key4 is the trie key of an IPv4 prefix.
func key4(p netip.Prefix) bpf.SocketPrefix4 {
	return bpf.SocketPrefix4{Len: uint32(p.Bits()), Addr: p.Addr().As4()}
}

// key6 is the trie key of an IPv6 prefix.
func key6(p netip.Prefix) bpf.SocketPrefix6 {
	return bpf.SocketPrefix6{Len: uint32(p.Bits()), Addr: p.Addr().As16()}
}

func prefix4(k bpf.SocketPrefix4) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4(k.Addr), int(k.Len))
}

func prefix6(k bpf.SocketPrefix6) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(k.Addr), int(k.Len))
}

// text writes s into a fixed array of C characters, cut before the last byte,
// which stays zero.
func text(dst []int8, s string) {
	clear(dst)
	for i := range min(len(s), len(dst)-1) {
		dst[i] = int8(s[i])
	}
}

// untext reads what text wrote.
func untext(src []int8) string {
	buf := make([]byte, 0, len(src))
	for _, c := range src {
		if c == 0 {
			break
		}
		buf = append(buf, byte(c))
	}
	return string(buf)
}

// word32 and word64 are the memory images of one aligned host-order word.
func word32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func word64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// rawPools is what the programs filter UDP by.
func rawPools(pools []netip.Prefix) (raw bpf.SocketPools, err error) {
	for _, pool := range pools {
		switch {
		case !pool.IsValid() || pool.Bits() == 0:
			return raw, fmt.Errorf("pool %s is no part of the address space", pool)
		case pool.Addr().Is4() && raw.Mask4 == 0:
			addr := pool.Masked().Addr().As4()
			raw.Addr4 = binary.NativeEndian.Uint32(addr[:])
			raw.Mask4 = bits.ReverseBytes32(^uint32(0) << (32 - pool.Bits()))
		case pool.Addr().Is6() && raw.Mask6 == [2]uint64{}:
			addr := pool.Masked().Addr().As16()
			for half := range raw.Addr6 {
				raw.Addr6[half] = binary.NativeEndian.Uint64(addr[half*8:])
				ones := min(max(pool.Bits()-half*64, 0), 64)
				raw.Mask6[half] = bits.ReverseBytes64(^uint64(0) << (64 - ones))
			}
		default:
			return raw, fmt.Errorf("pool %s is a second one of its family", pool)
		}
	}
	return raw, nil
}

// newPools reads what rawPools wrote.
func newPools(raw *bpf.SocketAgent) (pools []netip.Prefix) {
	if ones := bits.OnesCount32(raw.Pools.Mask4); ones > 0 {
		addr := binary.NativeEndian.AppendUint32(nil, raw.Pools.Addr4)
		pools = append(pools, netip.PrefixFrom(netip.AddrFrom4([4]byte(addr)), ones))
	}
	if ones := bits.OnesCount64(raw.Pools.Mask6[0]) + bits.OnesCount64(raw.Pools.Mask6[1]); ones > 0 {
		addr := binary.NativeEndian.AppendUint64(nil, raw.Pools.Addr6[0])
		addr = binary.NativeEndian.AppendUint64(addr, raw.Pools.Addr6[1])
		pools = append(pools, netip.PrefixFrom(netip.AddrFrom16([16]byte(addr)), ones))
	}
	return pools
}
