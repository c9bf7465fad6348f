package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// ipv4 returns the address with the 32 bits of n.
func ipv4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// network24 returns the /24 prefix with the upper 24 bits of n.
func network24(n uint32) policy.AddrRange {
	return policy.AddrRange{First: ipv4(n << 8), Last: ipv4(n<<8 | 0xff)}
}

// vendorLimits returns 1,000 rules over 8,000 destinations, most of which lie
// in ten /16 networks and overlap, with twelve different port lists.
func vendorLimits() *policy.Policy {
	r := rand.New(rand.NewPCG(8000, 1000))
	p := &policy.Policy{Protected: policy.NeverAcquired()}
	lists := [][]policy.PortRange{{policy.AllPorts()}, {policy.AllPorts()}}
	for i := range uint16(10) {
		lists = append(lists, []policy.PortRange{{First: 80 + i, Last: 80 + i}, {First: 443, Last: 443}, {First: 8000 + 10*i, Last: 8015 + 10*i}})
	}
	for i := range 1000 {
		rule := onPorts(tunnel(fmt.Sprintf("rule-%d", i), float64(i)), lists[r.IntN(len(lists))]...)
		if i%4 == 0 {
			rule = onPorts(bypass(rule.ID, rule.Order), rule.Ports...)
		}
		for range 8 {
			first := 10<<24 | r.Uint32N(10)<<16 | r.Uint32N(1<<16)
			last := min(first|0xffff, first+r.Uint32N(1<<r.Uint32N(13)))
			rule.Addrs = append(rule.Addrs, policy.AddrRange{First: ipv4(first), Last: ipv4(last)})
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// vendorLimitsOwnPorts is vendorLimits with a different port for every rule,
// which makes the most port classes and rows.
func vendorLimitsOwnPorts() *policy.Policy {
	p := vendorLimits()
	for i := range p.Rules {
		p.Rules[i].Ports = []policy.PortRange{{First: uint16(i), Last: uint16(i)}}
	}
	return p
}

// millionNetworks returns ten rules over n disjoint /24 prefixes that are
// spread over the address space, in random sequence. With catchAll, a last
// rule covers everything.
func millionNetworks(n int, catchAll bool) *policy.Policy {
	const rules = 10
	r := rand.New(rand.NewPCG(24, uint64(n)))
	p := &policy.Policy{Protected: policy.NeverAcquired()}
	for i := range rules {
		p.Rules = append(p.Rules, tunnel(fmt.Sprintf("rule-%d", i), float64(i)))
		if i%2 == 1 {
			p.Rules[i] = bypass(p.Rules[i].ID, p.Rules[i].Order)
		}
	}
	for i := range n {
		// An odd multiplier permutes the 24-bit numbers.
		network := uint32(i) * 0x9e3779b1 & 0xffffff
		rule := &p.Rules[r.IntN(rules)]
		rule.Addrs = append(rule.Addrs, network24(network))
	}
	if catchAll {
		p.Rules = append(p.Rules, tunnel("all", rules, span("0.0.0.0", "255.255.255.255")))
	}
	return p
}

// nestedRanges returns n rules, each inside the one after it, on its own port
// if ports is set.
func nestedRanges(n int, ports bool) *policy.Policy {
	p := &policy.Policy{}
	for i := range n {
		inset := uint32(n-i) * 1001
		rule := tunnel(fmt.Sprintf("rule-%d", i), float64(i),
			policy.AddrRange{First: ipv4(inset), Last: ipv4(^inset)})
		if ports {
			rule = onPorts(rule, policy.PortRange{First: uint16(i), Last: uint16(i)})
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// sharedPorts returns rules catch-all rules on different ports over n /24
// prefixes of one more rule, so that every prefix is covered by all of them.
func sharedPorts(rules, n int) *policy.Policy {
	p := &policy.Policy{}
	for i := range rules {
		p.Rules = append(p.Rules, onPorts(tunnel(fmt.Sprintf("port-%d", i), 0, span("0.0.0.0", "255.255.255.255")),
			policy.PortRange{First: uint16(i), Last: uint16(i)}))
	}
	p.Rules = append(p.Rules, bypass("networks", 1))
	for i := range n {
		p.Rules[rules].Addrs = append(p.Rules[rules].Addrs, network24(uint32(2*i)))
	}
	return p
}

func BenchmarkCompile(b *testing.B) {
	for _, bench := range []struct {
		shape  string
		policy *policy.Policy
	}{
		{"empty", &policy.Policy{}},
		{"vendor-limits", vendorLimits()},
		{"vendor-limits-own-ports", vendorLimitsOwnPorts()},
		{"10k-networks", millionNetworks(10_000, false)},
		{"1M-networks", millionNetworks(1_000_000, false)},
		{"1M-networks-in-catch-all", millionNetworks(1_000_000, true)},
		{"1000-nested", nestedRanges(1000, false)},
		{"1000-nested-ports", nestedRanges(1000, true)},
		{"1000-ports-over-500k-networks", sharedPorts(1000, 500_000)},
	} {
		b.Run(bench.shape, func(b *testing.B) {
			b.ReportAllocs()
			var c *policy.Compiled
			for b.Loop() {
				c = mustCompile(b, bench.policy)
			}
			b.ReportMetric(float64(len(c.IPv4)), "prefixes")
			b.ReportMetric(float64(len(c.Verdicts)), "cells")
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	p := vendorLimits()
	c := mustCompile(b, p)
	f := tcp("203.0.113.1:443")
	b.Run("oracle", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.Match(f)
		}
	})
	b.Run("tables", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Lookup(f)
		}
	})
}

func BenchmarkLint(b *testing.B) {
	for _, bench := range []struct {
		shape  string
		policy *policy.Policy
	}{
		{"vendor-limits", vendorLimits()},
		{"1M-networks-in-catch-all", millionNetworks(1_000_000, true)},
	} {
		b.Run(bench.shape, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policy.Lint(bench.policy)
			}
		})
	}
}
