package e2e

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// relayed is what the socket that stands for the relay answers to one byte.
func relayed(to string) string { return "relay for " + to + " 1" }

func (p *programBed) checkPacketsGoTheWayOfTheirRule(t *testing.T) {
	tests := []struct {
		name, network, to string
		size              int
		want, way         string
	}{
		{"datagram", "udp", tunnelled4, 1, relayed(tunnelled4), "packet_acquire"},
		{"datagram IPv6", "udp", tunnelled6, 1, relayed(tunnelled6), "packet_acquire"},
		{"fragments", "udp", tunnelled4, 4000, "relay for " + tunnelled4 + " 4000", "packet_acquire"},
		{"fragments IPv6", "udp", tunnelled6, 4000, "relay for " + tunnelled6 + " 4000", "packet_acquire"},
		{"connection", "tcp", tunnelled4, 0, "relay for " + tunnelled4, "packet_acquire"},
		{"connection IPv6", "tcp", tunnelled6, 0, "relay for " + tunnelled6, "packet_acquire"},
		{"datagram, fails closed", "udp", blocked4, 1, relayed(blocked4), "packet_acquire"},
		{"bypassed datagram", "udp", bypassed4, 1, "direct 1", "packet_pass"},
		{"bypassed datagram IPv6", "udp", bypassed6, 1, "direct 1", "packet_pass"},
		{"bypassed fragments", "udp", bypassed4, 4000, "direct 4000", "packet_pass"},
		{"bypassed connection", "tcp", bypassed4, 0, "direct", "packet_pass"},
		{"bypassed connection IPv6", "tcp", bypassed6, 0, "direct", "packet_pass"},
		{"datagram without rule", "udp", unruled4, 1, "direct 1", "packet_pass"},
		{"rejected datagram", "udp", rejected4, 1, "ECONNREFUSED", "packet_refuse"},
		{"connection beside rejected datagrams", "tcp", rejected4, 0, "relay for " + rejected4, "packet_acquire"},
		{"name", "udp", namedTunnel4, 1, relayed(namedTunnel4), "packet_acquire"},
		{"connection to a name", "tcp", namedTunnel4, 0, "relay for " + namedTunnel4, "packet_acquire"},
		{"name that goes direct", "udp", namedBypass4, 1, relayed(namedBypass4), "packet_acquire"},
		{"name without a rule for the port", "udp", namedNothing4, 1, relayed(namedNothing4), "packet_acquire"},
		{"rejected name", "udp", namedReject4, 1, "ECONNREFUSED", "packet_refuse"},
		{"unknown name", "udp", unnamed4, 1, "ECONNREFUSED", "packet_refuse"},
		{"connection to an unknown name", "tcp", unnamed4, 0, "ECONNREFUSED", "packet_refuse"},
	}
	sides := []struct {
		name string
		ns   *netns.Namespace
	}{{"host", p.ns}, {"container", p.box}}
	for _, test := range tests {
		for _, side := range sides {
			t.Run(test.name+" of "+side.name, func(t *testing.T) {
				before := p.counters(t, nil)
				if got := p.once(t, side.ns, test.network, test.to, test.size); got != test.want {
					t.Errorf("answer is %q, want %q", got, test.want)
				}
				p.wantWays(t, before, test.way)
			})
		}
	}
}

// wantWays compares the ways that packets went: all but those that let pass what
// is none of the packet path's.
func (p *programBed) wantWays(t *testing.T, before map[string]uint64, ways ...string) {
	t.Helper()
	got, want := make(map[string]bool), make(map[string]bool)
	for name := range p.counters(t, before) {
		switch name {
		case "packet_other", "packet_untagged", "lookup_acquire", "lookup_refuse", "reply", "reply_drop":
		default:
			got[name] = true
		}
	}
	for _, way := range ways {
		want[way] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ways:\n%s", diff)
	}
}

