package policy_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// site is a policy in which names and addresses meet.
func site() *policy.Policy {
	web, ssh := policy.PortRange{First: 443, Last: 443}, policy.PortRange{First: 22, Last: 22}
	mixed := onPorts(named(tunnel("mixed", 5, span("198.51.100.0", "198.51.100.255")), `.+\.corp\.example`), web)
	late := named(bypass("late", 6), `build\.corp\.example`)
	udp := named(tunnel("udp", 7), `clock\.example`)
	udp.Protocols = policy.UDP
	return &policy.Policy{
		Channels:  []policy.Channel{{ID: "private", Primary: []policy.Edge{{Host: "edge.corp.example", Port: 443}}}},
		Protected: policy.NeverAcquired(),
		Pools:     []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16"), netip.MustParsePrefix("fd00:6::/64")},
		Rules: []policy.Rule{
			named(bypass("spared", 0), `.+\.spared\.corp\.example`),
			onPorts(named(bypass("shell", 1), `.+\.corp\.example`), ssh),
			onPorts(tunnel("range", 2, span("192.0.2.0", "192.0.2.255")), policy.PortRange{First: 1, Last: 9999}),
			onPorts(bypass("hole", 3, span("192.0.2.7", "192.0.2.7")), policy.PortRange{First: 10000, Last: 10001}),
			tunnel("everything", 4, span("0.0.0.0", "255.255.255.255")),
			mixed, late, udp,
		},
	}
}

const spared, shell, inRange, hole, everything, mixed, late, clock = 0, 1, 2, 3, 4, 5, 6, 7

