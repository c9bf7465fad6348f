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

func TestTrainsHoldWhatTheKernelTakes(t *testing.T) {
	many := func(n, size int) (batch [][]byte) {
		for range n {
			batch = append(batch, make([]byte, size))
		}
		return batch
	}
	tests := map[string]struct {
		batch       [][]byte
		largest     int
		count, size int
	}{
		"one":                    {many(1, 100), trainSize, 1, 100},
		"equal ones":             {many(10, 100), trainSize, 10, 1000},
		"a shorter one ends it":  {append(many(2, 100), make([]byte, 50), make([]byte, 50)), trainSize, 3, 250},
		"a longer one is next":   {append(many(2, 100), make([]byte, 101)), trainSize, 2, 200},
		"an empty one is next":   {append(many(2, 100), nil), trainSize, 2, 200},
		"an empty one alone":     {[][]byte{nil, nil}, trainSize, 1, 0},
		"not more than it takes": {many(100, 100), trainSize, trainLength, 100 * trainLength},
		"not longer than IP":     {many(60, 1400), trainSize, 46, 46 * 1400},
		"too long for trains":    {many(3, 1400), 1399, 1, 1400},
	}
	for name, test := range tests {
		if count, size := train(test.batch, test.largest); count != test.count || size != test.size {
			t.Errorf("%s: %d datagrams of %d bytes, want %d of %d", name, count, size, test.count, test.size)
		}
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
