package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	kernel "github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/dns"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// fakeTables are the kernel's tables of names.
type fakeTables struct {
	mu         sync.Mutex
	generation uint32
	rows       [][]uint32
	spare      int // rows that can be appended
	width      int
	names      map[netip.Addr]string // to the original address and the cells
	writes     int
}

func (f *fakeTables) AppendRow(generation uint32, cells []uint32) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case generation != f.generation:
		return 0, kernel.ErrGeneration
	case f.spare == 0:
		return 0, kernel.ErrRowsFull
	}
	f.spare--
	f.rows = append(f.rows, cells)
	return uint32((len(f.rows) - 1) * f.width), nil
}

func (f *fakeTables) PutName(generation uint32, n kernel.Name) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if generation != f.generation {
		return kernel.ErrGeneration
	}
	f.writes++
	f.put(n)
	return nil
}

func (f *fakeTables) put(n kernel.Name) {
	cells := f.rows[int(n.Row)/f.width]
	winners := slices.Compact(slices.DeleteFunc(slices.Sorted(slices.Values(cells)), func(c uint32) bool { return c == 0 }))
	f.names[n.Addr] = fmt.Sprintf("%v by %v", n.Original, winners)
}

// store is maps.Store: it puts t in force.
func (f *fakeTables) store(t *kernel.Tables, spare int) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	f.width, f.rows, f.names, f.spare = t.Width, slices.Collect(slices.Chunk(t.Verdicts, t.Width)), make(map[netip.Addr]string), spare
	for _, n := range t.Names {
		f.put(n)
	}
	return f.generation, nil
}

func (f *fakeTables) has(addr string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names[netip.MustParseAddr(addr)]
}

// bench is names with fake tables, and a policy that can be changed.
type bench struct {
	*names
	tables *fakeTables
	cfg    config.Config
	spare  int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{tables: &fakeTables{}, cfg: config.Default(), spare: 8}
	b.cfg.StateDir = filepath.Join(t.TempDir(), "state")
	b.names = newNames(b.tables, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(func() { b.names.close() })
	return b
}

// namesPolicy tunnels corp.example except www, on port 443 and with an edge that
// is not there, and has a channel that is down.
func namesPolicy(t *testing.T) *policy.Policy {
	t.Helper()
	rule := func(id string, action policy.Action, pattern string, ports policy.PortRange, channel string, h policy.Hardening) policy.Rule {
		n, err := policy.ParseNamePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return policy.Rule{
			ID: id, Action: action, Names: []policy.NamePattern{n}, Ports: []policy.PortRange{ports},
			Protocols: policy.AnyProtocol, Channel: channel, Hardening: h,
		}
	}
	https, open := policy.PortRange{First: 443, Last: 443}, policy.HardeningBypass
	return &policy.Policy{
		Channels: []policy.Channel{{ID: "c0", Name: "Internet"}, {ID: "c1", Name: "Private"}},
		Rules: []policy.Rule{
			rule("www", policy.ActionBypass, `www\.corp\.example`, policy.AllPorts(), "c0", 0),
			rule("corp", policy.ActionTunnel, `.+\.corp\.example`, https, "c1", policy.HardeningBlock),
			rule("open", policy.ActionTunnel, `.+\.open\.example`, https, "c1", open),
		},
		Settings: policy.Settings{SyntheticPool: netip.MustParsePrefix("6.6.0.0/24")},
	}
}

// apply puts p in force, as Agent.enforce does.
func (b *bench) apply(t *testing.T, p *policy.Policy, down ...bool) error {
	t.Helper()
	p.AlsoMatchOriginal = b.cfg.FQDN.AlsoMatchOriginalIP
	from := poolOf(p, &b.cfg)
	p.Pools = from.prefixes()
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	e := &epoch{}
	for range p.Rules {
		c := channel.New(channel.Options{}) // without an edge it is down
		t.Cleanup(func() { c.Close() })
		if len(down) > 0 {
			e.routes = append(e.routes, route{carrier: &carrier{Channel: c}})
		} else {
			e.routes = append(e.routes, route{})
		}
	}
	g, tables := newNaming(p, compiled, e, &b.cfg), Tables(p, compiled)
	return b.flip(g, from, tables, func() (uint32, error) { return b.tables.store(tables, b.spare) })
}

func (b *bench) mustApply(t *testing.T, p *policy.Policy, down ...bool) {
	t.Helper()
	if err := b.apply(t, p, down...); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) mustAssign(t *testing.T, name, original string) string {
	t.Helper()
	a, err := b.Assign(t.Context(), name, known(original))
	if err != nil {
		t.Fatal(err)
	}
	return a.IPv4.String()
}

func known(original string) dns.Original {
	addr, _ := netip.ParseAddr(original)
	return dns.Original{Known: original != "", Addr: addr}
}

func TestJudgementFollowsRulesInOrder(t *testing.T) {
	b := newBench(t)
	if j := b.Judge("a.corp.example", netip.Addr{}); j != (dns.Judgement{}) {
		t.Errorf("without a policy a name is judged %+v", j)
	}
	b.mustApply(t, namesPolicy(t))
	for name, rule := range map[string]string{
		"a.corp.example": "corp", "A.Corp.Example": "corp", "www.corp.example": "", "corp.example": "", "a.open.example": "open", "": "", "..": "",
	} {
		for range 2 { // the second time from memory
			if j := b.Judge(name, netip.Addr{}); j.Rule != rule || j.Acquired != (rule != "") || j.Bypassed || j.Undecided {
				t.Errorf("%q is judged %+v, want rule %q", name, j, rule)
			}
		}
	}
}

func TestHardeningDecidesWhileTheChannelIsDown(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t), true)
	if j := b.Judge("a.corp.example", netip.Addr{}); !j.Acquired || j.Bypassed {
		t.Errorf("Block: %+v, want an acquired name", j)
	}
	if j := b.Judge("a.open.example", netip.Addr{}); j.Acquired || !j.Bypassed || j.Rule != "open" {
		t.Errorf("Bypass: %+v, want a bypassed name", j)
	}
}

