package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Destinations of a program bed, all of which answer on the wire, too.
const (
	tunnelled4 = "192.168.11.200:5000"
	tunnelled6 = "[fd00:11::200]:5000"
	blocked4   = "192.168.12.200:5000"
	bypassed4  = "192.168.13.200:5000"
	bypassed6  = "[fd00:13::200]:5000"
	rejected4  = "192.168.14.200:5000"
	denied4    = "192.168.16.200:5000" // rejected, and blocked without an agent
	unruled4   = "192.168.15.200:5000"

	unnamed4      = "6.6.0.1:5000" // synthetic addresses
	namedTunnel4  = "6.6.0.2:5000"
	namedBypass4  = "6.6.0.3:5000"
	namedBlock4   = "6.6.0.4:5000"
	namedNothing4 = "6.6.0.5:5000"
	namedReject4  = "6.6.0.6:5000"
	namedDenied4  = "6.6.0.7:5000"

	ownAddr4, wireAddr4, boxAddr4 = "10.9.0.2", "10.9.0.1", "10.8.0.2"
	ownAddr6, wireAddr6, boxAddr6 = "fd09::2", "fd09::1", "fd08::2"
)

// Rows of the tables of a program bed: a cell for TCP, and one for UDP.
const (
	rowTunnel = 2 * iota
	rowBlock
	rowBypass
	rowReject
	rowDenied
	rowSynthetic
	rowNothing
	programRowsEnd
)

// programTables are what the programs of a packet path are asked with.
func programTables() *maps.Tables {
	const (
		none = iota
		tunnel
		block
		bypass
		reject
		denied
		synthetic
	)
	prefixes := func(rows map[string]uint32) maps.Rows {
		return maps.Rows{Len: len(rows), All: func(yield func(netip.Prefix, uint32) bool) {
			for text, row := range rows {
				if !yield(netip.MustParsePrefix(text), row) {
					return
				}
			}
		}}
	}
	t := &maps.Tables{
		IPv4: prefixes(map[string]uint32{
			"192.168.11.0/24": rowTunnel, "192.168.12.0/24": rowBlock, "192.168.13.0/24": rowBypass,
			"192.168.14.0/24": rowReject, "192.168.16.0/24": rowDenied, "6.6.0.0/16": rowSynthetic,
		}),
		IPv6:  prefixes(map[string]uint32{"fd00:11::/64": rowTunnel, "fd00:13::/64": rowBypass}),
		TCP:   new([65536]uint16),
		UDP:   new([65536]uint16),
		Width: 2,
		Verdicts: []uint32{
			rowTunnel: tunnel, tunnel, rowBlock: block, block, rowBypass: bypass, bypass,
			rowReject: tunnel, reject, rowDenied: block, denied, rowSynthetic: synthetic, synthetic, rowNothing: none, none,
		},
		Entries: []maps.Entry{
			{ID: "tunnel", Rule: 3, Action: maps.ActionTunnel, Hardening: maps.HardeningBypass},
			{ID: "block", Rule: 4, Action: maps.ActionTunnel, Hardening: maps.HardeningBlock},
			{ID: "bypass", Rule: 5, Action: maps.ActionBypass, Hardening: maps.HardeningBypass},
			{ID: "reject", Rule: 6, Action: maps.ActionReject, Hardening: maps.HardeningBypass},
			{ID: "denied", Rule: 7, Action: maps.ActionReject, Hardening: maps.HardeningBlock},
			{ID: "pool", Action: maps.ActionSynthetic},
		},
		Channels:  []maps.Channel{{ID: "c", Name: "Private"}},
		SpareRows: 2, SpareNames: 8,
	}
	for port := range t.UDP {
		t.UDP[port] = 1
	}
	for text, row := range map[string]uint32{
		namedTunnel4: rowTunnel, namedBypass4: rowBypass, namedBlock4: rowBlock, namedNothing4: rowNothing,
		namedReject4: rowReject, namedDenied4: rowDenied,
	} {
		t.Names = append(t.Names, maps.Name{
			Addr: netip.MustParseAddrPort(text).Addr(), Original: netip.MustParseAddr("192.168.15.200"), Row: row,
		})
	}
	return t
}

// programBed is a host with the programs of the packet path on its uplink, a
// container behind it, and plain sockets in the place of the relay and of all
// destinations. They say which they are.
type programBed struct {
	*bed
	wire, box *netns.Namespace
	uplink    int
	enclave   *enclave.Enclave
	agent     maps.Agent
	flipped   bool // to other tables
}

