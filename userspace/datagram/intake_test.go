package datagram

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// put writes a message as the kernel would.
func (in *intake) put(i int, source, origDst string, segment int, payload string) {
	h := &in.headers[i]
	in.names[i], h.Namelen = nameOf(netip.MustParseAddrPort(source))
	var c control
	if segment > 0 {
		c.add(unix.SOL_UDP, unix.UDP_GRO, []byte{byte(segment), 0, 0, 0})
	}
	if origDst != "" {
		n, length := nameOf(netip.MustParseAddrPort(origDst))
		c.add(unix.SOL_IP, unix.IP_ORIGDSTADDR, n[:length])
	}
	h.SetControllen(copy(in.control[i][:], c.room[:c.length]))
	h.Length = uint32(copy(in.room[i*longest:], payload))
}

func TestMessagesOfAFlowAreHandedOnTogether(t *testing.T) {
	const a, b, far = "10.0.0.1:1", "10.0.0.2:1", "203.0.113.1:53"
	in := &intake{room: make([]byte, slots*longest)}
	in.put(0, a, far, 0, "one")
	in.put(1, a, far, 2, "aabbc")
	in.put(2, a, "", 0, "to nobody knows where")
	in.put(3, "10.0.0.1:0", far, 0, "from nobody knows where")
	in.put(4, a, far, 5, "whole")
	in.put(5, b, far, 0, "")
	in.put(6, a, "203.0.113.1:54", 0, "two")
	in.put(7, a, far, 0, "of an earlier call")
	var got []string
	in.deliver(7, func(arrival arrival) {
		got = append(got, fmt.Sprintf("%v to %v: %q", arrival.key.Source, arrival.key.OrigDst, arrival.batch))
	})
	want := []string{
		a + " to " + far + `: ["one" "aa" "bb" "c" "whole"]`,
		b + " to " + far + `: [""]`,
		a + ` to 203.0.113.1:54: ["two"]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	in.deliver(0, func(arrival) { t.Error("something is handed on out of nothing") })
}