func TestFlowsToNamesAreDecidedByNameThenByOriginalAddress(t *testing.T) {
	decision := func(verdict policy.Verdict, reason policy.Reason, rule int) policy.Decision {
		return policy.Decision{Verdict: verdict, Reason: reason, Rule: rule, Protection: -1}
	}
	byName := func(d policy.Decision) policy.NameDecision {
		return policy.NameDecision{Acquired: true, ByName: true, Decision: d}
	}
	byAddress := func(d policy.Decision) policy.NameDecision { return policy.NameDecision{Acquired: true, Decision: d} }
	ordinary := func(d policy.Decision) policy.NameDecision { return policy.NameDecision{Decision: d} }
	acquire := func(rule int) policy.Decision { return decision(policy.VerdictAcquire, policy.ReasonRule, rule) }
	pass := func(rule int) policy.Decision { return decision(policy.VerdictPass, policy.ReasonRule, rule) }
	lost := func(rule int) policy.Decision { return decision(policy.VerdictBlock, policy.ReasonNoOriginal, rule) }
	none := decision(policy.VerdictPass, policy.ReasonNoMatch, -1)
	loopback := policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNeverAcquired, Rule: -1, Protection: 1}

	alsoOriginal := func(p *policy.Policy) { p.AlsoMatchOriginal = true }
	noPool := func(p *policy.Policy) { p.Pools = nil }
	few := func(p *policy.Policy) { p.Rules[everything].Addrs = nil }
	both := func(p *policy.Policy) { few(p); alsoOriginal(p) }
	asIs := func(*policy.Policy) {}

	for _, test := range []struct {
		behaviour string
		change    func(*policy.Policy)
		name      string
		original  string // or empty
		port      uint16
		want      policy.NameDecision
	}{
		{"tunnel rule of the name", asIs, "build.corp.example", "203.0.113.1", 443, byName(acquire(mixed))},
		{"the same in another form", asIs, "Build.CORP.example.", "203.0.113.1", 443, byName(acquire(mixed))},
		{"tunnel rule of a name that nobody resolves", asIs, "build.corp.example", "", 443, byName(acquire(mixed))},
		{"original address in an earlier rule", asIs, "build.corp.example", "192.0.2.7", 443, byName(acquire(mixed))},
		{"protected original address", asIs, "build.corp.example", "127.0.0.1", 443, byName(acquire(mixed))},
		{"IPv6 original address", asIs, "build.corp.example", "2001:db8::1", 443, byName(acquire(mixed))},
		{"bypass rule of the name", asIs, "build.corp.example", "203.0.113.1", 22, byName(pass(shell))},
		{"bypass rule wins over rules for the address", asIs, "build.corp.example", "192.0.2.7", 22, byName(pass(shell))},
		{"bypass rule, nobody resolves it", asIs, "build.corp.example", "", 22, byName(lost(shell))},
		{"bypass rule, original address in a pool", asIs, "build.corp.example", "6.6.0.1", 22, byName(lost(shell))},
		{"later bypass rule of the name", asIs, "build.corp.example", "203.0.113.1", 80, byName(pass(late))},
		{"no rule of the name, rule for the address", asIs, "www.corp.example", "192.0.2.7", 80, byAddress(acquire(inRange))},
		{"no rule of the name, bypass rule for the address", asIs, "www.corp.example", "192.0.2.7", 10000, byAddress(pass(hole))},
		{"no rule of the name, rule for all addresses", asIs, "www.corp.example", "203.0.113.1", 80, byAddress(acquire(everything))},
		{"no rule of the name, protected address", asIs, "www.corp.example", "127.0.0.1", 80, byAddress(loopback)},
		{"no rule of the name, IPv4-mapped address", asIs, "www.corp.example", "::ffff:127.0.0.1", 80, byAddress(loopback)},
		{"no rule of the name or for the address", few, "www.corp.example", "203.0.113.1", 80, byAddress(none)},
		{"no rule of the name, nobody resolves it", asIs, "www.corp.example", "", 80, byAddress(lost(-1))},
		{"no rule of the name, IPv4 address in a pool", asIs, "www.corp.example", "6.6.0.1", 80, byAddress(lost(-1))},
		{"no rule of the name, IPv6 address in a pool", asIs, "www.corp.example", "fd00:6::1", 80, byAddress(lost(-1))},
		{"other protocol of the rule that acquires", few, "clock.example", "203.0.113.1", 123, byAddress(none)},

		{"name that an earlier bypass rule takes", few, "a.spared.corp.example", "203.0.113.1", 443, ordinary(none)},
		{"the same, by its address", asIs, "a.spared.corp.example", "192.0.2.7", 443, ordinary(acquire(inRange))},
		{"the same, address not known", asIs, "a.spared.corp.example", "", 443, ordinary(pass(spared))},
		{"name of no rule", asIs, "example.net", "192.0.2.7", 443, ordinary(acquire(inRange))},
		{"name of no rule, address not known", asIs, "example.net", "", 443, ordinary(none)},
		{"name of no rule, address in a pool", asIs, "example.net", "6.6.0.1", 443, ordinary(decision(policy.VerdictBlock, policy.ReasonNoName, -1))},
		{"edge", asIs, "edge.corp.example", "203.0.113.9", 443, ordinary(acquire(everything))},
		{"edge, address not known", asIs, "edge.corp.example", "", 443, ordinary(decision(policy.VerdictPass, policy.ReasonNeverAcquired, -1))},
		{"malformed name", asIs, "a..corp.example", "", 443, ordinary(none)},
		{"no pool", noPool, "build.corp.example", "", 443, ordinary(decision(policy.VerdictPass, policy.ReasonNoPool, mixed))},
		{"no pool, by address", noPool, "build.corp.example", "192.0.2.7", 443, ordinary(acquire(inRange))},
		{"no pool, bypass rule", noPool, "build.corp.example", "", 22, ordinary(pass(shell))},

		{"also by original: earlier rule for the address", alsoOriginal, "build.corp.example", "192.0.2.7", 443, byName(acquire(inRange))},
		{"also by original: bypass rule of the name before it", alsoOriginal, "build.corp.example", "192.0.2.7", 22, byName(pass(shell))},
		{"also by original: bypass rule for the address", alsoOriginal, "www.corp.example", "192.0.2.7", 10000, byName(pass(hole))},
		{"also by original: name that only its address acquires", alsoOriginal, "example.net", "203.0.113.1", 443, byName(acquire(everything))},
		{"also by original: not of that address", both, "example.net", "203.0.113.1", 443, ordinary(none)},
		{"also by original: not known", alsoOriginal, "example.net", "", 443, ordinary(none)},
		{"also by original: what is never acquired", alsoOriginal, "example.net", "127.0.0.1", 443, ordinary(loopback)},
		{"also by original: never acquired but for its name", alsoOriginal, "build.corp.example", "127.0.0.1", 443, byName(acquire(mixed))},
		{"also by original: never acquired on other ports", alsoOriginal, "www.corp.example", "127.0.0.1", 80, byAddress(loopback)},
		{"also by original: edge", alsoOriginal, "edge.corp.example", "203.0.113.9", 443, ordinary(acquire(everything))},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			p := site()
			test.change(p)
			f := policy.Flow{Protocol: policy.TCP, Name: test.name, Port: test.port}
			if test.original != "" {
				f.Addr = netip.MustParseAddr(test.original)
			}
			if got := p.MatchName(f); got != test.want {
				t.Errorf("MatchName = %+v, want %+v", got, test.want)
			}
			if got := p.Match(f); got != test.want.Decision {
				t.Errorf("Match = %+v, want %+v", got, test.want.Decision)
			}
			if got := byTables(p, mustCompile(t, p), policy.NewNames(p), f); got != test.want {
				t.Errorf("tables say %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestUnknownAddressesOfAPoolAreBlocked(t *testing.T) {
	p := site()
	p.Protected = append(p.Protected, policy.Protection{
		Prefix: netip.MustParsePrefix("6.6.0.9/32"), Ports: policy.AllPorts(), Reason: "edge",
	})
	c := mustCompile(t, p)
	want := policy.Decision{Verdict: policy.VerdictBlock, Reason: policy.ReasonNoName, Rule: -1, Protection: -1}
	for _, to := range []string{"6.6.0.0:0", "6.6.255.255:443", "6.6.0.9:80", "[::ffff:6.6.1.1]:53", "[fd00:6::1]:65535"} {
		for _, protocol := range []policy.Protocols{policy.TCP, policy.UDP} {
			f := tcp(to)
			f.Protocol = protocol
			if got := p.Match(f); got != want {
				t.Errorf("Match(%+v) = %+v, want %+v", f, got, want)
			}
			if got := c.Lookup(f); got != want {
				t.Errorf("Lookup(%+v) = %+v, want %+v", f, got, want)
			}
		}
	}
	for _, to := range []string{"6.5.255.255:443", "6.7.0.0:443"} {
		if got := c.Lookup(tcp(to)); got.Verdict != policy.VerdictAcquire {
			t.Errorf("Lookup(%s) = %+v, want it acquired", to, got)
		}
	}
}

func TestFirstTunnelRuleAcquiresAName(t *testing.T) {
	p := site()
	c, n := mustCompile(t, p), policy.NewNames(p)
	for _, test := range []struct {
		name string
		want int // or -1
	}{
		{"build.corp.example", mixed}, {"clock.example", clock}, {"a.spared.corp.example", -1}, {"example.net", -1}, {"edge.corp.example", -1},
	} {
		cells := c.NameRow(n.Rules(test.name), netip.Addr{})
		if len(cells) != int(c.Width) {
			t.Errorf("%s: %d cells of %d", test.name, len(cells), c.Width)
		}
		rule, ok := c.Acquires(cells)
		if ok != (test.want >= 0) || ok && rule != test.want {
			t.Errorf("%s is acquired by rule %d, %t, want %d", test.name, rule, ok, test.want)
		}
	}
}

func TestExplainSaysWhatComesOfAName(t *testing.T) {
	for _, test := range []struct {
		behaviour string
		flow      policy.Flow
		also      bool
		want      policy.Explanation
	}{
		{
			"acquired", policy.Flow{Name: "Build.corp.example.", Port: 443}, false,
			policy.Explanation{
				Verdict: "acquire", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "mixed", Order: 5, Channel: "private", Action: "tunnel", Hardening: "block"},
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "name",
					OtherPorts: "refused while no original address is known",
					Note:       "acquired by its name, which the edge resolves",
				},
				Beaten: []policy.BeatenRule{{ID: "late", Order: 6, Channel: "private", Action: "bypass", Why: "later in order (6 after 5)"}},
			},
		},
		{
			"by a rule for the original address", policy.Flow{Name: "build.corp.example", Port: 443, Addr: netip.MustParseAddr("192.0.2.7")}, true,
			policy.Explanation{
				Verdict: "acquire", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "range", Order: 2, Channel: "private", Action: "tunnel", Hardening: "block"},
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "name", AlsoMatchOriginal: true, Original: netip.MustParseAddr("192.0.2.7"),
					OtherPorts: "go to the original address 192.0.2.7, which decides",
					Note:       "acquired by its name, which the edge resolves",
				},
				Beaten: []policy.BeatenRule{
					{ID: "everything", Order: 4, Channel: "private", Action: "tunnel", Why: "later in order (4 after 2)"},
					{ID: "mixed", Order: 5, Channel: "private", Action: "tunnel", Why: "later in order (5 after 2)"},
					{ID: "late", Order: 6, Channel: "private", Action: "bypass", Why: "later in order (6 after 2)"},
				},
			},
		},
		{
			"direct", policy.Flow{Name: "www.corp.example", Port: 22, Addr: netip.MustParseAddr("192.0.2.7")}, false,
			policy.Explanation{
				Verdict: "pass", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "shell", Order: 1, Channel: "private", Action: "bypass"},
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "name", Original: netip.MustParseAddr("192.0.2.7"),
					OtherPorts: "go to the original address 192.0.2.7, which decides",
					Note:       "goes to the original address 192.0.2.7",
				},
				Beaten: []policy.BeatenRule{},
			},
		},
		{
			"direct to nowhere", policy.Flow{Name: "www.corp.example", Port: 22}, false,
			policy.Explanation{
				Verdict: "block", Reason: policy.ReasonNoOriginal,
				Rule: &policy.ExplainedRule{ID: "shell", Order: 1, Channel: "private", Action: "bypass"},
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "name",
					OtherPorts: "refused while no original address is known",
					Note:       "goes to the original address, and is refused while none is known",
				},
				Beaten: []policy.BeatenRule{},
			},
		},
		{
			"port of no rule", policy.Flow{Name: "www.corp.example", Port: 80, Addr: netip.MustParseAddr("192.0.2.7")}, false,
			policy.Explanation{
				Verdict: "acquire", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "range", Order: 2, Channel: "private", Action: "tunnel", Hardening: "block"},
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "address", Original: netip.MustParseAddr("192.0.2.7"),
					OtherPorts: "go to the original address 192.0.2.7, which decides",
					Note:       "no rule of the name covers it: goes to the original address 192.0.2.7, which decides",
				},
				Beaten: []policy.BeatenRule{{ID: "everything", Order: 4, Channel: "private", Action: "tunnel", Why: "later in order (4 after 2)"}},
			},
		},
		{
			"port of no rule, to nowhere", policy.Flow{Name: "www.corp.example", Port: 80}, false,
			policy.Explanation{
				Verdict: "block", Reason: policy.ReasonNoOriginal,
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "address",
					OtherPorts: "refused while no original address is known",
					Note:       "no rule of the name covers it: goes to the original address, and is refused while none is known",
				},
				Beaten: []policy.BeatenRule{},
			},
		},
		{
			"not acquired, by its address", policy.Flow{Name: "a.spared.corp.example", Port: 443, Addr: netip.MustParseAddr("198.51.100.9")}, false,
			policy.Explanation{
				Verdict: "acquire", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "everything", Order: 4, Channel: "private", Action: "tunnel", Hardening: "block"},
				Hostname: &policy.ExplainedName{
					DecidedBy: "address", Original: netip.MustParseAddr("198.51.100.9"),
					Note: "the name is not acquired: its address 198.51.100.9 decides",
				},
				Beaten: []policy.BeatenRule{
					{ID: "spared", Channel: "private", Action: "bypass", Why: "covers the name only: a name that is not acquired is decided by its address"},
					{ID: "mixed", Order: 5, Channel: "private", Action: "tunnel", Why: "covered but more specific: order beats specificity"},
				},
			},
		},
		{
			"not acquired, address not known", policy.Flow{Name: "a.spared.corp.example", Port: 443}, false,
			policy.Explanation{
				Verdict: "pass", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "spared", Channel: "private", Action: "bypass"},
				Hostname: &policy.ExplainedName{
					DecidedBy: "address",
					Note:      "the name is not acquired: the address that it is resolved to decides",
				},
				Beaten: []policy.BeatenRule{{ID: "mixed", Order: 5, Channel: "private", Action: "tunnel", Why: "later in order (5 after 0)"}},
			},
		},
		{
			"edge", policy.Flow{Name: "edge.corp.example", Port: 443}, false,
			policy.Explanation{
				Verdict: "pass", Reason: policy.ReasonNeverAcquired, Protection: "edge",
				Hostname: &policy.ExplainedName{
					DecidedBy: "address",
					Note:      "the name is not acquired: the address that it is resolved to decides",
				},
				Beaten: []policy.BeatenRule{{ID: "mixed", Order: 5, Channel: "private", Action: "tunnel", Why: "the name is never acquired: edge"}},
			},
		},
		{
			"protected address", policy.Flow{Name: "www.corp.example", Port: 80, Addr: netip.MustParseAddr("127.0.0.1")}, false,
			policy.Explanation{
				Verdict: "pass", Reason: policy.ReasonNeverAcquired, Protection: "loopback",
				Hostname: &policy.ExplainedName{
					Acquired: true, DecidedBy: "address", Original: netip.MustParseAddr("127.0.0.1"),
					OtherPorts: "go to the original address 127.0.0.1, which decides",
					Note:       "no rule of the name covers it: goes to the original address 127.0.0.1, which decides",
				},
				Beaten: []policy.BeatenRule{
					{ID: "everything", Order: 4, Channel: "private", Action: "tunnel", Why: "the destination is never acquired: loopback"},
				},
			},
		},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			p := site()
			p.AlsoMatchOriginal = test.also
			test.flow.Protocol = policy.TCP
			name, _ := policy.CanonicalName(test.flow.Name)
			test.want.Schema, test.want.Protocol, test.want.Port = 1, "tcp", test.flow.Port
			test.want.Name, test.want.Destination = name, name
			if diff := cmp.Diff(test.want, policy.Explain(p, test.flow), comparable()); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}
