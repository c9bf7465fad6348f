package testutil

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Datagram is a UDP datagram as a target sees it.
type Datagram struct {
	From, To netip.AddrPort
	Payload  []byte // valid until the answer is made
}

// Datagrams answers each datagram to port, of any of the namespace's addresses,
// with what answer makes of it, from the address that it was sent to. An answer
// of nil is none. At the end of the test the sockets are closed and their
// goroutines waited for.
func Datagrams(t testing.TB, ns *netns.Namespace, port int, answer func(Datagram) []byte) {
	t.Helper()
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	for _, family := range []struct {
		network string
		serve   func(*net.UDPConn, func(Datagram) []byte)
	}{{"udp4", serve4}, {"udp6", serve6}} {
		addr := net.UDPAddr{Port: port}
		conn, err := ns.ListenPacket(t.Context(), family.network, addr.String())
		if err != nil {
			t.Fatal(err)
		}
		udp := conn.(*net.UDPConn)
		udp.SetReadBuffer(4 << 20) // or as much as a namespace may
		running.Go(func() { family.serve(udp, answer) })
		t.Cleanup(func() { conn.Close() })
	}
}

// EchoDatagrams answers each datagram to port with itself.
func EchoDatagrams(t testing.TB, ns *netns.Namespace, port int) {
	t.Helper()
	Datagrams(t, ns, port, func(d Datagram) []byte { return d.Payload })
}

func serve4(conn *net.UDPConn, answer func(Datagram) []byte) {
	packets := ipv4.NewPacketConn(conn)
	if packets.SetControlMessage(ipv4.FlagDst, true) != nil {
		return
	}
	buf := make([]byte, 1<<16)
	for {
		n, control, from, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		to, _ := netip.AddrFromSlice(control.Dst)
		if reply := answer(datagramAt(conn, from, to, buf[:n])); reply != nil {
			// One that is not sent is lost, as datagrams are.
			packets.WriteTo(reply, &ipv4.ControlMessage{Src: control.Dst}, from)
		}
	}
}

func serve6(conn *net.UDPConn, answer func(Datagram) []byte) {
	packets := ipv6.NewPacketConn(conn)
	if packets.SetControlMessage(ipv6.FlagDst, true) != nil || answerFromAnywhere(conn) != nil {
		return
	}
	buf := make([]byte, 1<<16)
	for {
		n, control, from, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		to, _ := netip.AddrFromSlice(control.Dst)
		if reply := answer(datagramAt(conn, from, to, buf[:n])); reply != nil {
			packets.WriteTo(reply, &ipv6.ControlMessage{Src: control.Dst}, from)
		}
	}
}

// answerFromAnywhere lets answers come from addresses that only a route makes the
// namespace's own, as [AnswerAll] does.
func answerFromAnywhere(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	})
	return errors.Join(err, failed)
}

func datagramAt(conn *net.UDPConn, from net.Addr, to netip.Addr, payload []byte) Datagram {
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	return Datagram{
		From:    unmapped(from.(*net.UDPAddr).AddrPort()),
		To:      netip.AddrPortFrom(to.Unmap(), port),
		Payload: payload,
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
