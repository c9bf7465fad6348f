package loader_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestMain(m *testing.M) {
	os.Exit(testutil.Main(m, map[string]testutil.Scenario{
		"connect": connect,
		"load":    load,
		"attach":  attach,
		"store":   loadAndStore,
	}))
}

// connect dials the address and prints the errno, or what getpeername says.
func connect(args []string, stdout io.Writer) error {
	conn, err := net.DialTimeout("tcp", args[0], 5*time.Second)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		_, err := fmt.Fprint(stdout, errno)
		return err
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = fmt.Fprint(stdout, conn.RemoteAddr())
	return err
}

// bed is a namespace without routes, a cgroup in it, and a pin folder.
type bed struct {
	ns     *netns.Namespace
	cgroup string
	other  string // another cgroup, for tests that need two
	pins   string
}

func newBed(t *testing.T) *bed {
	return &bed{
		ns:     testutil.Netns(t),
		cgroup: testutil.Cgroup(t),
		pins:   filepath.Join(testutil.BPFFS(t), "bpfacq"),
	}
}

func (b *bed) load(t *testing.T) *loader.Datapath {
	t.Helper()
	d, err := loader.Load(loader.Options{Cgroup: b.cgroup, Pins: b.pins})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	return d
}

func remove(d *loader.Datapath) {
	d.Detach()
	d.Close()
}

