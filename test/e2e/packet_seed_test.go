package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// A connection from a private network to a server behind the host, of before the
// agent started, is none of the agent's.
func TestConnectionsToContainersOutliveTheStart(t *testing.T) {
	const client = "192.168.11.77"
	s := barePacketSite(t)
	s.plug(t)
	s.nft(t, s.host, `table ip shown {
	chain enter {
		type nat hook prerouting priority -100;
		ip daddr `+uplinkAddr4+` tcp dport 5005 dnat to `+container4+`:5005
	}
}
insert rule inet firewall pass ct status dnat accept
`)
	s.furnish(t)
	s.direct = true
	if err := s.wire.AddAddr("lo", netip.MustParsePrefix(client+"/32")); err != nil {
		t.Fatal(err)
	}
	s.nft(t, s.wire, "flush chain inet wire arrive\n") // which would drop the answers
	s.startPacketEdge(t)
	testutil.Echo(t, s.container, container4+":5005")
	var conn net.Conn
	err := s.wire.Do(func() (err error) {
		dialer := &net.Dialer{Timeout: ioTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
		conn, err = dialer.DialContext(t.Context(), "tcp", uplinkAddr4+":5005")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ioTimeout))
	if got := converse(t, conn, 3); got != "\x00\x00\x00" {
		t.Fatalf("before: %q", got)
	}
	s.start(t)
	if got := converse(t, conn, 3); got != "\x00\x00\x00" {
		t.Errorf("after the start: %q", got)
	}
	s.stop(t)
}
