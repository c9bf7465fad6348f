package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// marked sends a word to an address with a traffic class of its own, ECN bits and
// all, and says of the answer what control messages tell: its class, to which
// address it came and by which device.
func (s *spoken) marked(words []string) (string, error) {
	class, err := strconv.Atoi(words[1])
	if err != nil {
		return "", err
	}
	level, tos, tell := unix.IPPROTO_IP, unix.IP_TOS, []int{unix.IP_RECVTOS, unix.IP_PKTINFO}
	if s.is6 {
		level, tos, tell = unix.IPPROTO_IPV6, unix.IPV6_TCLASS, []int{unix.IPV6_RECVTCLASS, unix.IPV6_RECVPKTINFO}
	}
	for _, option := range tell {
		if err := unix.SetsockoptInt(s.fd, level, option, 1); err != nil {
			return "", err
		}
	}
	if err := unix.Sendmsg(s.fd, []byte("class"), classMessage(level, tos, class), s.sockaddr(words[0]), 0); err != nil {
		return "", err
	}
	control := make([]byte, 256)
	var n, told int
	err = uninterrupted(func() (err error) {
		n, told, _, _, err = unix.Recvmsg(s.fd, s.buf, control, 0)
		return err
	})
	if err != nil {
		return "", err
	}
	where, err := describeControl(control[:told])
	return fmt.Sprintf("%s; answer %s", s.buf[:n], where), err
}

// pinned echoes a word that leaves by a device and from a source that a control
// message says.
func (s *spoken) pinned(words []string) (string, error) {
	device, err := net.InterfaceByName(words[1])
	if err != nil {
		return "", err
	}
	source, err := netip.ParseAddr(words[2])
	if err != nil {
		return "", err
	}
	var control []byte
	if s.is6 {
		control = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16(), Ifindex: uint32(device.Index)})
	} else {
		control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4(), Ifindex: int32(device.Index)})
	}
	if err := unix.Sendmsg(s.fd, []byte("pinned"), control, s.sockaddr(words[0]), 0); err != nil {
		return "", err
	}
	got, from, err := s.receive()
	return echoed(from.String(), len(got)), err
}

// classMessage is the control message of a traffic class.
func classMessage(level, kind, class int) []byte {
	message := make([]byte, unix.CmsgSpace(4))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&message[0]))
	header.Level, header.Type = int32(level), int32(kind)
	header.SetLen(unix.CmsgLen(4))
	*(*int32)(unsafe.Pointer(&message[unix.CmsgLen(0)])) = int32(class)
	return message
}

// describeControl puts control messages into words.
func describeControl(control []byte) (string, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return "", err
	}
	var class int
	var to netip.Addr
	var device string
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS:
			class = int(m.Data[0])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS:
			class = int(*(*int32)(unsafe.Pointer(&m.Data[0])))
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			found := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			to, device = netip.AddrFrom4(found.Addr), deviceName(int(found.Ifindex))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			found := (*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0]))
			to, device = netip.AddrFrom16(found.Addr), deviceName(int(found.Ifindex))
		}
	}
	return fmt.Sprintf("of class %d to %s by %s", class, to, device), nil
}

func deviceName(index int) string {
	device, err := net.InterfaceByIndex(index)
	if err != nil {
		return err.Error()
	}
	return device.Name
}
