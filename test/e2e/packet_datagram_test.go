package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Ports of the targets for datagrams.
const (
	echoPort  = 4433
	whoPort   = 4434 // says who asks
	classPort = 4435 // of direct flows
)

// What the edge of packet tests allows.
func packetAllow() []string {
	return []string{privateNetwork + ":*", "[" + private6 + "]:*"}
}

// startPacketEdge starts an edge, which allows more, and its targets.
func (s *packetSite) startPacketEdge(t testing.TB, more ...string) {
	t.Helper()
	s.startEdge(t, 443, append(packetAllow(), more...)...)
	testutil.EchoDatagrams(t, s.net, echoPort)
	testutil.Datagrams(t, s.net, whoPort, func(d testutil.Datagram) []byte { return []byte(d.From.String()) })
}

// place is where applications of a site are.
type place struct {
	name      string
	namespace *netns.Namespace
	device    string
	sources   map[string]string // by family
}

func (s *packetSite) places() []place {
	return []place{
		{"host", s.host, "up0", map[string]string{"udp4": uplinkAddr4, "udp6": uplinkAddr6}},
		{"container", s.container, "eth0", map[string]string{"udp4": container4, "udp6": container6}},
	}
}

// privateAddrs are addresses of the open networks, by family.
func privateAddrs() map[string]string {
	return map[string]string{"udp4": "192.168.11.200", "udp6": "2001:db8:11::200"}
}

func at(addr string, port int) string {
	if strings.Contains(addr, ":") {
		return fmt.Sprintf("[%s]:%d", addr, port)
	}
	return fmt.Sprintf("%s:%d", addr, port)
}

func TestWhatLeavesByAnUplinkIsCarried(t *testing.T) {
	thousands := 10_000
	if testing.Short() {
		thousands = 300
	}
	raiseFiles(t, uint64(thousands)+1000) // of the edge, which is a child
	s := newPacketSite(t)
	s.startPacketEdge(t)
	before := s.probe(t)
	s.start(t)
	t.Run("route probes see no difference", func(t *testing.T) { s.checkProbes(t, before) })
	t.Run("datagrams of every kind of socket", s.checkDatagrams)
	t.Run("control messages are those of the uplink", s.checkControlMessages)
	t.Run("one socket reaches thousands of destinations", func(t *testing.T) { s.checkSpread(t, thousands) })
	t.Run("QUIC", s.checkQUIC)
	t.Run("QUIC is rejected at once where a rule asks for that", s.checkRejectedQUIC)
	t.Run("streams of bound sockets and containers", s.checkBoundStreams)
	t.Run("streams are whole", s.checkWholeStreams)
	t.Run("refused streams are reset", s.checkRefusedStreams)
	if seen := s.seen(t); seen != "" {
		t.Errorf("on the wire there was %s", seen)
	}
	s.direct = true
	t.Run("live flows outlive a policy that still carries them", s.checkLiveFlows)
	t.Run("a stop lets streams end and hands datagrams back", s.checkStop)
	s.wantFirewallAtEase(t)
}

func (s *packetSite) checkDatagrams(t *testing.T) {
	for _, from := range s.places() {
		t.Run(from.name, func(t *testing.T) {
			p := s.speaker(t, from.namespace)
			for family, addr := range privateAddrs() {
				t.Run(family, func(t *testing.T) { checkSockets(t, p, family, from, at(addr, echoPort)) })
			}
		})
	}
	s.checkDatagramFlows(t)
}

