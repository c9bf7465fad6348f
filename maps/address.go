package maps

import (
	"encoding/binary"
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
