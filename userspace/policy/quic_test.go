package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// web returns a rule that carries TCP 443 and rejects QUIC.
func web(id string, order float64, addrs ...policy.AddrRange) policy.Rule {
	rule := onPorts(tunnel(id, order, addrs...), policy.PortRange{First: 80, Last: 80}, policy.PortRange{First: 443, Last: 443})
	rule.Protocols, rule.RejectQUIC = policy.TCP, true
	return rule
}

// quic returns a UDP flow to port 443.
func quic(addr string) policy.Flow {
	return policy.Flow{Protocol: policy.UDP, Addr: netip.MustParseAddr(addr), Port: 443}
}

func TestQUICIsRejectedWhereTheRuleCarriesTCP(t *testing.T) {
	all := span("192.0.2.0", "192.0.2.255")
	few := span("192.0.2.8", "192.0.2.15")
	udp := func(r policy.Rule) policy.Rule { r.Protocols = policy.UDP; return r }
	tcpOnly := func(r policy.Rule) policy.Rule { r.Protocols = policy.TCP; return r }
	inert := func(r policy.Rule) policy.Rule { r.RejectQUIC = false; return r }
	reject := func(rule int) policy.Decision {
		return policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonQUIC, Rule: rule, Protection: -1}
	}
	decide := func(v policy.Verdict, rule int) policy.Decision {
		return policy.Decision{Verdict: v, Reason: policy.ReasonRule, Rule: rule, Protection: -1}
	}
	unmatched := policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNoMatch, Rule: -1, Protection: -1}
	protected := policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNeverAcquired, Rule: -1, Protection: 0}

	for _, test := range []struct {
		behaviour string
		rules     []policy.Rule
		flow      policy.Flow
		want      policy.Decision
	}{
		{"a rule that asks for it", []policy.Rule{web("w", 0, all)}, quic("192.0.2.9"), reject(0)},
		{"one that does not ask", []policy.Rule{inert(web("w", 0, all))}, quic("192.0.2.9"), unmatched},
		{"another destination", []policy.Rule{web("w", 0, all)}, quic("192.0.3.9"), unmatched},
		{"another UDP port that the rule carries by TCP", []policy.Rule{web("w", 0, all)},
			policy.Flow{Protocol: policy.UDP, Addr: all.First, Port: 80}, unmatched},
		{"TCP itself", []policy.Rule{web("w", 0, all)}, tcp("192.0.2.9:443"), decide(policy.VerdictAcquire, 0)},
		{"before a later rule for UDP", []policy.Rule{web("w", 0, all), udp(bypass("b", 1, all))}, quic("192.0.2.9"), reject(0)},
		{"after an earlier rule for UDP", []policy.Rule{udp(bypass("b", 0, few)), web("w", 1, all)}, quic("192.0.2.9"),
			decide(policy.VerdictPass, 0)},
		{"not where that earlier rule does not reach", []policy.Rule{udp(bypass("b", 0, few)), web("w", 1, all)}, quic("192.0.2.16"),
			reject(1)},
		{"not where TCP goes elsewhere", []policy.Rule{tcpOnly(bypass("b", 0, few)), web("w", 1, all)}, quic("192.0.2.9"), unmatched},
		{"but beside that", []policy.Rule{tcpOnly(bypass("b", 0, few)), web("w", 1, all)}, quic("192.0.2.16"), reject(1)},
		{"not where another rule carries TCP", []policy.Rule{inert(web("o", 0, few)), web("w", 1, all)}, quic("192.0.2.9"), unmatched},
		{"the rule carries UDP too", []policy.Rule{func() policy.Rule {
			r := web("w", 0, all)
			r.Protocols = policy.AnyProtocol
			return r
		}()}, quic("192.0.2.9"), decide(policy.VerdictAcquire, 0)},
		{"a bypass rule", []policy.Rule{func() policy.Rule {
			r := web("w", 0, all)
			r.Action = policy.ActionBypass
			return r
		}()}, quic("192.0.2.9"), unmatched},
		{"a rule without TCP 443", []policy.Rule{onPorts(web("w", 0, all), policy.PortRange{First: 80, Last: 80})},
			quic("192.0.2.9"), unmatched},
		{"a protected destination", []policy.Rule{web("w", 0, all)}, quic("192.0.2.200"), protected},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			p := &policy.Policy{Rules: test.rules, Protected: []policy.Protection{
				{Prefix: netip.MustParsePrefix("192.0.2.200/32"), Ports: policy.AllPorts(), Reason: "edge"},
			}}
			if got := p.Match(test.flow); got != test.want {
				t.Errorf("Match(%+v) = %+v, want %+v", test.flow, got, test.want)
			}
			if got := mustCompile(t, p).Lookup(test.flow); got != test.want {
				t.Errorf("Lookup(%+v) = %+v, want %+v", test.flow, got, test.want)
			}
		})
	}
}