// checkSockets sends datagrams of all sizes by all kinds of sockets.
func checkSockets(t *testing.T, p *speaker, family string, from place, to string) {
	source := "source=" + at(from.sources[family], 0)
	for _, test := range []struct {
		socket  string
		options string
		sizes   []int
	}{
		{"unconnected", "", []int{1, 1400, 4000, 65_000}},
		{"connected", "", []int{1, 1452, 4000, 9000}},
		{"device", "device=" + from.device, []int{1, 4000}},
		{"source", source, []int{1, 4000}},
		{"both", "device=" + from.device + " " + source, []int{1}},
	} {
		p.want(t, "opened", "open", test.socket, family, test.options)
		dst := to
		if test.socket == "connected" {
			p.want(t, "connected", "connect", test.socket, to)
			dst = "-"
		}
		for _, size := range test.sizes {
			p.want(t, echoed(to, size), "echo", test.socket, dst, size)
		}
	}
	p.want(t, "46 segments of 1400 bytes", "train", "unconnected", to, 1400, 46)
	p.want(t, "46 segments of 1000 bytes", "train", "connected", "-", 1000, 46)
	p.want(t, "opened", "open", "whole", family, "whole")
	p.want(t, "EMSGSIZE", "echo", "whole", to, 1600) // as of any way with this MTU
	p.want(t, echoed(to, 1400), "echo", "whole", to, 1400)
	for _, socket := range []string{"unconnected", "connected", "device", "source", "both", "whole"} {
		p.want(t, "closed", "close", socket)
	}
}

// checkDatagramFlows finds flows of both places as they should be shown.
func (s *packetSite) checkDatagramFlows(t *testing.T) {
	t.Helper()
	list, err := s.control.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[bool]int) // by whether they are forwarded
	for _, f := range list.Flows {
		if f.Protocol != flow.UDP {
			continue
		}
		found[f.Forwarded]++
		if source := f.Source.Addr().String(); source != uplinkAddr4 && source != uplinkAddr6 {
			t.Errorf("flow %d comes from %s, want an address of the uplink", f.ID, f.Source)
		}
		if f.Forwarded == (f.PID != 0) {
			t.Errorf("flow %d, forwarded %t, is of process %d", f.ID, f.Forwarded, f.PID)
		}
		if f.Rule != "open" || f.DatagramsSent == 0 || f.DatagramsReceived == 0 {
			t.Errorf("flow %d by rule %q with %d and %d datagrams", f.ID, f.Rule, f.DatagramsSent, f.DatagramsReceived)
		}
	}
	if found[false] < 10 || found[true] < 10 {
		t.Errorf("%d flows of the host, %d forwarded, want some of each", found[false], found[true])
	}
}

func (s *packetSite) checkSpread(t *testing.T, total int) {
	for _, from := range s.places() {
		p := s.speaker(t, from.namespace)
		p.want(t, "opened", "open", "one", "udp4")
		count := total
		if from.name != "host" {
			count = total / 10 // after the host's source NAT they are the same
		}
		want := fmt.Sprintf("%d of %d answered", count, count)
		p.want(t, want, "spread", "one", at("192.168.64.1", echoPort), count)
	}
}

// What the answers of a flow tell is what they would without an agent: no class
// crosses the tunnel, and the device is the uplink. Of flows that are left alone
// the class is seen by the network as it was sent.
func (s *packetSite) checkControlMessages(t *testing.T) {
	testutil.EchoDatagrams(t, s.net, classPort)
	s.nft(t, s.wire, `add counter inet wire marked
insert rule inet wire arrive ip ecn ect0 udp dport 4435 counter name marked
`)
	p := s.speaker(t, s.host)
	const ect0 = 2
	for family, addr := range privateAddrs() {
		p.want(t, "opened", "open", family, family)
		own := map[string]string{"udp4": uplinkAddr4, "udp6": uplinkAddr6}[family]
		p.want(t, "class; answer of class 0 to "+own+" by up0", "marked", family, at(addr, echoPort), ect0)
		p.want(t, echoed(at(addr, echoPort), len("pinned")), "pinned", family, at(addr, echoPort), "up0", own)
	}
	p.want(t, "class; answer of class 0 to "+uplinkAddr4+" by up0", "marked", "udp4", at(edgeAddr, classPort), ect0)
	if n := s.counted(t, s.wire)["marked"]; n != 1 {
		t.Errorf("the wire saw %d direct datagrams with ECN, want 1", n)
	}
}

