package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestTunnelPrefixesAreThoseThatTunnelRulesWin(t *testing.T) {
	for _, test := range []struct {
		behaviour string
		rules     []policy.Rule
		want      []string
	}{
		{"nothing", nil, nil},
		{"one prefix", []policy.Rule{tunnel("a", 0, span("10.0.0.0", "10.255.255.255"))}, []string{"10.0.0.0/8"}},
		{
			"neighbours of two rules, of both families",
			[]policy.Rule{
				tunnel("a", 0, span("192.0.2.0", "192.0.2.127"), span("2001:db8::", "2001:db8::ff")),
				tunnel("b", 1, span("192.0.2.128", "192.0.2.255")),
			},
			[]string{"192.0.2.0/24", "2001:db8::/120"},
		},
		{
			"not what an earlier rule lets go",
			[]policy.Rule{
				bypass("containers", 0, span("10.128.0.0", "10.255.255.255")),
				tunnel("a", 1, span("10.0.0.0", "10.255.255.255")),
			},
			[]string{"10.0.0.0/9"},
		},
		{
			"what an earlier rule lets go on some ports only",
			[]policy.Rule{
				onPorts(bypass("dns", 0, span("10.0.0.0", "10.255.255.255")), policy.PortRange{First: 53, Last: 53}),
				tunnel("a", 1, span("10.0.0.0", "10.0.0.3")),
			},
			[]string{"10.0.0.0/30"},
		},
		{
			"not a whole family, but what else the rule has",
			[]policy.Rule{tunnel("a", 0, span("0.0.0.0", "255.255.255.255"), span("192.0.2.1", "192.0.2.1"))},
			[]string{"192.0.2.1/32"},
		},
		{
			"the end of a family",
			[]policy.Rule{tunnel("a", 0, span("128.0.0.0", "255.255.255.255"), span("8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))},
			[]string{"128.0.0.0/1", "8000::/1"},
		},
		{"a bypass rule alone", []policy.Rule{bypass("a", 0, span("10.0.0.0", "10.255.255.255"))}, nil},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			var got []string
			for _, p := range (&policy.Policy{Rules: test.rules}).TunnelPrefixes() {
				got = append(got, p.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("prefixes are %q, want %q", got, test.want)
			}
		})
	}
}

func TestTunnelPrefixesHoldThePools(t *testing.T) {
	pool := netip.MustParsePrefix("198.18.0.0/15")
	p := &policy.Policy{Pools: []netip.Prefix{pool}}
	if got := p.TunnelPrefixes(); !slices.Equal(got, []netip.Prefix{pool}) {
		t.Errorf("prefixes are %s, want the pool %s", got, pool)
	}
}

func TestTunnelPrefixesAgreeWithMatch(t *testing.T) {
	const policies, addresses = 100, 64
	held := 0
	for seed := range uint64(policies) {
		r := rand.New(rand.NewPCG(seed, 7))
		p := testutil.RandomPolicy(r)
		for i := range p.Rules { // whole families are another matter
			p.Rules[i].Addrs = slices.DeleteFunc(p.Rules[i].Addrs, func(a policy.AddrRange) bool {
				return a.First.IsUnspecified() && !a.Last.Next().IsValid()
			})
		}
		prefixes := p.TunnelPrefixes()
		for range addresses {
			addr := testutil.RandomFlow(r, p).Addr.Unmap()
			got := slices.ContainsFunc(prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
			if want := tunnelsSomePort(p, addr); got != want {
				t.Fatalf("seed %d: prefixes hold %s: %t, want %t", seed, addr, got, want)
			}
			if got {
				held++
			}
		}
	}
	if held < policies*addresses/10 {
		t.Errorf("%d of %d addresses are held, too few to mean anything", held, policies*addresses)
	}
}

// tunnelsSomePort tries a port on each side of every border.
func tunnelsSomePort(p *policy.Policy, addr netip.Addr) bool {
	ports := []policy.PortRange{policy.AllPorts()}
	for _, rule := range p.Rules {
		ports = append(ports, rule.Ports...)
	}
	for _, protected := range p.Protected {
		ports = append(ports, protected.Ports)
	}
	for _, protocol := range []policy.Protocols{policy.TCP, policy.UDP} {
		for _, r := range ports {
			for _, port := range []uint16{r.First, r.Last + 1} {
				f := policy.Flow{Protocol: protocol, Addr: addr, Port: port}
				if p.Match(f).Verdict == policy.VerdictAcquire {
					return true
				}
			}
		}
	}
	return false
}

func TestTunnelPrefixesAreBounded(t *testing.T) {
	p := millionNetworks(5_000, false)
	for i := range p.Rules {
		p.Rules[i].Action = policy.ActionTunnel
	}
	prefixes, compiled := p.TunnelPrefixes(), mustCompile(t, p)
	if len(prefixes) == 0 || len(prefixes) > 1024 {
		t.Errorf("there are %d prefixes", len(prefixes))
	}
	for _, rule := range p.Rules {
		for _, a := range rule.Addrs {
			if compiled.Lookup(policy.Flow{Protocol: policy.TCP, Addr: a.First, Port: 1}).Rule < 0 {
				continue // never acquired
			}
			if !slices.ContainsFunc(prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(a.First) }) {
				t.Fatalf("no prefix holds %s", a.First)
			}
		}
	}
}