// announce makes an agent of the test: a listener in the namespace, a lease.
func (b *bed) announce(t *testing.T, d *loader.Datapath, lease time.Duration) {
	t.Helper()
	l, err := b.ns.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var cookie uint64
	err = b.ns.Do(func() (err error) {
		cookie, err = d.NetnsCookie() // b.ns.Cookie does not know before Linux 5.14
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := maps.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	err = d.Maps.SetAgent(maps.Agent{
		LeaseUntil:  now + lease,
		NetnsCookie: cookie,
		Port4:       netip.MustParseAddrPort(l.Addr().String()).Port(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tunnelAll is a policy with one Tunnel rule for 192.0.2.0/24.
func tunnelAll(hardening maps.Hardening) *maps.Tables {
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	return &maps.Tables{
		IPv4: maps.Rows{Len: 1, All: func(yield func(netip.Prefix, uint32) bool) { yield(prefix, 0) }},
		IPv6: maps.Rows{All: func(func(netip.Prefix, uint32) bool) {}},
		TCP:  new([65536]uint16), UDP: new([65536]uint16),
		Verdicts: []uint32{1},
		Entries:  []maps.Entry{{ID: "all", Order: 1, Action: maps.ActionTunnel, Hardening: hardening}},
		Channels: []maps.Channel{{ID: "c", Name: "Private"}},
	}
}

func store(t *testing.T, d *loader.Datapath, tables *maps.Tables) uint32 {
	t.Helper()
	generation, err := d.Maps.Store(tables)
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

const (
	acquired = "192.0.2.7:80"            // what getpeername says
	direct   = "network is unreachable"  // the namespace has no route
	refused  = "connection refused"      // by the hook
	denied   = "operation not permitted" // by the hook, where it cannot choose
)

func (b *bed) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	got := testutil.Child(t, b.ns, b.cgroup, "connect", acquired)
	for _, w := range want {
		if got == w {
			return
		}
	}
	t.Errorf("%s: connect gives %q, want %q", when, got, want)
}

func TestAcquiresOnlyWithPolicyAndLease(t *testing.T) {
	b := newBed(t)
	d := b.load(t)
	defer remove(d)

	b.expect(t, "no agent, no policy", direct)
	b.announce(t, d, time.Hour)
	b.expect(t, "no policy", direct)
	counters, err := d.Maps.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for c, n := range counters {
		if want := map[string]uint64{"pass_inactive": 2}[c.String()]; n != want {
			t.Errorf("counter %s is %d, want %d", c, n, want)
		}
	}
	if got := store(t, d, tunnelAll(maps.HardeningBypass)); got != 1 {
		t.Errorf("first generation is %d, want 1", got)
	}
	b.expect(t, "policy and lease", acquired)

	if err := d.Maps.EndLease(); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "lease lapsed, hardening Bypass", direct)
	store(t, d, tunnelAll(maps.HardeningBlock))
	b.expect(t, "lease lapsed, hardening Block", refused, denied)
}

func TestTakesOverPinsWithoutGap(t *testing.T) {
	b := newBed(t)
	first := b.load(t)
	b.announce(t, first, time.Hour)
	store(t, first, tunnelAll(maps.HardeningBypass))
	before, err := first.Hooks()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "agent gone, lease runs", acquired)

	second := b.load(t)
	defer remove(second)
	if !second.TookOver {
		t.Error("second agent did not take over")
	}
	after, err := second.Hooks()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 9 || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("links changed:\n%v\n%v", before, after)
	}
	if generation, err := second.Maps.Generation(); err != nil || generation != 1 {
		t.Errorf("generation %d, %v; want 1", generation, err)
	}
	b.expect(t, "second agent", acquired)
}

// What the programs know of names and of DNS is in force without a gap, too.
func TestTakesOverNamesAndPools(t *testing.T) {
	b := newBed(t)
	first := b.load(t)
	b.announce(t, first, time.Hour)
	pools := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	if err := first.Maps.SetDNS(5300, 5300, pools); err != nil {
		t.Fatal(err)
	}
	generation := store(t, first, synthetic())
	known := maps.Name{Addr: netip.MustParseAddr("192.0.2.7"), Row: 1}
	if err := first.Maps.PutName(generation, known); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "first agent", acquired)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := b.load(t)
	defer remove(second)
	b.announce(t, second, time.Hour)
	b.expect(t, "second agent", acquired)
	if got, err := second.Maps.Pools(); err != nil || !slices.Equal(got, pools) {
		t.Errorf("pools %v, %v; want %v", got, err, pools)
	}
	// It cannot know what the first one left free.
	if err := second.Maps.PutName(generation, known); !errors.Is(err, maps.ErrGeneration) {
		t.Errorf("name put into the first agent's generation: %v, want ErrGeneration", err)
	}
	tables := synthetic()
	tables.Names = []maps.Name{known}
	next := store(t, second, tables)
	b.expect(t, "stored again", acquired)
	if err := second.Maps.DeleteName(next, known.Addr); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "forgotten", refused, denied)
}

// synthetic is tunnelAll where the whole prefix is synthetic, and room for a name
// that is tunnelled: row 1.
func synthetic() *maps.Tables {
	t := tunnelAll(maps.HardeningBypass)
	t.Entries = append(t.Entries, maps.Entry{ID: "pool", Action: maps.ActionSynthetic})
	t.Verdicts, t.Width, t.SpareNames = []uint32{2, 1}, 1, 1
	return t
}

func TestTakeOverFollowsAnotherCgroup(t *testing.T) {
	b := newBed(t)
	first := b.load(t)
	b.announce(t, first, time.Hour)
	store(t, first, tunnelAll(maps.HardeningBypass))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	old := b.cgroup
	b.cgroup = testutil.Cgroup(t)
	second := b.load(t)
	defer remove(second)
	b.expect(t, "new cgroup", acquired)
	b.cgroup = old
	b.expect(t, "old cgroup", direct)
}

func TestSecondAgentIsRefused(t *testing.T) {
	b := newBed(t)
	d := b.load(t)
	defer remove(d)

	_, err := loader.Load(loader.Options{Cgroup: b.cgroup, Pins: b.pins})
	if !errors.Is(err, loader.ErrLocked) {
		t.Errorf("second agent: %v, want ErrLocked", err)
	}
	if _, err := loader.Detach(b.pins); !errors.Is(err, loader.ErrLocked) {
		t.Errorf("detach beside an agent: %v, want ErrLocked", err)
	}
}

func TestDetachLeavesNothing(t *testing.T) {
	b := newBed(t)
	d := b.load(t)
	b.announce(t, d, time.Hour)
	store(t, d, tunnelAll(maps.HardeningBlock))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	for _, want := range []bool{true, false} {
		if removed, err := loader.Detach(b.pins); err != nil || removed != want {
			t.Errorf("detach: %t, %v; want %t", removed, err, want)
		}
	}
	if _, err := os.Stat(b.pins); !os.IsNotExist(err) {
		t.Errorf("pin folder after detach: %v", err)
	}
	b.expect(t, "detached", direct)
}

func TestMissingHostPartsAreNamedWithRemedy(t *testing.T) {
	cgroup, bpffs := testutil.Cgroup(t), testutil.BPFFS(t)
	tests := []struct {
		name string
		opts loader.Options
		want error
	}{
		{"pins off bpffs", loader.Options{Cgroup: cgroup, Pins: filepath.Join(t.TempDir(), "bpfacq")}, loader.ErrNotBPFFS},
		{"pins below a missing folder", loader.Options{Cgroup: cgroup, Pins: filepath.Join(bpffs, "no", "bpfacq")}, os.ErrNotExist},
		{"cgroup off cgroup2", loader.Options{Cgroup: t.TempDir(), Pins: filepath.Join(bpffs, "a")}, loader.ErrNoCgroup2},
		{"missing cgroup", loader.Options{Cgroup: filepath.Join(cgroup, "no"), Pins: filepath.Join(bpffs, "a")}, os.ErrNotExist},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, err := loader.Load(test.opts)
			if d != nil || !errors.Is(err, test.want) {
				t.Fatalf("got %v, %v; want %v", d, err, test.want)
			}
			if e, ok := errors.AsType[*loader.Error](err); !ok || e.Remedy() == "" {
				t.Errorf("%v has no remedy", err)
			}
		})
	}
}
