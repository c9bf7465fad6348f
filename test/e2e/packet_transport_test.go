package e2e

import (
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// quicRules count what goes to an edge by QUIC, and what by TCP.
const quicRules = `add counter inet wire quic
add counter inet wire stream
insert rule inet wire arrive ip daddr 192.0.2.2 udp dport 443 counter name quic
insert rule inet wire arrive ip daddr 192.0.2.2 tcp dport 443 counter name stream
`

// Datagrams of every size, longer than a QUIC packet too, and streams are carried by
// whatever an edge offers and the configuration wants; by HTTP/2 alone in all other
// tests.
func TestEveryTransportCarriesDatagramsAndStreams(t *testing.T) {
	for _, test := range []struct {
		name    string
		offer   edgeOffer
		wanted  string // in the configuration
		quic    bool   // whether anything goes by QUIC
		streams string // the protocol of streams
	}{
		{"HTTP/3 for datagrams", offerHTTP3, "auto", true, "h2"},
		{"HTTP/3 preferred", preferHTTP3, "auto", true, "h3"},
		{"HTTP/3 wanted", offerHTTP3, "h3", true, "h3"},
		{"HTTP/2 wanted", preferHTTP3, "h2", false, "h2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newPacketSite(t)
			s.config.Edges.Transport = test.wanted
			s.nft(t, s.wire, quicRules)
			s.startEdgeSpeaking(t, test.offer, 443, packetAllow()...)
			testutil.EchoDatagrams(t, s.net, echoPort)
			testutil.Echo(t, s.net, "192.168.11.200:443")
			s.start(t)
			s.awaitChannel(t, "up")
			p := s.speaker(t, s.host)
			const to = "192.168.11.200:4433"
			p.want(t, "opened", "open", "a", "udp4")
			for _, size := range []int{1, 1100, 1250, 1472, 4000, 65_000} {
				p.want(t, echoed(to, size), "echo", "a", to, size)
			}
			got := testutil.Child(t, s.container, s.cgroup, "exchange", "bulk=300000", "192.168.11.200:443")
			if want := "300000 bytes came back"; got != want {
				t.Errorf("stream: got %q, want %q", got, want)
			}
			if f := s.endedFlow(t, "192.168.11.200:443"); f.BytesReceived != 300_000 {
				t.Errorf("stream has %d bytes", f.BytesReceived)
			}
			await(t, "streams by "+test.streams, func() bool { return s.status(t).Channels[0].Protocol == test.streams })
			if quic := s.counted(t, s.wire)["quic"] > 0; quic != test.quic {
				t.Errorf("on the wire there is QUIC: %t, want %t", quic, test.quic)
			}
			s.stop(t)
		})
	}
}

// Networks that let no UDP through are common: datagrams then go by HTTP/2, and the
// first does not wait for long.
func TestDatagramsDoNotNeedQUIC(t *testing.T) {
	s := newPacketSite(t)
	s.nft(t, s.wire, quicRules+"insert rule inet wire arrive ip daddr 192.0.2.2 udp dport 443 drop\n")
	s.startEdgeSpeaking(t, preferHTTP3, 443, packetAllow()...)
	testutil.EchoDatagrams(t, s.net, echoPort)
	testutil.Echo(t, s.net, "192.168.11.200:443")
	s.start(t)
	s.awaitChannel(t, "up")
	p := s.speaker(t, s.host)
	const to = "192.168.11.200:4433"
	p.want(t, "opened", "open", "a", "udp4")
	for _, size := range []int{1, 1472, 4000} {
		p.want(t, echoed(to, size), "echo", "a", to, size)
	}
	got := testutil.Child(t, s.container, s.cgroup, "exchange", "bulk=300000", "192.168.11.200:443")
	if want := "300000 bytes came back"; got != want {
		t.Errorf("stream: got %q, want %q", got, want)
	}
	s.stop(t)
}
