package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func names(sources ...string) []policy.NamePattern {
	var list []policy.NamePattern
	for _, source := range sources {
		pattern, err := policy.ParseNamePattern(source)
		if err != nil {
			panic(err)
		}
		list = append(list, pattern)
	}
	return list
}

func TestFirstMatchingRuleWins(t *testing.T) {
	named := tunnel("named", 5, span("198.51.100.7", "198.51.100.7"))
	named.Names = names(`.+\.example`)
	spared := bypass("spared", 4)
	spared.Names = names(`spared\.example`)
	p := &policy.Policy{
		Protected: []policy.Protection{{Prefix: netip.MustParsePrefix("192.0.2.99/32"), Ports: policy.PortRange{First: 443, Last: 443}, Reason: "edge"}},
		Rules: []policy.Rule{
			onPorts(tunnel("web", 0, span("192.0.2.0", "192.0.2.255")), policy.PortRange{First: 80, Last: 81}, policy.PortRange{First: 443, Last: 443}),
			bypass("inside", 1, span("192.0.2.10", "192.0.2.12")),
			tunnel("rest", 1, span("192.0.2.3", "192.0.2.200")),
			tunnel("six", 2, span("2001:db8::5", "2001:db8::1:0")),
			tunnel("empty", 3),
			spared,
			named,
		},
	}
	p.Rules[0].Protocols = policy.TCP
	const web, inside, rest, six, sparedAt, namedAt = 0, 1, 2, 3, 5, 6

	acquire := func(rule int) policy.Decision {
		return policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule, Rule: rule, Protection: -1}
	}
	pass := func(reason policy.Reason, rule int) policy.Decision {
		return policy.Decision{Verdict: policy.VerdictPass, Reason: reason, Rule: rule, Protection: -1}
	}
	protected := policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNeverAcquired, Rule: -1, Protection: 0}
	unmatched := pass(policy.ReasonNoMatch, -1)
	udp := func(f policy.Flow) policy.Flow { f.Protocol = policy.UDP; return f }
	name := func(name string) policy.Flow { return policy.Flow{Protocol: policy.TCP, Port: 80, Name: name} }

	for _, test := range []struct {
		behaviour string
		flow      policy.Flow
		want      policy.Decision
	}{
		{"first rule by port", tcp("192.0.2.11:80"), acquire(web)},
		{"last port of a range", tcp("192.0.2.11:81"), acquire(web)},
		{"port after a range", tcp("192.0.2.11:82"), pass(policy.ReasonRule, inside)},
		{"second range of a port list", tcp("192.0.2.11:443"), acquire(web)},
		{"other protocol", udp(tcp("192.0.2.11:80")), pass(policy.ReasonRule, inside)},
		{"address before a range", tcp("192.0.2.9:22"), acquire(rest)},
		{"first address of a range", tcp("192.0.2.10:22"), pass(policy.ReasonRule, inside)},
		{"last address of a range", tcp("192.0.2.12:22"), pass(policy.ReasonRule, inside)},
		{"address after a range", tcp("192.0.2.13:22"), acquire(rest)},
		{"no rule", tcp("192.0.2.201:22"), unmatched},
		{"protected port", tcp("192.0.2.99:443"), protected},
		{"protected port of the other protocol", udp(tcp("192.0.2.99:443")), protected},
		{"other port of a protected address", tcp("192.0.2.99:80"), acquire(web)},
		{"IPv4-mapped address", tcp("[::ffff:192.0.2.11]:80"), acquire(web)},
		{"IPv4-mapped protected address", tcp("[::ffff:192.0.2.99]:443"), protected},
		{"first IPv6 address", tcp("[2001:db8::5]:1"), acquire(six)},
		{"before the first IPv6 address", tcp("[2001:db8::4]:1"), unmatched},
		{"IPv6 zone", tcp("[2001:db8::1:0%eth0]:1"), acquire(six)},
		{"IPv4 bits in IPv6", tcp("[::192.0.2.11]:80"), unmatched},
		{"name of a tunnel rule", name("a.example"), pass(policy.ReasonNoPool, namedAt)},
		{"name with upper case and final dot", name("A.EXAMPLE."), pass(policy.ReasonNoPool, namedAt)},
		{"name of a bypass rule", name("spared.example"), pass(policy.ReasonRule, sparedAt)},
		{"name that only begins like a pattern", name("a.example.net"), unmatched},
		{"empty name", name(""), unmatched},
		{"address of a rule with names", tcp("198.51.100.7:9"), acquire(namedAt)},
		{
			"name that there is no pool for, by its address",
			policy.Flow{Protocol: policy.TCP, Port: 80, Addr: netip.MustParseAddr("192.0.2.11"), Name: "a.example"},
			acquire(web),
		},
		{"no address and no name", policy.Flow{Protocol: policy.TCP, Port: 80}, unmatched},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			if got := p.Match(test.flow); got != test.want {
				t.Errorf("Match(%+v) = %+v, want %+v", test.flow, got, test.want)
			}
			if test.flow.Name != "" {
				return // the tables know addresses only
			}
			if got := mustCompile(t, p).Lookup(test.flow); got != test.want {
				t.Errorf("Lookup(%+v) = %+v, want %+v", test.flow, got, test.want)
			}
		})
	}
}

func TestNamesInTables(t *testing.T) {
	for _, test := range []struct {
		value fmt.Stringer
		want  string
	}{
		{policy.VerdictPass, "pass"},
		{policy.VerdictAcquire, "acquire"},
		{policy.VerdictBlock, "block"},
		{policy.Verdict(0), "verdict(0)"},
		{policy.ActionBypass, "bypass"},
		{policy.ActionTunnel, "tunnel"},
		{policy.Action(0), "action(0)"},
		{policy.HardeningBypass, "bypass"},
		{policy.HardeningBlock, "block"},
		{policy.Hardening(0), "hardening(0)"},
		{policy.TCP, "tcp"},
		{policy.UDP, "udp"},
		{policy.AnyProtocol, "any"},
		{policy.Protocols(0), "protocols(0)"},
		{policy.PortRange{First: 80, Last: 80}, "80"},
		{policy.PortRange{First: 80, Last: 81}, "80-81"},
		{span("10.0.0.1", "10.0.0.1"), "10.0.0.1"},
		{span("10.0.0.1", "10.0.0.2"), "10.0.0.1-10.0.0.2"},
	} {
		if got := test.value.String(); got != test.want {
			t.Errorf("%T: %q, want %q", test.value, got, test.want)
		}
	}
}
