package datagram

import (
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// family is AF_INET or AF_INET6.
type family int

const (
	ipv4 family = unix.AF_INET
	ipv6 family = unix.AF_INET6
)

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return ipv4
	}
	return ipv6
}

const (
	slots       = 16       // messages of one recvmmsg(2)
	longest     = 64 << 10 // a datagram, or a train of them
	controlRoom = 128      // bytes of control messages, more than any mix of those asked for

	sendSlots = 64 // datagrams of one sendmmsg(2)
)

// name is room for a struct sockaddr_in or sockaddr_in6.
type name [unix.SizeofSockaddrInet6]byte

// Places in both of them: the port is in network byte order.
const (
	portAt  = 2
	addr4At = 4
	addr6At = 8
)

// nameOf is addr as system calls want it, and its length.
func nameOf(addr netip.AddrPort) (n name, length uint32) {
	f := familyOf(addr.Addr())
	*(*uint16)(unsafe.Pointer(&n)) = uint16(f)
	n[portAt], n[portAt+1] = byte(addr.Port()>>8), byte(addr.Port())
	if f == ipv4 {
		a := addr.Addr().As4()
		copy(n[addr4At:], a[:])
		return n, unix.SizeofSockaddrInet4
	}
	a := addr.Addr().As16()
	copy(n[addr6At:], a[:])
	return n, unix.SizeofSockaddrInet6
}

// addrPort reads a struct sockaddr_in or sockaddr_in6. The scope of an address is
// of no meaning in an enclave.
func addrPort(p []byte) (netip.AddrPort, bool) {
	if len(p) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, false
	}
	port := uint16(p[portAt])<<8 | uint16(p[portAt+1])
	switch family(*(*uint16)(unsafe.Pointer(unsafe.SliceData(p)))) {
	case ipv4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[addr4At:])), port), true
	case ipv6:
		if len(p) < unix.SizeofSockaddrInet6 {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[addr6At:addr6At+16])).Unmap(), port), true
	}
	return netip.AddrPort{}, false
}

// meta is what control messages say of a message.
type meta struct {
	origDst netip.AddrPort
	segment int // length of the datagrams of a train but the last; 0 is no train
}

// readControl reads the control messages of one message. What is malformed or not
// asked for says nothing.
func readControl(p []byte) (m meta) {
	for len(p) >= unix.SizeofCmsghdr {
		head, body, rest, err := unix.ParseOneSocketControlMessage(p)
		if err != nil {
			return m
		}
		switch {
		case head.Level == unix.SOL_IP && head.Type == unix.IP_ORIGDSTADDR,
			head.Level == unix.SOL_IPV6 && head.Type == unix.IPV6_ORIGDSTADDR:
			m.origDst, _ = addrPort(body)
		case head.Level == unix.SOL_UDP && head.Type == unix.UDP_GRO && len(body) >= 4:
			m.segment = int(*(*int32)(unsafe.Pointer(unsafe.SliceData(body))))
		}
		p = rest
	}
	return m
}

// noFamily reports whether err says that there is no IPv6 here.
func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}
