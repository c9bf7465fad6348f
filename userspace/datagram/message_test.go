package datagram

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNamesAreReadAsTheyWereWritten(t *testing.T) {
	for _, text := range []string{"192.0.2.1:53", "0.0.0.0:65535", "[2001:db8::1]:443", "[::1]:1"} {
		want := netip.MustParseAddrPort(text)
		n, length := nameOf(want)
		if got, ok := addrPort(n[:length]); !ok || got != want {
			t.Errorf("%s is read as %v, %t", text, got, ok)
		}
		if got, ok := addrPort(n[:length-1]); ok {
			t.Errorf("%s without its last byte is read as %v", text, got)
		}
	}
	mapped, length := nameOf(netip.MustParseAddrPort("[::ffff:192.0.2.1]:53"))
	if got, ok := addrPort(mapped[:length]); !ok || got != netip.MustParseAddrPort("192.0.2.1:53") {
		t.Errorf("an IPv4-mapped address is read as %v, %t", got, ok)
	}
}

// FuzzControl looks for control messages that are read beyond their end.
func FuzzControl(f *testing.F) {
	var c control
	c.add(unix.SOL_UDP, unix.UDP_GRO, []byte{0xb0, 0x04, 0, 0})
	n, _ := nameOf(netip.MustParseAddrPort("192.0.2.1:53"))
	c.add(unix.SOL_IP, unix.IP_ORIGDSTADDR, n[:unix.SizeofSockaddrInet4])
	f.Add(c.room[:c.length])
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		m := readControl(p)
		if m.origDst.IsValid() && len(p) < unix.SizeofSockaddrInet4 {
			t.Errorf("%v out of %d bytes", m.origDst, len(p))
		}
		if !bytes.Equal(before, p) {
			t.Error("what is read was changed")
		}
	})
	if m := readControl(c.room[:c.length]); m.segment != 1200 || m.origDst != netip.MustParseAddrPort("192.0.2.1:53") {
		f.Errorf("read %+v", m)
	}
}
