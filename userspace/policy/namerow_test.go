package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// byTables decides a flow to a name from tables, as the agent and the kernel do
// together.
func byTables(p *policy.Policy, c *policy.Compiled, n *policy.Names, f policy.Flow) policy.NameDecision {
	byAddress := policy.Flow{Protocol: f.Protocol, Addr: f.Addr, Port: f.Port}
	rules := n.Rules(f.Name)
	cells := c.NameRow(rules, f.Addr)
	_, acquired := c.Acquires(cells)
	if _, protected := p.ProtectedName(f.Name); !acquired || protected || len(p.Pools) == 0 {
		if f.Addr.IsValid() {
			return policy.NameDecision{Decision: c.Lookup(byAddress)}
		}
		return p.MatchName(f) // nothing to do for the kernel
	}
	original := f.Addr.Unmap()
	if slices.ContainsFunc(p.Pools, func(pool netip.Prefix) bool { return pool.Contains(original) }) {
		original = netip.Addr{}
	}
	lost := policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonNoOriginal, Rule: -1, Protection: -1}
	cell := cells[c.Ports.Of(f.Protocol, f.Port)]
	if cell == 0 {
		if !original.IsValid() {
			return policy.NameDecision{Acquired: true, Decision: lost}
		}
		return policy.NameDecision{Acquired: true, Decision: c.Lookup(byAddress)}
	}
	d := c.Entries[cell-1].Decision()
	if d.Verdict == policy.VerdictPass && !original.IsValid() {
		lost.Rule = d.Rule
		d = lost
	}
	return policy.NameDecision{Acquired: true, ByName: true, Decision: d}
}

func TestRowsOfNamesAgreeWithMatchName(t *testing.T) {
	policies := testutil.Rounds(600)
	seen := make(map[policy.NameDecision]int)
	for seed := range uint64(policies) {
		checkNameRows(t, seed, seen)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	// A generator whose flows all end the same way would prove nothing.
	for _, d := range []policy.NameDecision{
		{Acquired: true, ByName: true, Decision: policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule}},
		{Acquired: true, ByName: true, Decision: policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonRule}},
		{Acquired: true, ByName: true, Decision: policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonNoOriginal}},
		{Acquired: true, Decision: policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule}},
		{Acquired: true, Decision: policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonRule}},
		{Acquired: true, Decision: policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNeverAcquired}},
		{Acquired: true, Decision: policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNoMatch}},
		{Acquired: true, Decision: policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonNoOriginal}},
		{Decision: policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule}},
		{Decision: policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNeverAcquired}},
		{Decision: policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonNoName}},
	} {
		if seen[d] < policies/15 {
			t.Errorf("%+v was decided %d times, too few to mean anything", d, seen[d])
		}
	}
	quic := policy.NameDecision{Acquired: true, ByName: true, Decision: policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonQUIC}}
	if seen[quic] < policies/60 {
		t.Errorf("QUIC to a name was rejected %d times, too few to mean anything", seen[quic])
	}
}

func FuzzRowsOfNamesAgreeWithMatchName(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { checkNameRows(t, seed, make(map[policy.NameDecision]int)) })
}

// checkNameRows compares the two ways of deciding flows to names on a random
// policy, and counts the decisions without the rule that made them.
func checkNameRows(t *testing.T, seed uint64, seen map[policy.NameDecision]int) {
	r := rand.New(rand.NewPCG(seed, 3))
	p := testutil.RandomPolicy(r)
	testutil.AddNames(r, p)
	c, n := mustCompile(t, p), policy.NewNames(p)
	checkTables(t, c)
	for range 32 {
		f := testutil.RandomNameFlow(r, p)
		want := p.MatchName(f)
		if got := byTables(p, c, n, f); got != want {
			t.Errorf("tables say %+v of %+v, MatchName %+v", got, f, want)
		}
		f.Protocol, f.Port = policy.AnyProtocol&^f.Protocol, f.Port+1
		if other := p.MatchName(f); other.Acquired != want.Acquired {
			t.Errorf("%q is acquired or not by protocol and port: %+v of %+v", f.Name, other, f)
		}
		want.Rule, want.Protection = 0, 0
		seen[want]++
	}
}
