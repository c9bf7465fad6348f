package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
)

// connects runs the connect scenario on the bed, where hooks see it.
func (p *programBed) connects(t *testing.T, way string, to ...string) string {
	t.Helper()
	out := testutil.Child(t, p.ns, p.cgroup, "connect", append([]string{way}, to...)...)
	return strings.TrimSuffix(out, "\n")
}

func (p *programBed) checkBoundSocketsAreLeftToThePacketPath(t *testing.T) {
	refused := p.refusal()
	tests := []struct {
		to, alive, dead string
	}{
		{tunnelled4, "peer " + tunnelled4 + " to relay for " + tunnelled4, "peer " + tunnelled4 + " to direct"},
		{blocked4, "peer " + blocked4 + " to relay for " + blocked4, refused},
		{bypassed4, "peer " + bypassed4 + " to direct", "peer " + bypassed4 + " to direct"},
		{rejected4, "peer " + rejected4 + " to relay for " + rejected4, "peer " + rejected4 + " to direct"},
		{namedTunnel4, "peer " + namedTunnel4 + " to relay for " + namedTunnel4, "peer " + namedTunnel4 + " to direct"},
		{namedBypass4, "peer " + namedBypass4 + " to direct", "peer " + namedBypass4 + " to direct"},
		{namedNothing4, "peer " + namedNothing4 + " to direct", "peer " + namedNothing4 + " to direct"},
		{namedBlock4, "peer " + namedBlock4 + " to relay for " + namedBlock4, refused},
		{unnamed4, refused, refused},
	}
	for _, way := range []string{"source=" + ownAddr4 + ":0", "device=up0"} {
		p.setLease(t, time.Hour)
		for _, test := range tests {
			if got := p.connects(t, way, test.to); got != test.alive {
				t.Errorf("%s to %s: %q, want %q", way, test.to, got, test.alive)
			}
		}
		p.setLease(t, -time.Second)
		for _, test := range tests {
			if got := p.connects(t, way, test.to); got != test.dead {
				t.Errorf("%s to %s without an agent: %q, want %q", way, test.to, got, test.dead)
			}
		}
	}
}

func (p *programBed) checkDatagramsAreLeftToThePacketPath(t *testing.T) {
	const unreachable = "port unreachable" // which only connected sockets are told
	refused := p.refusal()
	says := func(to, what string) string { return to + " says " + what }
	tests := []struct{ to, alive, undelivered, dead string }{
		{tunnelled4, says(tunnelled4, "relay for "+tunnelled4+" 8"), says(tunnelled4, "direct 8"), says(tunnelled4, "direct 8")},
		{blocked4, says(blocked4, "relay for "+blocked4+" 8"), unreachable, refused},
		{bypassed4, says(bypassed4, "direct 8"), says(bypassed4, "direct 8"), says(bypassed4, "direct 8")},
		{rejected4, unreachable, unreachable, says(rejected4, "direct 8")},
		{namedTunnel4, says(namedTunnel4, "relay for "+namedTunnel4+" 8"), says(namedTunnel4, "direct 8"), says(namedTunnel4, "direct 8")},
		{namedBypass4, says(namedBypass4, "direct 8"), says(namedBypass4, "direct 8"), says(namedBypass4, "direct 8")},
		{namedNothing4, says(namedNothing4, "direct 8"), says(namedNothing4, "direct 8"), says(namedNothing4, "direct 8")},
		{namedReject4, unreachable, unreachable, says(namedReject4, "direct 8")},
		{namedDenied4, unreachable, unreachable, refused},
		{namedBlock4, says(namedBlock4, "relay for "+namedBlock4+" 8"), refused, refused},
		{unnamed4, refused, refused, refused},
	}
	ask := func(state, to, want string) {
		t.Helper()
		if want != unreachable {
			if got := p.exchange(t, "udp4", "ask="+to)[0]; got != want {
				t.Errorf("%s, sent to %s: %q, want %q", state, to, got, want)
			}
		}
		steps := []string{"connect=" + to, "write", "read"}
		if want == refused { // there already
			steps = steps[:1]
		} else if want == unreachable {
			want = "ECONNREFUSED"
		}
		if got := p.exchange(t, "udp4", steps...); got[len(got)-1] != want {
			t.Errorf("%s, connected to %s: %q, want %q", state, to, got, want)
		}
	}
	for _, test := range tests {
		ask("alive", test.to, test.alive)
	}
	if err := p.datapath.Maps.SetDatagrams(0, maps.DatagramsRefused); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		ask("without datagrams", test.to, test.undelivered)
	}
	p.setLease(t, -time.Second)
	for _, test := range tests {
		ask("dead", test.to, test.dead)
	}
}

func (p *programBed) checkRouteProbesAreNotTouched(t *testing.T) {
	before := p.counters(t, nil)
	for _, to := range []string{tunnelled4, blocked4, rejected4, bypassed4} {
		got := p.exchange(t, "udp4", "connect="+to, "peer")
		if diff := cmp.Diff([]string{"connected", "peer " + to}, got); diff != "" {
			t.Errorf("probe of %s:\n%s", to, diff)
		}
	}
	p.wantWays(t, before)
}

func (p *programBed) checkSourcesOfFlowsAreKnown(t *testing.T) {
	p.exchange(t, "udp4,source="+ownAddr4+":6001", "ask="+tunnelled4)
	p.connects(t, "source="+ownAddr4+":6002", tunnelled4)
	for _, test := range []struct {
		protocol maps.Transport
		from     string
	}{{maps.UDP, ownAddr4 + ":6001"}, {maps.TCP, ownAddr4 + ":6002"}} {
		source, err := p.datapath.Maps.Source(test.protocol, netip.MustParseAddrPort(test.from))
		if err != nil || source.PID == 0 || source.SocketCookie == 0 || source.UID != 0 {
			t.Errorf("%s from %s: %+v, %v", test.protocol, test.from, source, err)
		}
	}
	conn, err := p.dial(t, p.box, "udp", boxAddr4+":6003", tunnelled4)
	if err != nil {
		t.Fatal(err)
	}
	if got := converse(t, conn, 1); got != relayed(tunnelled4) {
		t.Error(got)
	}
	if source, err := p.datapath.Maps.Source(maps.UDP, netip.MustParseAddrPort(boxAddr4+":6003")); err != maps.ErrNoRecord {
		t.Errorf("a container's flow has the source %+v, %v", source, err)
	}
}
