package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// named returns a rule with names only.
func named(rule policy.Rule, sources ...string) policy.Rule {
	rule.Names = names(sources...)
	return rule
}

func TestLintFindsWhatMayNotBeMeant(t *testing.T) {
	ten := span("10.0.0.0", "10.255.255.255")
	low, high := policy.PortRange{First: 0, Last: 999}, policy.PortRange{First: 1000, Last: 65535}
	blocking := bypass("bypass", 0, ten)
	blocking.Hardening = policy.HardeningBlock
	onlyTCP := tunnel("tcp", 0, ten)
	onlyTCP.Protocols = policy.TCP
	portless := tunnel("portless", 0, ten)
	portless.Ports = nil

	for _, test := range []struct {
		behaviour string
		rules     []policy.Rule
		want      []string // "kind rule other"
	}{
		{"nothing", []policy.Rule{tunnel("a", 0, ten), tunnel("b", 1, span("11.0.0.0", "11.0.0.9"))}, nil},
		{
			"shadowed by one rule",
			[]policy.Rule{tunnel("a", 0, ten), tunnel("b", 1, span("10.0.0.1", "10.0.0.9"))},
			[]string{"shadowed b a"},
		},
		{
			"shadowed by several rules together",
			[]policy.Rule{
				tunnel("a", 0, span("10.0.0.0", "10.0.0.5")), onPorts(tunnel("b", 1, ten), low), onPorts(tunnel("c", 2, ten), high),
				tunnel("d", 3, span("10.0.0.1", "10.0.0.9")),
			},
			[]string{"shadowed d a"},
		},
		{
			"one port is left",
			[]policy.Rule{onPorts(tunnel("a", 0, ten), low), onPorts(tunnel("b", 1, ten), policy.PortRange{First: 999, Last: 1000})},
			nil,
		},
		{"one protocol is left", []policy.Rule{onlyTCP, tunnel("b", 1, ten)}, nil},
		{"no destinations", []policy.Rule{tunnel("a", 0)}, []string{"never-matches a "}},
		{"no ports", []policy.Rule{portless}, []string{"never-matches portless "}},
		{
			"only protected destinations",
			[]policy.Rule{tunnel("a", 0, span("127.0.0.1", "127.0.0.9"), span("fe80::1", "fe80::2"))},
			[]string{"never-matches a "},
		},
		{"partly protected destinations", []policy.Rule{tunnel("a", 0, span("127.255.255.0", "128.0.0.9"))}, nil},
		{"same name pattern", []policy.Rule{named(tunnel("a", 0), `a\.b`), named(tunnel("b", 1), `a\.b`)}, []string{"shadowed b a"}},
		{"every name", []policy.Rule{named(tunnel("a", 0), `.*`), named(tunnel("b", 1), `a\.b`, `c\.d`)}, []string{"shadowed b a"}},
		{
			"same name pattern on fewer ports",
			[]policy.Rule{named(onPorts(tunnel("a", 0), low), `a\.b`), named(tunnel("b", 1), `a\.b`)},
			nil,
		},
		{
			"same name pattern on ports side by side",
			[]policy.Rule{named(onPorts(tunnel("a", 0), high, low), `a\.b`), named(tunnel("b", 1), `a\.b`)},
			[]string{"shadowed b a"},
		},
		{
			"suffix below an earlier suffix",
			[]policy.Rule{named(tunnel("a", 0), `.+\.example`), named(tunnel("b", 1), `.+\.corp\.example`, `x\.example`, `[^.]+\.lab\.example`)},
			[]string{"shadowed b a"},
		},
		{
			"suffix itself is left",
			[]policy.Rule{named(tunnel("a", 0), `.+\.example`), named(tunnel("b", 1), `(.+\.)?example`)},
			nil,
		},
		{
			"suffix around an earlier suffix",
			[]policy.Rule{named(tunnel("a", 0), `.+\.corp\.example`), named(tunnel("b", 1), `.+\.example`)},
			nil,
		},
		{
			"names of one label below a suffix",
			[]policy.Rule{named(tunnel("a", 0), `[^.]+\.example`), named(tunnel("b", 1), `(x|y)\.example`), named(tunnel("c", 2), `x\.y\.example`)},
			[]string{"shadowed b a"},
		},
		{
			"names taken by two rules together",
			[]policy.Rule{named(tunnel("a", 0), `.+\.a`), named(tunnel("b", 1), `.+\.b`), named(tunnel("c", 2), `x\.(a|b)`)},
			[]string{"shadowed c b"},
		},
		{
			"suffix on fewer ports",
			[]policy.Rule{named(onPorts(tunnel("a", 0), high), `.+\.example`), named(tunnel("b", 1), `x\.example`)},
			nil,
		},
		{
			"same regular expression, and one like it",
			[]policy.Rule{named(tunnel("a", 0), `srv[0-9]+`), named(tunnel("b", 1), `srv[0-9]+`), named(tunnel("c", 2), `srv[0-9]{2}[0-9]*`)},
			[]string{"shadowed b a"},
		},
		{"pool in the range of a tunnel rule", []policy.Rule{named(tunnel("a", 0, span("6.6.6.6", "6.6.6.6")), `a`)}, []string{"unusable-pool a "}},
		{"pool in the range of a tunnel rule, and no names", []policy.Rule{tunnel("a", 0, span("6.6.6.6", "6.6.6.6"))}, nil},
		{"one name is left", []policy.Rule{named(tunnel("a", 0), `a\.b`), named(tunnel("b", 1), `a\.b`, `c\.d`)}, nil},
		{
			"addresses shadowed but a name left",
			[]policy.Rule{tunnel("a", 0, ten), named(tunnel("b", 1, span("10.0.0.1", "10.0.0.9")), `a\.b`)},
			nil,
		},
		{
			"narrower exception too late for a part of its destinations",
			[]policy.Rule{tunnel("a", 0, ten), bypass("b", 1, span("10.1.0.0", "10.1.0.9"), span("11.0.0.0", "11.0.0.9"))},
			[]string{"order-beats-specificity b a"},
		},
		{
			"same, seen once for two ranges and in IPv6",
			[]policy.Rule{
				onPorts(tunnel("a", 0, ten, span("2001:db8::", "2001:db8::f")), low),
				bypass("b", 1, span("10.1.0.0", "10.1.0.9"), span("10.2.0.0", "10.2.0.9"), span("2001:db8::1", "2001:db8::2")),
			},
			[]string{"order-beats-specificity b a"},
		},
		{
			"exception that begins where the wider range does",
			[]policy.Rule{tunnel("a", 0, ten), bypass("b", 1, span("10.0.0.0", "10.0.0.9"), span("11.0.0.0", "11.0.0.9"))},
			[]string{"order-beats-specificity b a"},
		},
		{
			"same, listed before it by a rule that comes later",
			[]policy.Rule{
				onPorts(tunnel("a", 0, span("10.0.0.0", "10.0.0.9")), low),
				tunnel("b", 1, ten), bypass("c", 2, span("10.0.0.0", "11.0.0.9"), span("10.0.0.0", "10.0.0.5")),
			},
			[]string{"order-beats-specificity c a", "order-beats-specificity c b"},
		},
		{
			"exception in time",
			[]policy.Rule{bypass("b", 0, span("10.1.0.0", "10.1.0.9")), tunnel("a", 1, ten)},
			nil,
		},
		{
			"exception on other ports",
			[]policy.Rule{onPorts(tunnel("a", 0, ten), low), onPorts(bypass("b", 1, span("10.1.0.0", "10.1.0.9")), high)},
			nil,
		},
		{
			"as wide a range with another action",
			[]policy.Rule{onPorts(tunnel("a", 0, ten), low), bypass("b", 1, ten)},
			nil,
		},
		{"hardening of a bypass rule", []policy.Rule{blocking}, []string{"meaningless-hardening bypass "}},
		{
			"equal orders",
			[]policy.Rule{tunnel("a", 1, ten), tunnel("b", 1, span("11.0.0.0", "11.0.0.9")), tunnel("c", 2, span("12.0.0.0", "12.0.0.9"))},
			[]string{"equal-order b a"},
		},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			var got []string
			for _, f := range policy.Lint(&policy.Policy{
				Rules: test.rules, Protected: policy.NeverAcquired(),
				Settings: policy.Settings{SyntheticPool: netip.MustParsePrefix("6.6.0.0/16")},
			}) {
				got = append(got, fmt.Sprint(f.Kind, " ", f.Rule, " ", f.Other))
				if f.Text == "" {
					t.Errorf("finding %+v has no text", f)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLintFindsNamesWithoutAPool(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{
		named(bypass("a", 0), `a`), tunnel("b", 1, span("10.0.0.1", "10.0.0.9")), named(tunnel("c", 2), `c`), named(tunnel("d", 3), `d`),
	}}
	want := []policy.Finding{{
		Kind: policy.FindingPool, Rule: "c", Text: "acquires no names: the profile has no pool for synthetic addresses",
	}}
	if diff := cmp.Diff(want, policy.Lint(p)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	p.Pools = []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16"), netip.MustParsePrefix("2001:db8::/64")}
	want[0].Text = "acquires no names: use 2001:db8::/64 for synthetic addresses: want a prefix in fc00::/7, the unique local addresses"
	if diff := cmp.Diff(want, policy.Lint(p)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestShadowedRulesNeverDecideByName(t *testing.T) {
	shadowed, policies := 0, testutil.Rounds(400)
	for seed := range uint64(policies) {
		r := rand.New(rand.NewPCG(seed, 11))
		p := testutil.RandomPolicy(r)
		testutil.AddNames(r, p)
		p.AlsoMatchOriginal = false
		dead := make(map[int]bool)
		for _, f := range policy.Lint(p) {
			if f.Kind == policy.FindingShadowed {
				dead[slices.IndexFunc(p.Rules, func(r policy.Rule) bool { return r.ID == f.Rule })] = true
				shadowed++
			}
		}
		for range 200 {
			f := testutil.RandomNameFlow(r, p)
			if d := p.MatchName(f); dead[d.Rule] {
				t.Fatalf("seed %d: shadowed rule %d decides %+v: %+v", seed, d.Rule, f, d)
			}
		}
	}
	if shadowed < policies/4 {
		t.Errorf("%d rules are shadowed, too few to mean anything", shadowed)
	}
}

func TestLintComparesTheOrderOfChannels(t *testing.T) {
	on := func(channel string, rule policy.Rule) policy.Rule { rule.Channel = channel; return rule }
	at := func(n byte) policy.AddrRange { return network24(uint32(n)<<16 | 1) }
	channels := []policy.Channel{
		{ID: "i", Name: "Internet Access"}, {ID: "m", Name: "Microsoft 365"}, {ID: "p", Name: "Private"}, {ID: "x", Name: "Lab"},
	}
	for _, test := range []struct {
		behaviour string
		rules     []policy.Rule
		want      []string
	}{
		{"in the vendor's order", []policy.Rule{on("m", tunnel("a", 0, at(1))), on("p", tunnel("b", 1, at(2))), on("i", tunnel("c", 2, at(3)))}, nil},
		{"unknown channel", []policy.Rule{on("i", tunnel("a", 0, at(1))), on("x", tunnel("b", 1, at(2)))}, nil},
		{
			"internet before both, told once for each",
			[]policy.Rule{
				on("i", tunnel("a", 0, at(1))), on("i", tunnel("b", 1, at(2))),
				on("p", tunnel("c", 2, at(3))), on("p", tunnel("d", 3, at(4))), on("m", tunnel("e", 4, at(5))),
			},
			[]string{"a before c", "a before e", "c before e"},
		},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			var got []string
			for _, f := range policy.Lint(&policy.Policy{Channels: channels, Rules: test.rules}) {
				if f.Kind != policy.FindingChannelOrder {
					t.Errorf("finding %+v", f)
				}
				got = append(got, f.Rule+" before "+f.Other)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLintIsBounded(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{tunnel("all", 0, span("0.0.0.0", "255.255.255.255"))}}
	for i := range 250 {
		p.Rules = append(p.Rules, tunnel(fmt.Sprintf("rule-%d", i), float64(i+1), network24(uint32(i)<<8)))
	}
	found := policy.Lint(p)
	if len(found) != 101 {
		t.Fatalf("%d findings, want 100 and one that counts the rest", len(found))
	}
	want := policy.Finding{Kind: policy.FindingShadowed, Text: "150 more like these are not listed"}
	if diff := cmp.Diff(want, found[100]); diff != "" {
		t.Errorf("last finding (-want +got):\n%s", diff)
	}
}

func TestLintTellsThatItDidNotCompareAll(t *testing.T) {
	found := policy.Lint(sharedPorts(200, 26_000))
	found = slices.DeleteFunc(found, func(f policy.Finding) bool { return f.Kind != policy.FindingOrder })
	if len(found) != 102 {
		t.Fatalf("%d findings, want 100, one that counts the rest and one that says it is not all", len(found))
	}
	want := policy.Finding{
		Kind: policy.FindingOrder,
		Text: "there may be more: too many ranges overlap to compare them all",
	}
	if diff := cmp.Diff(want, found[101]); diff != "" {
		t.Errorf("last finding (-want +got):\n%s", diff)
	}
}

func TestLintTellsThatAPolicyIsOverBudget(t *testing.T) {
	p := &policy.Policy{}
	for i := range 4000 { // rows and classes are as many as rules
		p.Rules = append(p.Rules, onPorts(tunnel(fmt.Sprint(i), float64(i), network24(uint32(i))),
			policy.PortRange{First: uint16(i), Last: uint16(i)}))
	}
	want := []policy.Finding{{Kind: policy.FindingBudget, Text: "policy needs 16004000 verdict cells or more, the budget allows 16000000: " +
		"let fewer rules with different ports overlap, or use fewer different port ranges, or raise the budget"}}
	if diff := cmp.Diff(want, policy.Lint(p)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}