func TestRejectionIsAnEntryBesideItsRule(t *testing.T) {
	p := &policy.Policy{
		Pools:     []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")},
		Protected: policy.NeverAcquired(),
		Rules:     []policy.Rule{bypass("b", 0), web("w", 1, span("192.0.2.0", "192.0.2.255")), tunnel("t", 2)},
	}
	c := mustCompile(t, p)
	want := policy.Entry{
		Kind: policy.EntryRejection, Rule: 1, Protection: -1, Pool: -1,
		Action: policy.ActionReject, Hardening: policy.HardeningBlock, Channel: "private",
	}
	if last := len(p.Rules) + len(p.Protected) + len(p.Pools); len(c.Entries) != last+1 || c.Entries[last] != want {
		t.Errorf("entries after the pool are %+v, want %+v", c.Entries[last:], want)
	}
}

func TestQUICToANameIsRejectedWhereTheRuleCarriesTCP(t *testing.T) {
	named := func(r policy.Rule, pattern string) policy.Rule { r.Names = names(pattern); return r }
	p := &policy.Policy{
		Pools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")},
		Rules: []policy.Rule{
			named(bypass("b", 0), `spared\.example`),
			named(web("w", 1), `.+\.example`),
		},
	}
	f := policy.Flow{Protocol: policy.UDP, Name: "a.example", Port: 443}
	d := p.MatchName(f)
	if d.Verdict != policy.VerdictBlock || d.Reason != policy.ReasonQUIC || !d.ByName || d.Rule != 1 || !d.Acquired {
		t.Errorf("decision is %+v, want a rejection by rule 1", d)
	}
	e := policy.Explain(p, f)
	if e.Reason != policy.ReasonQUIC || e.Rule == nil || e.Rule.ID != "w" || e.Hostname.DecidedBy != "name" {
		t.Errorf("explanation is %+v", e)
	}
	c := mustCompile(t, p)
	cells := c.NameRow([]int{1}, netip.Addr{})
	if cell := cells[c.Ports.Of(policy.UDP, 443)]; cell == 0 || c.Entries[cell-1].Action != policy.ActionReject {
		t.Errorf("cell of QUIC is %d", cell)
	}
	f.Name = "spared.example"
	if d := p.MatchName(f); d.Verdict != policy.VerdictPass || d.Rule != 0 {
		t.Errorf("decision on a spared name is %+v", d)
	}
	cells = c.NameRow([]int{0, 1}, netip.Addr{})
	if cell := cells[c.Ports.Of(policy.UDP, 443)]; cell != 1 {
		t.Errorf("cell of QUIC to a spared name is %d, want the first rule's", cell)
	}
}

// The differential tests would prove nothing of QUIC if none was rejected.
func TestRandomPoliciesRejectQUIC(t *testing.T) {
	rejected := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		p := testutil.RandomPolicy(r)
		for range flowsPerPolicy {
			if p.Match(testutil.RandomFlow(r, p)).Reason == policy.ReasonQUIC {
				rejected++
			}
		}
	}
	if rejected < 50 {
		t.Errorf("%d of %d flows are rejected QUIC", rejected, 200*flowsPerPolicy)
	}
}

func TestLintFindsQUICThatCannotBeRejected(t *testing.T) {
	all := span("192.0.2.0", "192.0.2.255")
	spared := web("bypass", 0, all)
	spared.Action, spared.Hardening = policy.ActionBypass, policy.HardeningBypass
	both := web("both", 3, span("198.51.100.0", "198.51.100.1"))
	both.Protocols = policy.AnyProtocol
	p := &policy.Policy{Rules: []policy.Rule{
		spared,
		web("fine", 1, span("203.0.113.0", "203.0.113.255")),
		onPorts(web("plain", 2, span("203.0.113.0", "203.0.113.255")), policy.PortRange{First: 8080, Last: 8080}),
		both,
	}}
	got := make(map[string]string)
	for _, f := range policy.Lint(p) {
		if f.Kind == policy.FindingQUIC {
			got[f.Rule] = f.Text
		}
	}
	want := map[string]string{
		"bypass": "rejecting QUIC has no effect: the rule carries nothing",
		"plain":  "rejecting QUIC has no effect: the rule does not carry TCP 443",
		"both":   "rejecting QUIC has no effect: the rule carries UDP 443 too",
	}
	if len(got) != len(want) {
		t.Errorf("findings are %q", got)
	}
	for rule, text := range want {
		if got[rule] != text {
			t.Errorf("finding on %q is %q, want %q", rule, got[rule], text)
		}
	}
}
