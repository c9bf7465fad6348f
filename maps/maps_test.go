package maps

import (
	"errors"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// load makes the maps without any program.
func load(t testing.TB) *Maps {
	t.Helper()
	testutil.Privileged(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	var objects bpf.SocketMaps
	if err := bpf.LoadSocketObjects(&objects, nil); err != nil {
		t.Fatal(err)
	}
	m, err := New(objects)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestEveryMapOfTheObjectIsKnown(t *testing.T) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		t.Fatal(err)
	}
	var inObject []string
	for name := range spec.Maps {
		if name != ".rodata" {
			inObject = append(inObject, name)
		}
	}
	slices.Sort(inObject)
	known := slices.Sorted(stdmaps.Keys(byName(&bpf.SocketMaps{})))
	if diff := cmp.Diff(inObject, known); diff != "" {
		t.Errorf("object against byName:\n%s", diff)
	}
}

// The kernel cuts longer names, and bpftool then shows half a word.
func TestNamesFitTheKernel(t *testing.T) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		t.Fatal(err)
	}
	names := slices.AppendSeq(slices.Collect(stdmaps.Keys(spec.Maps)), stdmaps.Keys(spec.Programs))
	for _, name := range names {
		if len(name) > 15 {
			t.Errorf("%q has %d bytes, want at most 15", name, len(name))
		}
	}
}

func TestEveryCounterHasItsOwnName(t *testing.T) {
	seen := make(map[string]Counter)
	for c := range AllCounters() {
		name := c.String()
		if name == fmt.Sprintf("counter(%d)", c) {
			t.Errorf("counter %d has no name", c)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("counters %d and %d are both %q", other, c, name)
		}
		seen[name] = c
	}
	if len(seen) != int(Counters) {
		t.Errorf("%d names for %d counters", len(seen), Counters)
	}
}

func TestEveryMapCanBeDumped(t *testing.T) {
	m := load(t)
	for _, name := range Names() {
		d, err := m.Dump(name)
		if err != nil {
			t.Errorf("dump %s: %v", name, err)
			continue
		}
		for row, err := range d.Rows {
			if err != nil {
				t.Errorf("dump %s: %v", name, err)
			}
			if len(row) != len(d.Columns) {
				t.Errorf("dump %s: row %v for columns %v", name, row, d.Columns)
			}
		}
	}
	if _, err := m.Dump("nonsense"); err == nil {
		t.Error("dump of an unknown map gives no error")
	}
}

// rows yields prefixes with consecutive rows.
func rows(prefixes ...string) Rows {
	return Rows{Len: len(prefixes), All: func(yield func(netip.Prefix, uint32) bool) {
		for i, p := range prefixes {
			if !yield(netip.MustParsePrefix(p), uint32(i)*2) {
				return
			}
		}
	}}
}

// tables have two port classes: 443 and the rest. 10.0.0.0/8 is bypassed, but
// for 443 of 10.1.0.0/16; 2001:db8::/32 is tunnelled whole.
func tables() *Tables {
	t := &Tables{
		IPv4:     rows("10.0.0.0/8", "10.1.0.0/16"),
		IPv6:     rows("::/0", "::/1", "2001:db8::/32"),
		TCP:      new([65536]uint16),
		UDP:      new([65536]uint16),
		Verdicts: []uint32{1, 1, 1, 2, 3, 3},
		Entries: []Entry{
			{ID: "bypass", Order: 2.5, Action: ActionBypass, Hardening: HardeningBypass},
			{ID: "https", Order: 1, Rule: 1, Channel: 1, Action: ActionTunnel, Hardening: HardeningBlock},
			{ID: "v6", Order: 3, Rule: 2, Channel: 1, Action: ActionTunnel, Hardening: HardeningBypass},
		},
		Channels: []Channel{{ID: "c0", Name: "Internet"}, {ID: "c1", Name: "Private", State: ChannelUp}},
	}
	t.TCP[443] = 1
	return t
}

func TestStoredPolicyAnswersAsWritten(t *testing.T) {
	m := load(t)
	if _, err := m.View(); !errors.Is(err, ErrNoPolicy) {
		t.Fatalf("view before the first policy: %v, want ErrNoPolicy", err)
	}
	if generation, err := m.Store(tables()); err != nil || generation != 1 {
		t.Fatalf("store: generation %d, %v; want 1", generation, err)
	}
	v, err := m.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()

	tests := []struct {
		proto Transport
		addr  string
		port  uint16
		want  string
	}{
		{TCP, "10.1.2.3", 443, "https"},
		{TCP, "::ffff:10.1.2.3", 443, "https"},
		{TCP, "10.1.2.3", 444, "bypass"},
		{UDP, "10.1.2.3", 443, "bypass"},
		{TCP, "10.2.0.1", 443, "bypass"},
		{TCP, "11.0.0.1", 443, ""},
		{TCP, "2001:db8::1", 443, "v6"},
		{TCP, "2001:db8::1%eth0", 80, "v6"},
	}
	for _, test := range tests {
		entry, found, err := v.Lookup(test.proto, netip.MustParseAddr(test.addr), test.port)
		if err != nil || entry.ID != test.want || found != (test.want != "") {
			t.Errorf("%d %s %d: %q, %t, %v; want %q", test.proto, test.addr, test.port, entry.ID, found, err, test.want)
		}
	}
	if entry, err := v.Entry(1); err != nil || entry != tables().Entries[1] {
		t.Errorf("entry 1 is %+v, %v; want %+v", entry, err, tables().Entries[1])
	}
}

