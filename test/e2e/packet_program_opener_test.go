package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
)

// A server that speaks without being asked is not taken for one that asks, because
// its clients were not yet heard when learning began.
func TestServersThatSpeakFirstAreFound(t *testing.T) {
	p := newProgramBed(t, loader.Options{})
	server, err := p.ns.ListenPacket(t.Context(), "udp4", ownAddr4+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(ioTimeout))
	now, err := maps.Monotonic()
	if err == nil {
		err = p.datapath.Maps.SetLearnFrom(now)
	}
	if err != nil {
		t.Fatal(err)
	}
	client := p.wireSocket(t, 0)
	p.exchangeWith(t, server, client.LocalAddr().String())
	p.wantAnswered(t, server, client)
}

// wantAnswered has a client on the wire ask a server of the host, and get an answer.
func (p *programBed) wantAnswered(t *testing.T, server, client net.PacketConn) {
	t.Helper()
	before := p.counters(t, nil)
	if _, err := client.WriteTo([]byte("question"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "question" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if _, err := server.WriteTo([]byte("answer"), client.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if n, from, err := client.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" || from.String() != server.LocalAddr().String() {
		t.Fatalf("%q of %v, %v", buf[:n], from, err)
	}
	p.wantWays(t, before, "packet_opened", "packet_answer")
}

// A flow that was opened from there ends, and one of the same ends is opened here.
func TestWhatWasAnAnswerIsNoneForever(t *testing.T) {
	p := newProgramBed(t, loader.Options{})
	conn, err := p.ns.ListenPacket(t.Context(), "udp4", ownAddr4+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ioTimeout))
	client := p.wireSocket(t, 0)
	p.wantAnswered(t, conn, client)
	ends := maps.Ends{
		Protocol: maps.UDP, Local: netip.MustParseAddrPort(conn.LocalAddr().String()),
		Remote: netip.MustParseAddrPort(client.LocalAddr().String()),
	}
	if err := p.datapath.Maps.SetOpener(ends, maps.OpenerHere); err != nil {
		t.Fatal(err)
	}
	p.exchangeWith(t, conn, client.LocalAddr().String())

	ends = maps.Ends{
		Protocol: maps.TCP, Local: netip.MustParseAddrPort(boxAddr4 + ":6005"), Remote: netip.MustParseAddrPort(tunnelled4),
	}
	if err := p.datapath.Maps.SetOpener(ends, maps.OpenerThere); err != nil {
		t.Fatal(err)
	}
	before := p.counters(t, nil)
	stream, err := p.dial(t, p.box, "tcp", ends.Local.String(), tunnelled4)
	if err != nil {
		t.Fatal(err)
	}
	if got := converse(t, stream, 0); got != "relay for "+tunnelled4 {
		t.Errorf("connection: %q", got)
	}
	if got := converse(t, stream, 3); got != "\x00\x00\x00" {
		t.Errorf("%q comes back", got)
	}
	p.wantWays(t, before, "packet_acquire")
}

// Without an agent the hooks refuse what the uplink would drop; what a server
// answers it would not.
func TestServersAnswerWithoutAnAgent(t *testing.T) {
	p := newProgramBed(t, loader.Options{})
	p.setLease(t, -time.Second)
	const asker, server = "192.168.12.200:5400", ownAddr4 + ":5401"
	if got := p.exchange(t, "udp4", "send="+asker)[0]; got != p.refusal() {
		t.Errorf("who was not asked sends: %q", got)
	}
	conn, err := p.wire.ListenPacket(t.Context(), "udp4", asker)
	if err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for range again.C { // until the server is there, and the socket here is closed
			if _, err := conn.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(server))); err != nil {
				return
			}
		}
	}()
	defer func() { conn.Close(); <-finished }()
	got := p.exchange(t, "udp4,source="+server, "read", "send="+asker)
	if got[0] != asker+" says question" || got[1] != "sent" {
		t.Fatalf("a server: %q", got)
	}
	conn.SetDeadline(time.Now().Add(ioTimeout))
	buf := make([]byte, 64)
	if n, from, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "question" || from.String() != server {
		t.Errorf("its client hears %q of %v, %v", buf[:n], from, err)
	}
}
