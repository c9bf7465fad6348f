package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// TestMapsAgreeWithOracle reads the loaded maps as the programs do, and compares
// them with the plain in-order matcher.
func TestMapsAgreeWithOracle(t *testing.T) {
	b := newBed(t)
	policies, flows := 60, 400
	if testing.Short() {
		policies = 10
	}
	for seed := range policies {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		b.agree(t, r, flows)
	}
}

// FuzzMapsAgreeWithOracle is the same, for as long as one likes.
func FuzzMapsAgreeWithOracle(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed)
	}
	b := newBed(f)
	f.Fuzz(func(t *testing.T, seed, stream uint64) {
		b.agree(t, rand.New(rand.NewPCG(seed, stream)), 200)
	})
}

func (b *bed) agree(t *testing.T, r *rand.Rand, flows int) {
	t.Helper()
	p := testutil.RandomPolicy(r)
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	b.store(t, agent.Tables(p, compiled))
	view, err := b.datapath.Maps.View()
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	for range flows {
		f := testutil.RandomFlow(r, p)
		f.Name = ""
		proto := maps.TCP
		if f.Protocol == policy.UDP {
			proto = maps.UDP
		}
		entry, found, err := view.Lookup(proto, f.Addr, f.Port)
		if err != nil {
			t.Fatal(err)
		}
		got := "no match"
		if found {
			got = decision(entry.Action == maps.ActionProtect, int(entry.Rule), entry.Action == maps.ActionTunnel, entry.Action == maps.ActionReject)
		}
		if want := oracle(p, f); got != want {
			t.Fatalf("%s: maps say %q, oracle %q\npolicy %+v", describe(f), got, want, p)
		}
	}
}

func oracle(p *policy.Policy, f policy.Flow) string {
	d := p.Match(f)
	if d.Rule < 0 && d.Protection < 0 {
		return "no match"
	}
	return decision(d.Protection >= 0, d.Rule, d.Verdict == policy.VerdictAcquire, d.Reason == policy.ReasonQUIC)
}

func decision(protected bool, rule int, acquire, reject bool) string {
	if protected {
		return "protected"
	}
	return fmt.Sprintf("rule %d acquire %t reject %t", rule, acquire, reject)
}

func describe(f policy.Flow) string {
	return fmt.Sprintf("%s %s", f.Protocol, netip.AddrPortFrom(f.Addr, f.Port))
}

// probeScenario reads destinations from its standard input and prints for each
// what the programs made of a real connect(): the answer of the acceptor, or the
// word pass. There is no route, so what is not acquired fails at once.
func probeScenario(_ []string, stdout io.Writer) error {
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
		if err != nil {
			answer = "pass\n"
		}
		if _, err := out.WriteString(answer); err != nil {
			return err
		}
	}
	return out.Flush()
}

// TestProgramsAgreeWithOracle asks the programs themselves.
func TestProgramsAgreeWithOracle(t *testing.T) {
	b := newBed(t)
	policies, flows := 40, 150
	if testing.Short() {
		policies = 6
	}
	for seed := range policies {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		p := testutil.RandomPolicy(r)
		p.Protected = policy.NeverAcquired()
		generation := b.apply(t, p)

		var input, want strings.Builder
		for range flows {
			f := testutil.RandomFlow(r, p)
			if f.Port == 0 || f.Addr.Is4In6() {
				continue // Go and the kernel take other ways with these
			}
			f.Protocol, f.Name = policy.TCP, ""
			to := netip.AddrPortFrom(f.Addr.WithZone(""), f.Port)
			fmt.Fprintln(&input, to)
			d := p.Match(f)
			if d.Verdict != policy.VerdictAcquire {
				fmt.Fprintln(&want, "pass")
				continue
			}
			fmt.Fprintf(&want, "peer %s to %s rule %d generation %d\n", to, to, d.Rule, generation)
		}
		cmd := testutil.ScenarioCommand(t, "probe")
		cmd.Stdin = strings.NewReader(input.String())
		got, err := testutil.Output(t, b.ns, b.cgroup, cmd)
		if err != nil {
			t.Fatal(err)
		}
		compareLines(t, seed, input.String(), want.String(), got)
	}
	if n := b.counters(t, nil); n["acquire"] == 0 || n["pass_no_match"] == 0 || n["pass_bypass"] == 0 {
		t.Errorf("the random policies exercise too little: %v", n)
	}
}

func compareLines(t *testing.T, seed int, input, want, got string) {
	t.Helper()
	in, wants, gots := strings.Split(input, "\n"), strings.Split(want, "\n"), strings.Split(got, "\n")
	if len(gots) != len(wants) {
		t.Fatalf("policy %d: %d answers for %d destinations", seed, len(gots)-1, len(wants)-1)
	}
	for i := range wants {
		if gots[i] != wants[i] {
			t.Errorf("policy %d: %s: programs say %q, oracle %q", seed, in[i], gots[i], wants[i])
		}
	}
}