func TestAssignedNameIsInTheKernelsTables(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t))
	if got := b.mustAssign(t, "a.corp.example", "192.0.2.7"); got != "6.6.0.1" {
		t.Errorf("address is %s", got)
	}
	if got := b.tables.has("6.6.0.1"); got != "192.0.2.7 by [2]" {
		t.Errorf("kernel has %q", got)
	}
	if j := b.Judge("a.corp.example", netip.Addr{}); j.Address.IPv4.String() != "6.6.0.1" {
		t.Errorf("judged as %+v, want its address", j)
	}
	for _, step := range []struct {
		original, want string
		writes         int
	}{
		{"192.0.2.7", "192.0.2.7 by [2]", 1},
		{"", "192.0.2.7 by [2]", 1}, // upstream said nothing
		{"192.0.2.8", "192.0.2.8 by [2]", 2},
		{"6.6.0.9", "invalid IP by [2]", 3},          // leads back to here
		{"::ffff:192.0.2.9", "invalid IP by [2]", 4}, // of another family
	} {
		b.mustAssign(t, "a.corp.example", step.original)
		if got := b.tables.has("6.6.0.1"); got != step.want || b.tables.writes != step.writes {
			t.Errorf("original %q: kernel has %q after %d writes, want %q after %d", step.original, got, b.tables.writes, step.want, step.writes)
		}
	}
	b.mustAssign(t, "b.corp.example", "")
	if rows := len(b.tables.rows); rows != 3 {
		t.Errorf("there are %d rows, want the empty one, the pool's, and one for both names", rows)
	}
	if name, pooled := b.Reverse(netip.MustParseAddr("6.6.0.2")); name != "b.corp.example" || !pooled {
		t.Errorf("reverse is %q, %t", name, pooled)
	}
	if name, pooled := b.Reverse(netip.MustParseAddr("6.6.0.3")); name != "" || !pooled {
		t.Errorf("reverse of an unused address is %q, %t", name, pooled)
	}
	if _, pooled := b.Reverse(netip.MustParseAddr("6.7.0.3")); pooled {
		t.Error("an address elsewhere is pooled")
	}
}

func TestNextPolicyHasTheNamesOfTheLast(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t))
	b.mustAssign(t, "a.corp.example", "192.0.2.7")
	next := namesPolicy(t)
	next.Rules = next.Rules[1:]
	b.mustApply(t, next)
	if got := b.tables.has("6.6.0.1"); got != "192.0.2.7 by [1]" {
		t.Errorf("kernel has %q", got)
	}
	next = namesPolicy(t)
	next.Rules = next.Rules[2:] // no rule for the name is left
	b.mustApply(t, next)
	if got := b.tables.has("6.6.0.1"); got != "192.0.2.7 by []" {
		t.Errorf("kernel has %q", got)
	}
	if j := b.Judge("a.corp.example", netip.Addr{}); j.Acquired {
		t.Errorf("judged as %+v", j)
	}
}

func TestNameThatIsAssignedWhileAPolicyComesIsInIt(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t))
	for i := range 50 {
		var assigning sync.WaitGroup
		name := fmt.Sprintf("n%d.corp.example", i)
		assigning.Go(func() {
			if _, err := b.Assign(context.Background(), name, known("192.0.2.7")); err != nil {
				t.Error(err)
			}
		})
		b.mustApply(t, namesPolicy(t))
		assigning.Wait()
		if addr := b.Judge(name, netip.Addr{}).Address.IPv4; b.tables.names[addr] != "192.0.2.7 by [2]" {
			t.Errorf("%s at %v: kernel has %q", name, addr, b.tables.names[addr])
		}
	}
}

