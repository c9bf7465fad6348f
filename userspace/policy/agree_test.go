package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// flowsPerPolicy is how many random flows each random policy decides.
const flowsPerPolicy = 64

func TestCompileAgreesWithMatch(t *testing.T) {
	policies := testutil.Rounds(1000)
	seen := make(map[policy.Reason]int)
	verdicts := make(map[policy.Verdict]int)
	for seed := range uint64(policies) {
		for _, d := range checkAgreement(t, seed) {
			seen[d.Reason]++
			verdicts[d.Verdict]++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	// A generator whose flows all end the same way would prove nothing.
	for _, reason := range []policy.Reason{policy.ReasonRule, policy.ReasonNoMatch, policy.ReasonNeverAcquired} {
		if seen[reason] < policies*flowsPerPolicy/50 {
			t.Errorf("reason %q: %d of %d decisions, too few to mean anything", reason, seen[reason], policies*flowsPerPolicy)
		}
	}
	if verdicts[policy.VerdictAcquire] < policies*flowsPerPolicy/10 {
		t.Errorf("acquired: %d of %d", verdicts[policy.VerdictAcquire], policies*flowsPerPolicy)
	}
}

func TestManyNetworksAgreeWithMatch(t *testing.T) {
	for _, catchAll := range []bool{false, true} {
		p := millionNetworks(5_000, catchAll)
		c := mustCompile(t, p)
		checkTables(t, c)
		r := rand.New(rand.NewPCG(5, 6))
		for range 300 {
			f := testutil.RandomFlow(r, p)
			if got, want := c.Lookup(f), p.Match(f); got != want {
				t.Fatalf("catch-all %t: Lookup(%+v) = %+v, Match says %+v", catchAll, f, got, want)
			}
		}
	}
}

func FuzzCompileAgreesWithMatch(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { checkAgreement(t, seed) })
}

// checkAgreement compares the two ways of deciding on a random policy: at
// random flows, and at each end of every range.
func checkAgreement(t *testing.T, seed uint64) []policy.Decision {
	r := rand.New(rand.NewPCG(seed, 0))
	p := testutil.RandomPolicy(r)
	c := mustCompile(t, p)
	checkTables(t, c)
	var decisions []policy.Decision
	compare := func(f policy.Flow) {
		want, got := p.Match(f), c.Lookup(f)
		if got != want {
			t.Errorf("Lookup(%+v) = %+v, Match says %+v", f, got, want)
		}
		decisions = append(decisions, want)
	}
	for range flowsPerPolicy {
		compare(testutil.RandomFlow(r, p))
	}
	for _, rule := range p.Rules {
		for _, a := range rule.Addrs {
			for _, addr := range []netip.Addr{a.First.Prev(), a.First, a.Last, a.Last.Next()} {
				if addr.IsValid() {
					compare(policy.Flow{Protocol: policy.TCP, Addr: addr, Port: 80})
				}
			}
		}
	}
	return decisions
}

// checkTables checks what the kernel and the loader rely on.
func checkTables(t *testing.T, c *policy.Compiled) {
	t.Helper()
	if c.Width == 0 || len(c.Verdicts)%int(c.Width) != 0 {
		t.Fatalf("%d cells do not make rows of %d", len(c.Verdicts), c.Width)
	}
	for class, cell := range c.Verdicts[:c.Width] {
		if cell != 0 {
			t.Errorf("row 0 matches entry %d in class %d", cell-1, class)
		}
	}
	for _, classes := range []*[65536]uint16{&c.Ports.TCP, &c.Ports.UDP} {
		if highest := slices.Max(classes[:]); uint32(highest) >= c.Width {
			t.Errorf("class %d of %d", highest, c.Width)
		}
	}
	checkPrefixes(t, c, c.IPv4)
	checkPrefixes(t, c, c.IPv6)
}

func checkPrefixes(t *testing.T, c *policy.Compiled, rows []policy.PrefixRow) {
	t.Helper()
	var parents []policy.PrefixRow
	for i, row := range rows {
		if row.Row%c.Width != 0 || int(row.Row) >= len(c.Verdicts) {
			t.Errorf("prefix %s has row %d of %d cells in rows of %d", row.Prefix, row.Row, len(c.Verdicts), c.Width)
		}
		if row.Prefix != row.Prefix.Masked() {
			t.Errorf("prefix %s has bits beyond its length", row.Prefix)
		}
		if i > 0 && rows[i-1].Prefix.Compare(row.Prefix) >= 0 {
			t.Errorf("prefix %s sorts after %s", rows[i-1].Prefix, row.Prefix)
		}
		for len(parents) > 0 && !parents[len(parents)-1].Prefix.Overlaps(row.Prefix) {
			parents = parents[:len(parents)-1]
		}
		inherited := uint32(0)
		if len(parents) > 0 {
			inherited = parents[len(parents)-1].Row
		}
		if row.Row == inherited {
			t.Errorf("prefix %s repeats row %d that it inherits", row.Prefix, row.Row)
		}
		parents = append(parents, row)
	}
}
