package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// flipTo puts tables in force in which the tunnelled range has another row.
func (p *programBed) flipTo(t *testing.T, row uint32) {
	t.Helper()
	tables := programTables()
	all := tables.IPv4.All
	tables.IPv4.All = func(yield func(netip.Prefix, uint32) bool) {
		for prefix, old := range all {
			if prefix.String() == "192.168.11.0/24" {
				old = row
			}
			if !yield(prefix, old) {
				return
			}
		}
	}
	p.store(t, tables)
	p.flipped = true
}

func (p *programBed) checkConnectionsOfTheHostKeepTheirWay(t *testing.T) {
	open := func() net.Conn {
		conn, err := p.dial(t, p.ns, "tcp", "", tunnelled4)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	acquired := open()
	if got := converse(t, acquired, 0); got != "relay for "+tunnelled4 {
		t.Fatalf("acquired connection: %q", got)
	}
	p.flipTo(t, rowBypass)
	direct := open()
	if got := converse(t, direct, 0); got != "direct" {
		t.Fatalf("bypassed connection: %q", got)
	}
	p.flipTo(t, rowTunnel)
	for name, end := range map[string]func(){
		"alive": func() {}, "dead": func() { p.setLease(t, -time.Second) }, "bypassed": func() { p.flipTo(t, rowBypass) },
	} {
		end()
		for _, conn := range []net.Conn{acquired, direct} {
			if got := converse(t, conn, 3); got != "\x00\x00\x00" {
				t.Errorf("%s: %q comes back", name, got)
			}
		}
	}
}

func (p *programBed) checkConnectionsOfContainersEndWhenTheirWayDoes(t *testing.T) {
	p.flipTo(t, rowBypass)
	conn, err := p.dial(t, p.box, "tcp", "", tunnelled4)
	if err != nil {
		t.Fatal(err)
	}
	if got := converse(t, conn, 0); got != "direct" {
		t.Fatalf("bypassed connection: %q", got)
	}
	p.flipTo(t, rowTunnel)
	before := p.counters(t, nil)
	if got := converse(t, conn, 3); got != "ECONNRESET" {
		t.Errorf("the connection gets %q", got)
	}
	p.wantWays(t, before, "packet_acquire")
}

func (p *programBed) checkDatagramsFollowThePolicyInForce(t *testing.T) {
	for _, ns := range []*netns.Namespace{p.ns, p.box} {
		conn, err := p.dial(t, ns, "udp", "", tunnelled4)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for row, want := range map[uint32]string{
				rowTunnel: relayed(tunnelled4), rowBypass: "direct 1", rowReject: "ECONNREFUSED", rowBlock: relayed(tunnelled4),
			} {
				p.flipTo(t, row)
				for range 3 {
					if got := converse(t, conn, 1); got != want {
						t.Errorf("row %d: %q, want %q", row, got, want)
					}
				}
			}
		}
	}
}

// A socket that sends to many must never take the decision about one for
// another.
func (p *programBed) checkOneSocketSendsEachDatagramItsOwnWay(t *testing.T) {
	datagrams := 500
	if testing.Short() {
		datagrams = 100
	}
	for _, ns := range []*netns.Namespace{p.ns, p.box} {
		conn, err := ns.ListenPacket(t.Context(), "udp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(ioTimeout))
		before := p.counters(t, nil)
		for i := range datagrams {
			want, to := "direct 1", fmt.Sprintf("192.168.13.%d:5000", i%250+1)
			if i%2 == 0 {
				to = fmt.Sprintf("192.168.11.%d:5000", i%250+1)
				want = relayed(to)
			}
			buf := make([]byte, 64)
			if _, err := conn.WriteTo(buf[:1], net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
				t.Fatal(err)
			}
			n, from, err := conn.ReadFrom(buf)
			if err != nil || string(buf[:n]) != want || from.String() != to {
				t.Fatalf("datagram %d to %s: %q of %v, %v", i, to, buf[:n], from, err)
			}
		}
		p.wantWays(t, before, "packet_acquire", "packet_pass")
	}
}

// wireSocket is a socket of a tunnelled address on the wire, which speaks first.
func (p *programBed) wireSocket(t *testing.T, port uint16) *net.UDPConn {
	t.Helper()
	conn, err := p.wire.ListenPacket(t.Context(), "udp4", fmt.Sprintf("192.168.11.200:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(ioTimeout))
	return conn.(*net.UDPConn)
}

func (p *programBed) checkAnswersOfServersGoBackTheWayTheyCame(t *testing.T) {
	for _, side := range []struct {
		name, addr string
		ns         *netns.Namespace
	}{{"host", ownAddr4, p.ns}, {"container", boxAddr4, p.box}} {
		t.Run(side.name, func(t *testing.T) {
			testutil.Datagrams(t, side.ns, 5300, func(testutil.Datagram) []byte { return []byte("answer") })
			server := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(side.addr + ":5300"))
			asker := p.wireSocket(t, 5301)
			before := p.counters(t, nil)
			buf := make([]byte, 64)
			for range 3 {
				if _, err := asker.WriteTo([]byte("question"), server); err != nil {
					t.Fatal(err)
				}
				if n, from, err := asker.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" || from.String() != server.String() {
					t.Fatalf("%q of %v, %v", buf[:n], from, err)
				}
			}
			p.wantWays(t, before, "packet_opened", "packet_answer")

			address := testutil.Banner(t, side.ns, side.addr+":0", "welcome")
			before = p.counters(t, nil)
			conn, err := p.dial(t, p.wire, "tcp", "192.168.11.200:0", address.String())
			if err != nil {
				t.Fatal(err)
			}
			if got := converse(t, conn, 0); got != "welcome" {
				t.Errorf("a server says %q", got)
			}
			p.wantWays(t, before, "packet_answer")
			closed := netip.AddrPortFrom(address.Addr(), 1)
			if _, err := p.dial(t, p.wire, "tcp", "192.168.11.200:0", closed.String()); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("a port where nobody listens says %v", err)
			}
		})
	}
}