func TestFullTableHasThePolicyStoredAgain(t *testing.T) {
	b := newBench(t)
	b.spare = 0
	b.mustApply(t, namesPolicy(t))
	result := make(chan error, 1)
	go func() {
		_, err := b.Assign(context.Background(), "a.corp.example", known(""))
		result <- err
	}()
	select {
	case <-b.full:
	case err := <-result:
		t.Fatalf("Assign returned %v without asking for room", err)
	}
	b.mustApply(t, namesPolicy(t))
	if err := <-result; err != nil {
		t.Errorf("Assign returned %v after there was room", err)
	}
	if got := b.tables.has("6.6.0.1"); got != "invalid IP by [2]" {
		t.Errorf("kernel has %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := b.Assign(ctx, "a.open.example", known(""))
		result <- err
	}()
	<-b.full
	cancel()
	if err := <-result; !errors.Is(err, kernel.ErrRowsFull) || !errors.Is(err, context.Canceled) {
		t.Errorf("Assign returned %v, want that there is no room", err)
	}
}

func TestRestartGivesTheSameAddresses(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t))
	b.mustAssign(t, "a.corp.example", "192.0.2.7")
	b.mustAssign(t, "b.corp.example", "192.0.2.8")
	b.names.close()

	again := newBench(t)
	again.cfg.StateDir = b.cfg.StateDir
	again.mustApply(t, namesPolicy(t))
	want := map[netip.Addr]string{
		netip.MustParseAddr("6.6.0.1"): "invalid IP by [2]", netip.MustParseAddr("6.6.0.2"): "invalid IP by [2]",
	}
	if diff := cmp.Diff(want, again.tables.names, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Errorf("kernel's names (-want +got):\n%s", diff)
	}
	if got := again.mustAssign(t, "b.corp.example", ""); got != "6.6.0.2" {
		t.Errorf("address is %s", got)
	}
}

func TestPolicyThatIsNotStoredLeavesThePool(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t))
	b.mustAssign(t, "a.corp.example", "192.0.2.7")

	p := namesPolicy(t)
	p.Rules = p.Rules[:1] // no use for a pool
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	refuse := errors.New("refuse")
	g := newNaming(p, compiled, &epoch{}, &b.cfg)
	if err := b.flip(g, poolOf(p, &b.cfg), Tables(p, compiled), func() (uint32, error) { return 0, refuse }); !errors.Is(err, refuse) {
		t.Fatalf("flip returned %v", err)
	}
	if got := b.mustAssign(t, "a.corp.example", "192.0.2.7"); got != "6.6.0.1" {
		t.Errorf("address is %s after a policy was not stored", got)
	}
	if got := b.mustAssign(t, "b.corp.example", ""); got != "6.6.0.2" {
		t.Errorf("next address is %s", got)
	}
}

func TestPoolThatCannotBeOpenedLeavesTheRest(t *testing.T) {
	b := newBench(t)
	b.cfg.StateDir = "/proc/nowhere"
	b.mustApply(t, namesPolicy(t))
	g := b.current.Load()
	if g.generation != 1 || g.cause == "" || g.queried || g.poolErr == nil {
		t.Errorf("naming is %+v, want one in force that says what is wrong", g)
	}
	if j := b.Judge("a.corp.example", netip.Addr{}); j != (dns.Judgement{}) {
		t.Errorf("judged as %+v", j)
	}
	if _, err := b.Assign(t.Context(), "a.corp.example", known("")); !errors.Is(err, errNoPool) {
		t.Errorf("Assign returned %v", err)
	}
	b.cfg.StateDir = t.TempDir()
	b.mustApply(t, namesPolicy(t))
	if got := b.mustAssign(t, "a.corp.example", ""); got != "6.6.0.1" {
		t.Errorf("address is %s once there is a folder", got)
	}
}

func TestNamesOfAnotherPoolAreDropped(t *testing.T) {
	b := newBench(t)
	b.mustApply(t, namesPolicy(t))
	b.mustAssign(t, "a.corp.example", "192.0.2.7")
	next := namesPolicy(t)
	next.Settings.SyntheticPool = netip.MustParsePrefix("6.7.0.0/24")
	b.mustApply(t, next)
	if j := b.Judge("a.corp.example", netip.Addr{}); !j.Acquired || j.Address != (dns.Address{}) || len(b.tables.names) != 0 {
		t.Errorf("judged as %+v with %v in the kernel, want no address yet", j, b.tables.names)
	}
	if name, release := b.hold(netip.MustParseAddr("6.6.0.1")); name != "" {
		t.Errorf("an address of the pool before stands for %q", name)
	} else {
		release()
	}
	if got := b.mustAssign(t, "a.corp.example", ""); got != "6.7.0.1" {
		t.Errorf("address is %s", got)
	}
}