func TestNextPolicyReplacesAndFreesTheOld(t *testing.T) {
	m := load(t)
	for want := uint32(1); want <= 3; want++ {
		generation, err := m.Store(tables())
		if err != nil || generation != want {
			t.Fatalf("store: generation %d, %v; want %d", generation, err, want)
		}
		if v, err := m.View(); err != nil || v.Generation != want {
			t.Fatalf("view of generation %d: %v", want, err)
		} else {
			v.Close()
		}
		if old, err := inner(m.objects.BpfacqPrefix4, want-1); err == nil {
			old.Close()
			t.Errorf("slot of generation %d is not free", want-1)
		}
	}
}

func TestRefusedTablesLeaveTheOldPolicy(t *testing.T) {
	m := load(t)
	if _, err := m.Store(tables()); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		mutate func(*Tables)
	}{
		{"fewer prefixes than announced", func(t *Tables) { t.IPv4.Len++ }},
		{"verdict without entry", func(t *Tables) { t.Verdicts[0] = 9 }},
		{"more prefixes than announced", func(t *Tables) { t.IPv6.Len-- }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bad := tables()
			test.mutate(bad)
			if _, err := m.Store(bad); err == nil {
				t.Error("stored")
			}
			if generation, err := m.Generation(); err != nil || generation != 1 {
				t.Errorf("generation %d, %v; want 1", generation, err)
			}
		})
	}
}

func TestManyPrefixesAreStored(t *testing.T) {
	m := load(t)
	const n = 3*chunk + 17
	big := tables()
	big.IPv4 = Rows{Len: n, All: func(yield func(netip.Prefix, uint32) bool) {
		for i := range n {
			addr := netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)})
			if !yield(netip.PrefixFrom(addr, 32), uint32(i%2)*2) {
				return
			}
		}
	}}
	if _, err := m.Store(big); err != nil {
		t.Fatal(err)
	}
	d, err := m.Dump("prefix4")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[any]bool)
	for row, err := range d.Rows {
		if err != nil {
			t.Fatal(err)
		}
		seen[row[0]] = true
	}
	if len(seen) != n {
		t.Errorf("%d prefixes in the kernel, want %d", len(seen), n)
	}
}

func TestDumpShowsThePolicyInItsUsersWords(t *testing.T) {
	m := load(t)
	if _, err := m.Store(tables()); err != nil {
		t.Fatal(err)
	}
	want := map[string][][]any{
		"active":  {{uint32(1), uint32(1)}},
		"prefix4": {{"10.0.0.0/8", uint32(0)}, {"10.1.0.0/16", uint32(1)}},
		"ports": {
			{"tcp", "0-442", uint16(0)}, {"tcp", "443", uint16(1)}, {"tcp", "444-65535", uint16(0)},
			{"udp", "0-65535", uint16(0)},
		},
		"entry": {
			{uint32(0), "bypass", 2.5, "bypass", "bypass", "c0"},
			{uint32(1), "https", 1.0, "tunnel", "block", "c1"},
			{uint32(2), "v6", 3.0, "tunnel", "bypass", "c1"},
		},
		"channel": {{uint32(0), "c0", "Internet", "unknown", "unknown"}, {uint32(1), "c1", "Private", "up", "unknown"}},
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
			got = append(got, row)
		}
		slices.SortFunc(got, func(a, b []any) int {
			return strings.Compare(fmt.Sprint(a...), fmt.Sprint(b...))
		})
		if diff := cmp.Diff(rows, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestChannelStateIsShown(t *testing.T) {
	m := load(t)
	if err := m.SetChannelState(0, ChannelDown); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("state without policy: %v, want ErrNoPolicy", err)
	}
	if _, err := m.Store(tables()); err != nil {
		t.Fatal(err)
	}
	if err := m.SetChannelState(0, ChannelDown); err != nil {
		t.Fatal(err)
	}
	if err := m.SetChannelState(7, ChannelDown); err == nil {
		t.Error("state of a channel that is not there is stored")
	}
	d, err := m.Dump("channel")
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range d.Rows {
		want := map[any]string{uint32(0): "down", uint32(1): "up"}[row[0]]
		if err != nil || row[3] != want {
			t.Errorf("channel %v: %v, want %s", row, err, want)
		}
	}
}

func TestAgentIsAnnouncedWithItsLease(t *testing.T) {
	m := load(t)
	now, err := Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	want := Agent{LeaseUntil: now + time.Hour, NetnsCookie: 4097, Port4: 0x1234, Port6: 443}
	if err := m.SetAgent(want); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Agent(); err != nil || got != want {
		t.Errorf("agent is %+v, %v; want %+v", got, err, want)
	}
	if err := m.Renew(time.Minute); err != nil {
		t.Fatal(err)
	}
	got, err := m.Agent()
	if err != nil || got.LeaseUntil < now+time.Minute || got.LeaseUntil > now+2*time.Minute {
		t.Errorf("renewed lease is %v, %v; want a minute after %v", got.LeaseUntil, err, now)
	}
	if err := m.EndLease(); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Agent(); err != nil || got.LeaseUntil != 0 || got.Port4 != want.Port4 {
		t.Errorf("agent after the lease is %+v, %v", got, err)
	}
}

func BenchmarkStoreMillionPrefixes(b *testing.B) {
	m := load(b)
	big := tables()
	big.IPv4 = Rows{Len: 1_000_000, All: func(yield func(netip.Prefix, uint32) bool) {
		for i := range 1_000_000 {
			addr := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 0})
			if !yield(netip.PrefixFrom(addr, 24), uint32(i%2)*2) {
				return
			}
		}
	}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Store(big); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStoreSmallPolicy(b *testing.B) {
	m := load(b)
	small := tables()
	for b.Loop() {
		if _, err := m.Store(small); err != nil {
			b.Fatal(err)
		}
	}
}
