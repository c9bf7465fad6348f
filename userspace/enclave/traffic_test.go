package enclave_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// acqMAC is that of the host's end of a pair.
func acqMAC() net.HardwareAddr { return net.HardwareAddr{0x0a, 0xbf, 0xac, 0, 0, 1} }

// bed is a host that routes some destinations into an enclave, as programs
// redirect them: routes need no program, and get answers where they asked.
type bed struct {
	host *netns.Namespace
	*enclave.Enclave
}

// far are the destinations of the bed.
func far() []string { return []string{"192.168.11.200", "2001:db8:11::200"} }

func newBed(t *testing.T, mtu int) *bed {
	t.Helper()
	b := &bed{host: testutil.Netns(t)}
	b.Enclave = open(t, b.host, enclave.Options{MTU: mtu, MAC: acqMAC()})
	h := handle(t, b.host)
	if err := b.host.AddAddr("lo", netip.MustParsePrefix("10.9.0.2/32")); err != nil {
		t.Fatal(err)
	}
	if err := b.host.AddAddr("lo", netip.MustParsePrefix("fd09::2/128")); err != nil {
		t.Fatal(err)
	}
	err := b.host.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/acq0/disable_ipv6", []byte("0"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range far() {
		addr := netip.MustParseAddr(text)
		if err := b.host.AddRoute("acq0", netns.Route{Prefix: netip.PrefixFrom(addr, addr.BitLen())}); err != nil {
			t.Fatal(err)
		}
		neighbour := &netlink.Neigh{
			LinkIndex: b.Device(), Family: []int{unix.AF_INET, unix.AF_INET6}[i], State: netlink.NUD_PERMANENT,
			IP: addr.AsSlice(), HardwareAddr: b.PeerMAC(),
		}
		if err := h.NeighSet(neighbour); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// transparent lets a socket have addresses that are nobody's.
func transparent(network, _ string, c syscall.RawConn) (err error) {
	return errors.Join(c.Control(func(fd uintptr) {
		if network[len(network)-1] == '6' {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		}
	}), err)
}

func listenInside[T any](t *testing.T, b *bed, listen func(*net.ListenConfig) (T, error)) T {
	t.Helper()
	config := net.ListenConfig{Control: transparent}
	config.SetMultipathTCP(false)
	var made T
	err := b.Namespace().Do(func() (err error) {
		made, err = listen(&config)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDatagramsToAnyDestinationAreReceivedAndAnswered(t *testing.T) {
	for _, mtu := range []int{1280, 1500, 9000} {
		b := newBed(t, mtu)
		for i, network := range []string{"udp4", "udp6"} {
			address := net.JoinHostPort(far()[i], "4433")
			inside := listenInside(t, b, func(c *net.ListenConfig) (net.PacketConn, error) {
				return c.ListenPacket(t.Context(), network, address)
			})
			defer inside.Close()
			client, err := b.host.DialContext(t.Context(), network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			limit, _ := deadline(t).Deadline()
			if err := errors.Join(client.SetDeadline(limit), inside.SetDeadline(limit)); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{1, mtu - 48, 4000, 65000} {
				want := bytes.Repeat([]byte{byte(size)}, size)
				if _, err := client.Write(want); err != nil {
					t.Fatalf("%s, MTU %d: send %d bytes: %v", network, mtu, size, err)
				}
				got := make([]byte, 1<<16)
				n, from, err := inside.ReadFrom(got)
				if err != nil || !bytes.Equal(got[:n], want) {
					t.Fatalf("%s, MTU %d: %d of %d bytes arrived: %v", network, mtu, n, size, err)
				}
				if _, err := inside.WriteTo(want, from); err != nil {
					t.Fatalf("%s, MTU %d: answer %d bytes: %v", network, mtu, size, err)
				}
				// Connected, the client takes answers from that address alone.
				if n, err = client.Read(got); err != nil || !bytes.Equal(got[:n], want) {
					t.Fatalf("%s, MTU %d: %d of %d bytes came back: %v", network, mtu, n, size, err)
				}
			}
		}
	}
}

func TestConnectionsToAnyDestinationAreAccepted(t *testing.T) {
	b := newBed(t, 1500)
	for i, network := range []string{"tcp4", "tcp6"} {
		address := net.JoinHostPort(far()[i], "443")
		inside := listenInside(t, b, func(c *net.ListenConfig) (net.Listener, error) {
			return c.Listen(t.Context(), network, ":443")
		})
		defer inside.Close()
		client, err := b.host.DialContext(deadline(t), network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		accepted, err := inside.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if got := accepted.LocalAddr().String(); got != address {
			t.Errorf("%s: the accepted socket is %s, the client dialled %s", network, got, address)
		}
		limit, _ := deadline(t).Deadline()
		if err := errors.Join(client.SetDeadline(limit), accepted.SetDeadline(limit)); err != nil {
			t.Fatal(err)
		}
		if _, err := accepted.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(client, got); err != nil || string(got) != "hello" {
			t.Errorf("%s: the client got %q, %v", network, got, err)
		}
		segment := 0
		raw, _ := client.(*net.TCPConn).SyscallConn()
		raw.Control(func(fd uintptr) { segment, err = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_MAXSEG) })
		if want := 1500 - []int{40, 60}[i] - 12; err != nil || segment != want { // 12 of timestamps
			t.Errorf("%s: segments of %d bytes, %v; want %d", network, segment, err, want)
		}
	}
}

// Refusals are answered however many there are: the host's limit of ICMP messages
// is a thousand a second.
func TestEveryRefusedDatagramIsAnsweredAtOnce(t *testing.T) {
	b := newBed(t, 1500)
	for i, network := range []string{"udp4", "udp6"} {
		client, err := b.host.DialContext(t.Context(), network, net.JoinHostPort(far()[i], "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		limit, _ := deadline(t).Deadline()
		if err := client.SetDeadline(limit); err != nil {
			t.Fatal(err)
		}
		for n := range 1200 {
			if _, err := client.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("%s: datagram %d is answered with %v, want ECONNREFUSED", network, n, err)
			}
		}
	}
}

func TestRefusedConnectionIsResetAtOnce(t *testing.T) {
	b := newBed(t, 1500)
	for i, network := range []string{"tcp4", "tcp6"} {
		conn, err := b.host.DialContext(deadline(t), network, net.JoinHostPort(far()[i], "9"))
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: dialled where nobody listens: %v, want ECONNREFUSED", network, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}
