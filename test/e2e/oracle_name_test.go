package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// What a fate is that no acceptor tells.
const (
	fateDirect  = "direct"
	fateRefused = "refused"
)

// fateScenario reads destinations from its standard input and prints for each
// what the programs made of a real connect(): the answer of the acceptor, or that
// it was refused, or that it went direct. That has no route.
func fateScenario(_ []string, stdout io.Writer) error {
	out := bufio.NewWriter(stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		to, err := netip.ParseAddrPort(lines.Text())
		if err != nil {
			return err
		}
		c := client{way: "plain", fd: -1}
		answer, err := c.ask(to)
		c.close()
		switch {
		case err == nil:
			answer = strings.TrimSuffix(answer, "\n")
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EPERM): // EPERM before 5.18
			answer = fateRefused
		case errors.Is(err, unix.ENETUNREACH):
			answer = fateDirect
		default:
			answer = err.Error()
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return out.Flush()
}

// pooled is a name with its synthetic and its original address.
type pooled struct {
	name                string
	synthetic, original netip.Addr
}

// TestProgramsAgreeWithOracleOnNames asks the programs about synthetic addresses.
func TestProgramsAgreeWithOracleOnNames(t *testing.T) {
	b := newBed(t)
	policies := 40
	if testing.Short() {
		policies = 12
	}
	fates := make(map[string]int)
	for seed := range policies {
		r := rand.New(rand.NewPCG(uint64(seed), 6))
		p := testutil.RandomPolicy(r)
		testutil.AddNames(r, p)
		p.Protected = policy.NeverAcquired()
		generation, names := b.applyNames(t, r, p)

		var input, want strings.Builder
		for range 150 {
			if len(names) == 0 {
				break
			}
			n, f := names[r.IntN(len(names))], testutil.RandomFlow(r, p)
			if f.Port == 0 {
				continue // Go and the kernel take other ways with it
			}
			f.Protocol, f.Addr, f.Name = policy.TCP, n.original, n.name
			to := netip.AddrPortFrom(n.synthetic, f.Port)
			fmt.Fprintln(&input, to)
			fate, kind := fateOf(p.MatchName(f), to, n.original, generation)
			fmt.Fprintln(&want, fate)
			fates[kind]++
		}
		for _, pool := range p.Pools { // the last address of it is nobody's
			fmt.Fprintln(&input, netip.AddrPortFrom(wholePrefix(pool).Last, 443))
			fmt.Fprintln(&want, fateRefused)
		}
		cmd := testutil.ScenarioCommand(t, "fate")
		cmd.Stdin = strings.NewReader(input.String())
		got, err := testutil.Output(t, b.ns, b.cgroup, cmd)
		if err != nil {
			t.Fatal(err)
		}
		compareLines(t, seed, input.String(), want.String(), got)
	}
	for _, kind := range []string{"acquired by name", "acquired by address", "direct by name", "direct by address", "refused"} {
		if fates[kind] < policies/2 {
			t.Errorf("%d flows are %s: the random policies exercise too little: %v", fates[kind], kind, fates)
		}
	}
}

// fateOf says what an application sees that connects to a synthetic address, and
// of which kind that is.
func fateOf(d policy.NameDecision, to netip.AddrPort, original netip.Addr, generation uint32) (fate, kind string) {
	by := "address"
	origin := netip.AddrPortFrom(original, to.Port())
	if d.ByName {
		by, origin = "name", to
	}
	switch d.Verdict {
	case policy.VerdictAcquire:
		return fmt.Sprintf("peer %s to %s rule %d generation %d", to, origin, d.Rule, generation), "acquired by " + by
	case policy.VerdictBlock:
		return fateRefused, "refused"
	}
	return fateDirect, "direct by " + by
}

// applyNames loads a policy with names that it acquires: some with the tables,
// the others once those are in force.
func (b *bed) applyNames(t *testing.T, r *rand.Rand, p *policy.Policy) (generation uint32, names []pooled) {
	t.Helper()
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	matcher := policy.NewNames(p)
	tables := agent.Tables(p, compiled)
	tables.SpareRows, tables.SpareNames = 64, 64
	var late []pooled
	for _, pool := range p.Pools {
		next := pool.Addr().Next()
		for range 24 {
			n := pooled{name: testutil.RandomName(r), synthetic: next, original: routable(testutil.RandomFlow(r, p).Addr, next)}
			cells := compiled.NameRow(matcher.Rules(n.name), n.original)
			if f := (policy.Flow{Protocol: policy.TCP, Name: n.name, Addr: n.original}); !p.MatchName(f).Acquired {
				continue
			}
			next = next.Next()
			names = append(names, n)
			if r.IntN(2) == 0 {
				late = append(late, n)
				continue
			}
			row := uint32(len(tables.Verdicts))
			tables.Verdicts = append(slices.Clip(tables.Verdicts), cells...)
			tables.Names = append(tables.Names, maps.Name{Addr: n.synthetic, Original: n.original, Row: row})
		}
	}
	generation = b.store(t, tables)
	if err := b.datapath.Maps.SetDNS(0, 0, p.Pools); err != nil {
		t.Fatal(err)
	}
	for _, n := range late {
		row, err := b.datapath.Maps.AppendRow(generation, compiled.NameRow(matcher.Rules(n.name), n.original))
		if err == nil {
			err = b.datapath.Maps.PutName(generation, maps.Name{Addr: n.synthetic, Original: n.original, Row: row})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return generation, names
}

// routable returns an original address for a synthetic one: addr if it is of the
// same family and has a way to go but for the lack of a route, else none.
func routable(addr, synthetic netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	this := netip.MustParsePrefix("0.0.0.0/8")
	if addr.Is4() != synthetic.Is4() || !addr.IsGlobalUnicast() || this.Contains(addr) {
		return netip.Addr{}
	}
	return addr
}
