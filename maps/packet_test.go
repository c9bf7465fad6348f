package maps

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/bpf"
)

func mac(t *testing.T, text string) net.HardwareAddr {
	t.Helper()
	parsed, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestUplinksAreReadAsWritten(t *testing.T) {
	m := load(t)
	first := Uplink{Index: 2, MAC: mac(t, "02:00:00:00:00:01"), Pair: 7, PairMAC: mac(t, "02:00:00:00:00:02")}
	second := Uplink{Index: 3, Pair: 8, PairMAC: mac(t, "02:00:00:00:00:03"), L3: true}
	for _, u := range []Uplink{first, second} {
		if err := m.SetUplink(u); err != nil {
			t.Fatal(err)
		}
	}
	m.wantUplinks(t, map[uint32]uint32{7: 2, 8: 3}, first, second)

	moved := Uplink{Index: 2, Pair: 9, PairMAC: first.PairMAC} // the address that is known stays
	if err := m.SetUplink(moved); err != nil {
		t.Fatal(err)
	}
	moved.MAC = first.MAC
	m.wantUplinks(t, map[uint32]uint32{9: 2, 8: 3}, moved, second)

	for range 2 { // one that is not there is fine
		if err := m.DeleteUplink(2); err != nil {
			t.Fatal(err)
		}
	}
	second.Pair = 0
	if err := m.SetUplink(second); err != nil {
		t.Fatal(err)
	}
	m.wantUplinks(t, map[uint32]uint32{}, second)
}

func (m *Maps) wantUplinks(t *testing.T, pairs map[uint32]uint32, want ...Uplink) {
	t.Helper()
	all, err := m.Uplinks()
	if err != nil {
		t.Fatal(err)
	}
	got, known := make(map[int]Uplink), make(map[int]Uplink)
	for _, u := range all {
		got[u.Index] = u
	}
	for _, u := range want {
		known[u.Index] = u
	}
	if diff := cmp.Diff(known, got); diff != "" {
		t.Errorf("uplinks:\n%s", diff)
	}
	held := make(map[uint32]uint32)
	var pair, uplink uint32
	elements := m.objects.BpfacqPair.Iterate()
	for elements.Next(&pair, &uplink) {
		held[pair] = uplink
	}
	if diff := cmp.Diff(pairs, held); elements.Err() != nil || diff != "" {
		t.Errorf("pairs: %v\n%s", elements.Err(), diff)
	}
}

func TestSourcesAndOpenersAreFound(t *testing.T) {
	m := load(t)
	from := netip.MustParseAddrPort("10.9.0.2:6000")
	if _, err := m.Source(UDP, from); !errors.Is(err, ErrNoRecord) {
		t.Errorf("unknown source: %v, want ErrNoRecord", err)
	}
	key := bpf.SocketSourceKey{Addr: from.Addr().As16(), Port: wirePort(6000), Protocol: 17}
	if err := m.objects.BpfacqSource.Put(&key, &bpf.SocketSource{Cookie: 3, Pid: 4, Uid: 5}); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Source(UDP, from); err != nil || got != (Source{PID: 4, UID: 5, SocketCookie: 3}) {
		t.Errorf("source is %+v, %v", got, err)
	}
	if _, err := m.Source(TCP, from); !errors.Is(err, ErrNoRecord) {
		t.Errorf("source of the other protocol: %v, want ErrNoRecord", err)
	}

	ends := Ends{Protocol: UDP, Local: from, Remote: netip.MustParseAddrPort("[2001:db8::1]:53")}
	if got, err := m.Opener(ends); err != nil || got != OpenerNone {
		t.Errorf("opener is %s, %v; want none", got, err)
	}
	for _, want := range []Opener{OpenerThere, OpenerHere} {
		if err := m.SetOpener(ends, want); err != nil {
			t.Fatal(err)
		}
		if got, err := m.Opener(ends); err != nil || got != want {
			t.Errorf("opener is %s, %v; want %s", got, err, want)
		}
	}
}

func TestAgentSaysHowPacketsAreTaken(t *testing.T) {
	m := load(t)
	want := Agent{Packets: true, Containers: true, LearnFrom: 5 * time.Second, LeaseUntil: time.Hour}
	if err := m.SetAgent(want); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Agent(); err != nil || got != want {
		t.Errorf("agent is %+v, %v; want %+v", got, err, want)
	}
	want.LearnFrom = 9 * time.Second
	if err := m.SetLearnFrom(want.LearnFrom); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Agent(); err != nil || got != want {
		t.Errorf("agent is %+v, %v; want %+v", got, err, want)
	}
}

func TestChannelKeepsStateAndDatagramsApart(t *testing.T) {
	m := load(t)
	if _, err := m.Store(tables()); err != nil {
		t.Fatal(err)
	}
	want := Channel{ID: "c1", Name: "Private", State: ChannelDown, Datagrams: DatagramsRefused}
	if err := errors.Join(m.SetDatagrams(1, want.Datagrams), m.SetChannelState(1, want.State)); err != nil {
		t.Fatal(err)
	}
	v, err := m.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got, err := lookupChannel(v.inners[innerChannel], 1); err != nil || got != want {
		t.Errorf("channel is %+v, %v; want %+v", got, err, want)
	}
}

func TestMatchAsksTheTablesInForce(t *testing.T) {
	m := load(t)
	if _, err := m.Match(TCP, netip.MustParseAddrPort("10.0.0.1:1")); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("before the first policy: %v, want ErrNoPolicy", err)
	}
	stored := tables()
	stored.IPv4 = rows("10.0.0.0/8", "10.1.0.0/16", "6.6.0.0/16")
	stored.Width = 2
	stored.Entries = append(stored.Entries, Entry{ID: "pool", Action: ActionSynthetic})
	stored.Verdicts = append([]uint32{1, 1, 1, 2, 4, 4}, []uint32{3, 0}...)
	stored.IPv6 = Rows{All: func(func(netip.Prefix, uint32) bool) {}}
	stored.Names = []Name{
		{Addr: netip.MustParseAddr("6.6.0.1"), Original: netip.MustParseAddr("10.1.0.1"), Row: 6},
		{Addr: netip.MustParseAddr("6.6.0.2"), Row: 6},
	}
	for generation := uint32(1); generation <= 2; generation++ {
		if _, err := m.Store(stored); err != nil {
			t.Fatal(err)
		}
		if err := m.SetDatagrams(1, DatagramsCarried); err != nil {
			t.Fatal(err)
		}
		none, bypass, https, v6, pool := Entry{}, stored.Entries[0], stored.Entries[1], stored.Entries[2], stored.Entries[3]
		first, second := stored.Names[0], stored.Names[1]
		tests := []struct {
			protocol Transport
			to       string
			want     Match
		}{
			{TCP, "11.0.0.1:443", Match{Entry: none}},
			{TCP, "[::ffff:10.1.0.1]:443", Match{Entry: https, Datagrams: DatagramsCarried}},
			{UDP, "10.1.0.1:443", Match{Entry: bypass}},
			{TCP, "6.6.0.1:80", Match{Entry: v6, Name: first, Datagrams: DatagramsCarried}},
			{TCP, "6.6.0.1:443", Match{Entry: https, Name: first, ByOriginal: true, Datagrams: DatagramsCarried}},
			{TCP, "6.6.0.2:443", Match{Entry: none, Name: second}},
			{TCP, "6.6.0.3:443", Match{Entry: pool}},
		}
		for _, test := range tests {
			test.want.Generation = generation
			got, err := m.Match(test.protocol, netip.MustParseAddrPort(test.to))
			if err != nil || got != test.want {
				t.Errorf("%s %s: %+v, %v; want %+v", test.protocol, test.to, got, err, test.want)
			}
		}
	}
}