func newProgramBed(t testing.TB, opts loader.Options) *programBed {
	t.Helper()
	p := &programBed{
		bed:  &bed{ns: testutil.Netns(t), cgroup: testutil.Cgroup(t), pins: filepath.Join(testutil.BPFFS(t), "bpfacq")},
		wire: testutil.Netns(t), box: testutil.Netns(t),
	}
	p.connect(t)
	for _, prefix := range []string{"192.168.0.0/16", "6.6.0.0/16", "fd00:11::/64", "fd00:13::/64"} {
		testutil.AnswerAll(t, p.wire, netip.MustParsePrefix(prefix))
	}
	// The answers to IPv6 come from any address.
	if err := p.wire.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	testutil.Datagrams(t, p.wire, 5000, func(d testutil.Datagram) []byte { return fmt.Appendf(nil, "direct %d", len(d.Payload)) })
	testutil.Respond(t, p.wire, "[::]:5000", func(conn *net.TCPConn) { welcome(conn, "direct") })

	opts.Packets = true
	err := p.ns.Do(func() error { p.load(t, opts); return nil })
	if err != nil {
		t.Fatal(err)
	}
	p.store(t, programTables())
	p.agent = maps.Agent{Packets: true, Containers: true}
	p.setPools(t)
	p.uplink, p.enclave = p.openEnclave(t, "up0")
	p.setUplink(t, p.enclave.Device())
	p.announce(t, p.agent)
	return p
}

// Verifying the programs is what takes long about a bed, so all of these tests share
// one, and each begins with what the first one finds.
func TestProgramsOfAnUplink(t *testing.T) {
	p := newProgramBed(t, loader.Options{})
	p.checkEach(t, []check{
		{"packets go the way of their rule", p.checkPacketsGoTheWayOfTheirRule},
		{"packets of a dead agent go by their hardening", p.checkPacketsOfADeadAgentGoByTheirHardening},
		{"a channel without datagrams hardens them", p.checkChannelWithoutDatagramsHardensThem},
		{"forwarded packets pass with containers off", p.checkForwardedPacketsPassWithContainersOff},
		{"packets pass without a packet path", p.checkPacketsPassWithoutAPacketPath},
		{"connections of the host keep their way", p.checkConnectionsOfTheHostKeepTheirWay},
		{"connections of containers end when their way does", p.checkConnectionsOfContainersEndWhenTheirWayDoes},
		{"datagrams follow the policy in force", p.checkDatagramsFollowThePolicyInForce},
		{"one socket sends each datagram its own way", p.checkOneSocketSendsEachDatagramItsOwnWay},
		{"answers of servers go back the way they came", p.checkAnswersOfServersGoBackTheWayTheyCame},
		{"nobody opens a flow that is acquired", p.checkNobodyOpensAFlowThatIsAcquired},
		{"openers are remembered as they are set", p.checkOpenersAreRememberedAsTheyAreSet},
		{"errors go where their packet came from", p.checkErrorsGoWhereTheirPacketCameFrom},
		{"bound sockets are left to the packet path", p.checkBoundSocketsAreLeftToThePacketPath},
		{"datagrams are left to the packet path", p.checkDatagramsAreLeftToThePacketPath},
		{"route probes are not touched", p.checkRouteProbesAreNotTouched},
		{"sources of flows are known", p.checkSourcesOfFlowsAreKnown},
		{"exempt sockets pass the uplink", p.checkExemptSocketsPassTheUplink},
		{"other hosts on the uplink are left alone", p.checkOtherHostsOnTheUplinkAreLeftAlone},
		{"an uplink may have no Ethernet headers", p.checkUplinkMayHaveNoEthernetHeaders},
		{"an uplink may change its address", p.checkUplinkMayChangeItsAddress},
	})
}

func TestProgramsOfAnUplinkAsFilters(t *testing.T) {
	p := newProgramBed(t, loader.Options{Filters: true})
	p.checkEach(t, []check{
		{"packets go the way of their rule", p.checkPacketsGoTheWayOfTheirRule},
		{"an uplink may have no Ethernet headers", p.checkUplinkMayHaveNoEthernetHeaders},
	})
}

// check is a test of a bed that others have used, and will use.
type check struct {
	name string
	run  func(*testing.T)
}

func (p *programBed) checkEach(t *testing.T, checks []check) {
	t.Helper()
	for _, c := range checks {
		p.reset(t)
		t.Run(c.name, c.run)
	}
}

// reset makes the bed what it was when it was new, but for what its maps remember
// of flows that have ended, once nothing of the last test is under way any more.
func (p *programBed) reset(t testing.TB) {
	t.Helper()
	p.agent = maps.Agent{Packets: true, Containers: true}
	p.announce(t, p.agent)
	p.setUplink(t, p.enclave.Device())
	if err := p.datapath.Maps.SetLearnFrom(0); err != nil {
		t.Fatal(err)
	}
	if err := p.datapath.Maps.SetDatagrams(0, maps.DatagramsUnknown); err != nil {
		t.Fatal(err)
	}
	if p.flipped {
		p.store(t, programTables())
		p.flipped = false
	}
	before := p.counters(t, nil)
	silent := false // for a tick of await
	await(t, "the wire to be silent", func() bool {
		if silent && len(p.counters(t, before)) == 0 {
			return true
		}
		before, silent = p.counters(t, nil), true
		return false
	})
}