// probe runs programs' own way to choose among the addresses of a name: they connect
// datagram sockets and ask for their source (RFC 6724).
func (s *packetSite) probe(t *testing.T) string {
	t.Helper()
	hosts := s.settings(t, "hosts", "192.168.11.9 both.example\n2001:db8:11::9 both.example\n%s both.example\n", edgeAddr)
	cmd := testutil.Command(t, "/bin/sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts,
		testutil.Program(t, "python3"), "testdata/probe.py", "both.example", "192.168.11.9", "2001:db8:11::9", edgeAddr)
	ownMounts(cmd)
	out, err := testutil.Output(t, s.host, s.cgroup, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *packetSite) checkProbes(t *testing.T, before string) {
	for _, source := range []string{uplinkAddr4, uplinkAddr6} {
		if !strings.Contains(before, source) {
			t.Fatalf("without an agent no probe finds %s:\n%s", source, before)
		}
	}
	if during := s.probe(t); during != before {
		t.Errorf("without an agent:\n%swith one:\n%s", before, during)
	}
}

// A rule may carry TCP 443 of a destination and ask for browsers to be told that
// QUIC is not there.
func (s *packetSite) checkRejectedQUIC(t *testing.T) {
	testutil.Respond(t, s.net, "192.168.13.1:443", greet)
	for _, from := range s.places() {
		p := s.speaker(t, from.namespace)
		for family, addr := range map[string]string{"udp4": "192.168.13.1", "udp6": "2001:db8:13::1"} {
			p.want(t, "opened", "open", family, family)
			p.want(t, "connected", "connect", family, at(addr, 443))
			p.want(t, "ECONNREFUSED", "echo", family, "-", 1200)
		}
		if got := testutil.Child(t, from.namespace, s.cgroup, "connect", "plain", "192.168.13.1:443"); got != greeted("192.168.13.1:443")+"\n" {
			t.Errorf("TCP of the %s: got %q, want it to be carried", from.name, got)
		}
	}
}

// viaPort is where the target sees a flow of a speaker come from.
func viaPort(t *testing.T, p *speaker, socket, to string) int {
	t.Helper()
	answer := p.do(t, "ask", socket, to, "who")
	_, port, found := strings.Cut(answer, ":")
	n, err := strconv.Atoi(port)
	if !found || err != nil {
		t.Fatalf("%s: target answers %q", to, answer)
	}
	return n
}

func (s *packetSite) checkLiveFlows(t *testing.T) {
	const stays, leaves = "192.168.11.1:4434", "192.168.12.1:4434"
	p := s.speaker(t, s.host)
	p.want(t, "opened", "open", "a", "udp4")
	p.want(t, "opened", "open", "b", "udp4")
	stayed := viaPort(t, p, "a", stays)
	viaPort(t, p, "b", leaves)

	rules := packetRules()[:1]
	rules = append([]string{packetRule("new", "Tunnel", "Block", "Any", "192.168.14.0/24")}, rules...)
	s.reload(t, packetProfile(rules...)) // which says nothing of 192.168.12.0/24
	if again := viaPort(t, p, "a", stays); again != stayed {
		t.Errorf("a flow that is still carried leaves the edge by port %d, then %d: want the same", stayed, again)
	}
	p.want(t, "sent", "send", "b", leaves, 10)
	await(t, "a flow that is not carried any more to go direct", func() bool {
		return s.counted(t, s.wire)["closed"] > 0
	})
	if seen := s.counted(t, s.wire); seen["open"] != 0 {
		t.Errorf("on the wire there was %v, want nothing of the flow that stays", seen)
	}
	s.reload(t, packetProfile(packetRules()...))
}

// reload puts a profile in force.
func (s *packetSite) reload(t *testing.T, text string) {
	t.Helper()
	s.setProfile(t, text)
	if err := s.control.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}