// What a destination still says to flows that went direct until now is no
// question, nor is what an enclave answers, nor what somebody sends to a flow that
// was acquired.
func (p *programBed) checkNobodyOpensAFlowThatIsAcquired(t *testing.T) {
	for _, side := range []struct {
		addr string
		ns   *netns.Namespace
	}{{ownAddr4, p.ns}, {boxAddr4, p.box}} {
		before := p.counters(t, nil)
		conn, err := side.ns.ListenPacket(t.Context(), "udp4", side.addr+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(ioTimeout))
		stranger := p.wireSocket(t, 0)
		stranger.Close() // its port is free, and nobody answers there
		remote := stranger.LocalAddr()
		for range 3 {
			p.exchangeWith(t, conn, remote.String())
			again := p.wireSocketAt(t, remote.String())
			if _, err := again.WriteTo([]byte("intrusion"), conn.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			again.Close()
			buf := make([]byte, 64)
			if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "intrusion" {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
		p.wantWays(t, before, "packet_acquire")
	}

	now, err := maps.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.datapath.Maps.SetLearnFrom(now + time.Hour); err != nil {
		t.Fatal(err)
	}
	conn, err := p.ns.ListenPacket(t.Context(), "udp4", ownAddr4+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ioTimeout))
	before := p.counters(t, nil)
	late := p.wireSocket(t, 0)
	if _, err := late.WriteTo([]byte("late"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.ReadFrom(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	p.exchangeWith(t, conn, late.LocalAddr().String())
	p.wantWays(t, before, "packet_acquire")
	// That was a guess, and does not last: who asks again is answered.
	if err := p.datapath.Maps.SetLearnFrom(now); err != nil {
		t.Fatal(err)
	}
	before = p.counters(t, nil)
	if _, err := late.WriteTo([]byte("again"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "again" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if _, err := conn.WriteTo([]byte("answer"), late.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if n, from, err := late.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" || from.String() != conn.LocalAddr().String() {
		t.Fatalf("%q of %v, %v", buf[:n], from, err)
	}
	p.wantWays(t, before, "packet_opened", "packet_answer")
}

func (p *programBed) wireSocketAt(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	return p.wireSocket(t, netip.MustParseAddrPort(address).Port())
}

// exchangeWith asks a destination that must be the relay's.
func (p *programBed) exchangeWith(t *testing.T, conn net.PacketConn, to string) {
	t.Helper()
	if _, err := conn.WriteTo([]byte{0}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != relayed(to) {
		t.Fatalf("%s answers %q, %v", to, buf[:n], err)
	}
}

func (p *programBed) checkOpenersAreRememberedAsTheyAreSet(t *testing.T) {
	conn, err := p.ns.ListenPacket(t.Context(), "udp4", ownAddr4+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ioTimeout))
	remote := p.wireSocket(t, 0)
	ends := maps.Ends{
		Protocol: maps.UDP, Local: netip.MustParseAddrPort(conn.LocalAddr().String()), Remote: netip.MustParseAddrPort(remote.LocalAddr().String()),
	}
	if opener, err := p.datapath.Maps.Opener(ends); err != nil || opener != maps.OpenerNone {
		t.Errorf("before: %s, %v", opener, err)
	}
	if err := p.datapath.Maps.SetOpener(ends, maps.OpenerThere); err != nil {
		t.Fatal(err)
	}
	before := p.counters(t, nil)
	if _, err := conn.WriteTo([]byte("answer"), remote.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, from, err := remote.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" || from.String() != conn.LocalAddr().String() {
		t.Errorf("%q of %v, %v", buf[:n], from, err)
	}
	p.wantWays(t, before, "packet_answer")
}

// Errors about what came from an enclave are for the enclave: the original
// destination knows nothing of it.
func (p *programBed) checkErrorsGoWhereTheirPacketCameFrom(t *testing.T) {
	for _, ns := range []*netns.Namespace{p.ns, p.box} {
		conn, err := p.dial(t, ns, "udp", "", tunnelled4)
		if err != nil {
			t.Fatal(err)
		}
		if got := converse(t, conn, 1); got != relayed(tunnelled4) {
			t.Fatal(got)
		}
		conn.Close()
		before := p.counters(t, nil)
		late := inside(t, p.enclave, func(config *net.ListenConfig) (net.PacketConn, error) {
			return config.ListenPacket(t.Context(), "udp4", tunnelled4)
		})
		_, err = late.WriteTo([]byte("late"), conn.LocalAddr())
		late.Close()
		if err != nil {
			t.Fatal(err)
		}
		p.awaitWay(t, before, "packet_error")
		p.wantWays(t, before, "packet_error")
	}
}

// awaitWay waits until a packet went a way.
func (p *programBed) awaitWay(t *testing.T, before map[string]uint64, way string) {
	t.Helper()
	limit := time.Now().Add(ioTimeout)
	for p.counters(t, before)[way] == 0 {
		if time.Now().After(limit) {
			t.Fatalf("no packet goes the way %s, but %v", way, p.counters(t, before))
		}
	}
}
