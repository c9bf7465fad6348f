package agent

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/maps"
)

// The programs acquire just what is taken somewhere here; see judged_way in
// bpf/judge.h. Rows differ from the first one, or the first of a name.
func TestFlowsThatArriveAreTakenAsTheProgramsMeant(t *testing.T) {
	dst := netip.MustParseAddrPort("192.0.2.7:443")
	original := netip.MustParseAddr("198.51.100.7")
	there := netip.AddrPortFrom(original, dst.Port())
	tunnel := maps.Match{Generation: 5, Entry: maps.Entry{Rule: 3, Action: maps.ActionTunnel, Hardening: maps.HardeningBlock}}
	named := tunnel
	named.Name = maps.Name{Addr: dst.Addr(), Original: original}

	for _, test := range []struct {
		name     string
		match    maps.Match
		change   func(*maps.Match)
		protocol maps.Transport
		want     lead
		err      error
	}{
		{"address of a Tunnel rule", tunnel, nil, maps.TCP, lead{5, 3, dst, false}, nil},
		{"datagrams to it", tunnel, nil, maps.UDP, lead{5, 3, dst, false}, nil},
		{"datagrams that no edge carries", tunnel, func(m *maps.Match) { m.Datagrams = maps.DatagramsRefused }, maps.UDP, lead{}, errRefused},
		{"and that may go direct: they do at the uplink", tunnel, func(m *maps.Match) {
			m.Datagrams, m.Entry.Hardening = maps.DatagramsRefused, maps.HardeningBypass
		}, maps.UDP, lead{}, errRefused},
		{"TCP, where no edge carries datagrams", tunnel, func(m *maps.Match) { m.Datagrams = maps.DatagramsRefused }, maps.TCP, lead{5, 3, dst, false}, nil},
		{"address of a Bypass rule", tunnel, func(m *maps.Match) { m.Entry.Action = maps.ActionBypass }, maps.TCP, lead{}, errUnacquired},
		{"address of no rule", tunnel, func(m *maps.Match) { m.Entry = maps.Entry{} }, maps.TCP, lead{}, errUnacquired},
		{"protected address", tunnel, func(m *maps.Match) { m.Entry.Action = maps.ActionProtect }, maps.TCP, lead{}, errUnacquired},
		{"QUIC that is to fall back", tunnel, func(m *maps.Match) { m.Entry.Action = maps.ActionReject }, maps.UDP, lead{}, errRefused},
		{"synthetic address of no name", tunnel, func(m *maps.Match) { m.Entry.Action = maps.ActionSynthetic }, maps.TCP, lead{}, errRefused},

		{"name of a Tunnel rule", named, nil, maps.TCP, lead{5, 3, dst, false}, nil},
		{"port that no rule of the name covers, of an address of a Tunnel rule", named,
			func(m *maps.Match) { m.ByOriginal = true }, maps.TCP, lead{5, 3, there, false}, nil},
		{"port that no rule covers", named, func(m *maps.Match) { m.ByOriginal, m.Entry = true, maps.Entry{} }, maps.UDP, lead{5, 0, there, true}, nil},
		{"name of a Bypass rule", named, func(m *maps.Match) { m.Entry.Action = maps.ActionBypass }, maps.TCP, lead{5, 3, there, true}, nil},
		{"name of a Bypass rule, without original address", named, func(m *maps.Match) {
			m.Entry.Action, m.Name.Original = maps.ActionBypass, netip.Addr{}
		}, maps.TCP, lead{}, errNoOriginal},
		{"name of which no edge carries datagrams", named, func(m *maps.Match) { m.Datagrams = maps.DatagramsRefused }, maps.UDP, lead{}, errRefused},
		{"and which may go direct", named, func(m *maps.Match) {
			m.Datagrams, m.Entry.Hardening = maps.DatagramsRefused, maps.HardeningBypass
		}, maps.UDP, lead{5, 3, there, true}, nil},
		{"name whose QUIC is to fall back", named, func(m *maps.Match) { m.Entry.Action = maps.ActionReject }, maps.UDP, lead{}, errRefused},
	} {
		m := test.match
		if test.change != nil {
			test.change(&m)
		}
		if got, err := leadOf(m, test.protocol, dst); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: %+v, %v; want %+v, %v", test.name, got, err, test.want, test.err)
		}
	}
}