func (p *programBed) checkPacketsOfADeadAgentGoByTheirHardening(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func()
	}{
		{"lapsed lease", func() { p.setLease(t, -time.Second) }},
		{"no enclave", func() { p.setLease(t, time.Hour); p.setUplink(t, 0) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.end()
			for _, ns := range []*netns.Namespace{p.ns, p.box} {
				before := p.counters(t, nil)
				if got := p.say(t, ns, tunnelled4, 1); got != "direct 1" {
					t.Errorf("datagram of a rule that fails open: %q", got)
				}
				if got := p.call(t, ns, tunnelled4); got != "direct" {
					t.Errorf("connection of a rule that fails open: %q", got)
				}
				if got := p.say(t, ns, rejected4, 1); got != "direct 1" {
					t.Errorf("rejected datagram: %q", got)
				}
				p.wantWays(t, before, "packet_hardened")
				p.wantBlocked(t, ns, blocked4)
				p.wantBlocked(t, ns, denied4)
				p.wantBlocked(t, ns, namedTunnel4)
			}
		})
	}
}

// wantBlocked sends a datagram that must not leave.
func (p *programBed) wantBlocked(t *testing.T, ns *netns.Namespace, to string) {
	t.Helper()
	before := p.counters(t, nil)
	conn, err := p.dial(t, ns, "udp", "", to)
	if err == nil {
		_, err = conn.Write([]byte{1})
	}
	if err != nil {
		t.Error(err)
	}
	p.wantWays(t, before, "packet_block")
}

func (p *programBed) checkChannelWithoutDatagramsHardensThem(t *testing.T) {
	tests := []struct{ to, carried, refused, way string }{
		{tunnelled4, relayed(tunnelled4), "direct 1", "packet_hardened"},
		{blocked4, relayed(blocked4), "ECONNREFUSED", "packet_refuse"},
		{namedTunnel4, relayed(namedTunnel4), relayed(namedTunnel4), "packet_acquire"}, // the agent knows where to
		{namedBlock4, relayed(namedBlock4), "ECONNREFUSED", "packet_refuse"},
	}
	for _, datagrams := range []maps.Datagrams{maps.DatagramsUnknown, maps.DatagramsRefused, maps.DatagramsCarried} {
		if err := p.datapath.Maps.SetDatagrams(0, datagrams); err != nil {
			t.Fatal(err)
		}
		for _, ns := range []*netns.Namespace{p.ns, p.box} {
			for _, test := range tests {
				before := p.counters(t, nil)
				want, way := test.carried, "packet_acquire"
				if datagrams == maps.DatagramsRefused {
					want, way = test.refused, test.way
				}
				if got := p.say(t, ns, test.to, 1); got != want {
					t.Errorf("%s, datagrams %s: %q, want %q", test.to, datagrams, got, want)
				}
				p.wantWays(t, before, way)
				if got := p.call(t, ns, test.to); got != "relay for "+test.to {
					t.Errorf("connection to %s, datagrams %s: %q", test.to, datagrams, got)
				}
			}
		}
	}
}

func (p *programBed) checkForwardedPacketsPassWithContainersOff(t *testing.T) {
	p.agent.Containers = false
	p.announce(t, p.agent)
	before := p.counters(t, nil)
	conn, err := p.dial(t, p.box, "udp", boxAddr4+":6005", tunnelled4) // which no later socket gets
	if err != nil {
		t.Fatal(err)
	}
	if got := converse(t, conn, 1); got != "direct 1" {
		t.Errorf("datagram of a container: %q", got)
	}
	if got := p.call(t, p.box, tunnelled4); got != "direct" {
		t.Errorf("connection of a container: %q", got)
	}
	p.wantWays(t, before, "packet_forwarded", "packet_opened") // nobody tells who opened it
	if got := p.say(t, p.ns, tunnelled4, 1); got != relayed(tunnelled4) {
		t.Errorf("datagram of the host: %q", got)
	}
}

func (p *programBed) checkPacketsPassWithoutAPacketPath(t *testing.T) {
	p.agent.Packets = false
	p.announce(t, p.agent)
	before := p.counters(t, nil)
	for _, ns := range []*netns.Namespace{p.ns, p.box} {
		if got := p.say(t, ns, tunnelled4, 1); got != "direct 1" {
			t.Errorf("datagram: %q", got)
		}
	}
	p.wantWays(t, before, "packet_inactive")
}