// connect makes the devices and routes: wire – host – box, without any address
// translation.
func (p *programBed) connect(t testing.TB) {
	t.Helper()
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"} {
		p.tune(t, name, "1")
	}
	p.tune(t, "ipv4/conf/all/rp_filter", "1")
	p.tune(t, "ipv4/conf/default/rp_filter", "1")
	testutil.Veth(t,
		netns.End{
			Namespace: p.wire, Name: "host0", Addrs: prefixes(wireAddr4+"/24", wireAddr6+"/64"),
			Routes: []netns.Route{
				{Prefix: netip.MustParsePrefix("10.8.0.0/24"), Via: netip.MustParseAddr(ownAddr4)},
				{Prefix: netip.MustParsePrefix("fd08::/64"), Via: netip.MustParseAddr(ownAddr6)},
			},
		},
		netns.End{
			Namespace: p.ns, Name: "up0", Addrs: prefixes(ownAddr4+"/24", ownAddr6+"/64"),
			Routes: []netns.Route{defaultBy(wireAddr4), defaultBy(wireAddr6)},
		})
	testutil.Veth(t,
		netns.End{Namespace: p.ns, Name: "ct0", Addrs: prefixes("10.8.0.1/24", "fd08::1/64")},
		netns.End{
			Namespace: p.box, Name: "eth0", Addrs: prefixes(boxAddr4+"/24", boxAddr6+"/64"),
			Routes: []netns.Route{defaultBy("10.8.0.1"), defaultBy("fd08::1")},
		})
}

func (p *programBed) setPools(t testing.TB) {
	t.Helper()
	if err := p.datapath.Maps.SetDNS(0, 0, prefixes("6.6.0.0/16")); err != nil {
		t.Fatal(err)
	}
}

// openEnclave makes the way of a device to sockets that stand for the relay.
func (p *programBed) openEnclave(t testing.TB, name string) (uplink int, e *enclave.Enclave) {
	t.Helper()
	err := p.ns.Do(func() error {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		uplink = device.Index
		e, err = enclave.Open(enclave.Options{MTU: device.MTU, MAC: device.HardwareAddr})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })

	closer, err := p.datapath.AttachEnclave(e.Namespace().Fd(), loader.Sockets{
		TCP4: listenInside(t, e, "tcp4"), TCP6: listenInside(t, e, "tcp6"),
		UDP4: receiveInside(t, e, "udp4"), UDP6: receiveInside(t, e, "udp6"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	err = p.ns.Do(func() error {
		return errors.Join(p.datapath.AttachPair(e.Device()), p.datapath.AttachUplink(uplink))
	})
	if err != nil {
		t.Fatal(err)
	}
	return uplink, e
}

// setUplink leads the uplink to a device, 0 for none.
func (p *programBed) setUplink(t testing.TB, pair int) {
	t.Helper()
	err := p.datapath.Maps.SetUplink(maps.Uplink{Index: p.uplink, Pair: pair, PairMAC: p.enclave.PeerMAC()})
	if err != nil {
		t.Fatal(err)
	}
}

// setLease makes the agent dead or alive.
func (p *programBed) setLease(t testing.TB, d time.Duration) {
	t.Helper()
	if err := p.datapath.Maps.Renew(d); err != nil {
		t.Fatal(err)
	}
}

// converse sends so many bytes on a socket, if any, and returns what comes back,
// or the errno.
func converse(t testing.TB, conn net.Conn, size int) string {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, max(size, 256))
	var err error
	if size > 0 {
		_, err = conn.Write(buf[:size])
	}
	n := 0
	if err == nil {
		n, err = conn.Read(buf)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// dial opens a socket in a namespace, and closes it at the end of the test.
func (p *programBed) dial(t testing.TB, ns *netns.Namespace, network, from, to string) (net.Conn, error) {
	t.Helper()
	var conn net.Conn
	err := ns.Do(func() (err error) {
		dialer := &net.Dialer{Timeout: ioTimeout, KeepAlive: -1}
		if from != "" && strings.HasPrefix(network, "udp") {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
		} else if from != "" {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
		}
		conn, err = dialer.DialContext(t.Context(), network, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // nothing comes after its end
	}
	t.Cleanup(func() { conn.Close() })
	return conn, nil
}

// say is one datagram, of a socket of its own, and its answer.
func (p *programBed) say(t testing.TB, ns *netns.Namespace, to string, size int) string {
	t.Helper()
	return p.once(t, ns, "udp", to, size)
}

// call is one connection, and whose greeting it gets.
func (p *programBed) call(t testing.TB, ns *netns.Namespace, to string) string {
	t.Helper()
	return p.once(t, ns, "tcp", to, 0)
}

func (p *programBed) once(t testing.TB, ns *netns.Namespace, network, to string, size int) string {
	t.Helper()
	conn, err := p.dial(t, ns, network, "", to)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return converse(t, conn, size)
}
