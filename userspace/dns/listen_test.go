package dns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestPortsAreConsecutiveAndComeBack(t *testing.T) {
	var controlled atomic.Int64
	o := Options{Control: func(_, _ string, c syscall.RawConn) error {
		controlled.Add(1)
		return nil
	}}
	first, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	port, v6 := first.Port()
	if v6 != port || len(first.sockets) != Ports {
		t.Errorf("ports %d and %d of %d sockets", port, v6, len(first.sockets))
	}
	for i, s := range first.sockets {
		if s.port != port+uint16(i) {
			t.Errorf("socket %d has port %d, after %d", i, s.port, port)
		}
	}
	o.FirstPort = port
	other, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := other.Port(); p == port {
		t.Error("both have the same ports")
	}
	if err := errors.Join(first.Close(), first.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := again.Port(); p != port {
		t.Errorf("port %d, want the former %d", p, port)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if n := controlled.Load(); n < 3*Ports {
		t.Errorf("%d sockets were controlled", n)
	}
	refusal := errors.New("no stamp")
	o.Control = func(string, string, syscall.RawConn) error { return refusal }
	if s, err := Listen(t.Context(), o); !errors.Is(err, refusal) || s != nil {
		t.Errorf("Listen returned %v, %v", s, err)
	}
}

func TestNothingOfTheNetworkGetsIn(t *testing.T) {
	testutil.Privileged(t)
	own, peer := testutil.Netns(t), testutil.Netns(t)
	addr := netip.MustParseAddr
	testutil.Veth(t,
		netns.End{Namespace: own, Name: "own0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		netns.End{Namespace: peer, Name: "peer0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}},
	)
	var s *Server
	if err := own.Do(func() (err error) {
		s, err = Listen(t.Context(), Options{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	port, _ := s.Port()
	for _, to := range []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")} {
		for _, from := range []*netns.Namespace{peer, own} { // what comes last is what is read first
			if err := from.Do(func() error {
				conn, err := net.Dial("udp", netip.AddrPortFrom(to, port).String())
				if err != nil {
					return err
				}
				defer conn.Close()
				text := "network"
				if from == own {
					text = "own"
				}
				_, err = io.WriteString(conn, text)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		conn := s.sockets[0].conn
		conn.SetReadDeadline(time.Now().Add(patience))
		buffer := make([]byte, 100)
		n, _, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil || string(buffer[:n]) != "own" {
			t.Errorf("at %v came %q, %v", to, buffer[:n], err)
		}
	}
}