func TestSharedMapsAreThoseOfTheOtherObject(t *testing.T) {
	m := load(t)
	spec, err := bpf.LoadPacket()
	if err != nil {
		t.Fatal(err)
	}
	shared := m.Packets(spec)
	for name := range spec.Maps {
		own := name == ".rodata" || name == bpf.PacketMapBpfacqSocket
		if _, ok := shared[name]; ok == own {
			t.Errorf("map %s is shared: %t", name, ok)
		}
		if len(name) > 15 {
			t.Errorf("%q has %d bytes, want at most 15", name, len(name))
		}
	}
}

func TestDumpShowsThePacketPath(t *testing.T) {
	m := load(t)
	uplink := Uplink{Index: 2, MAC: mac(t, "02:00:00:00:00:01"), Pair: 7, PairMAC: mac(t, "02:00:00:00:00:02"), L3: true}
	local, remote := netip.MustParseAddrPort("10.9.0.2:6000"), netip.MustParseAddrPort("10.1.0.1:53")
	err := errors.Join(
		m.SetUplink(uplink),
		m.SetOpener(Ends{UDP, local, remote}, OpenerThere),
		m.objects.BpfacqSource.Put(
			&bpf.SocketSourceKey{Addr: local.Addr().As16(), Port: wirePort(6000), Protocol: 6}, &bpf.SocketSource{Cookie: 3, Pid: 4, Uid: 5}),
		m.objects.BpfacqFragment.Put(
			&bpf.SocketFragmentKey{LocalAddr: local.Addr().As16(), RemoteAddr: remote.Addr().As16(), Id: 8, Protocol: 17},
			&bpf.SocketFragment{Way: uint32(bpf.SocketCounterCOUNTER_PACKET_ACQUIRE)}),
	)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][][]any{
		"uplink":   {{2, "02:00:00:00:00:01", 7, "02:00:00:00:00:02", true}},
		"pair":     {{uint32(7), uint32(2)}},
		"source":   {{"tcp", "10.9.0.2:6000", uint32(4), uint32(5), uint64(3)}},
		"opening":  {{"udp", "10.9.0.2:6000", "10.1.0.1:53", "there"}},
		"fragment": {{"udp", "10.9.0.2", "10.1.0.1", uint32(8), "packet_acquire"}},
	}
	for name, rows := range want {
		d, err := m.Dump(name)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]any
		for row, err := range d.Rows {
			if err != nil {
				t.Fatal(err)
			}
			if name == "opening" {
				row = row[:4] // without the time
			}
			got = append(got, row)
		}
		if diff := cmp.Diff(rows, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
