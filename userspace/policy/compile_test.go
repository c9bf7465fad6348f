package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// table renders prefixes with the rule that wins TCP port 80 there.
func table(p *policy.Policy, c *policy.Compiled, rows []policy.PrefixRow) []string {
	list := []string{}
	for _, row := range rows {
		winner := "none"
		if cell := c.Verdicts[row.Row+uint32(c.Ports.Of(policy.TCP, 80))]; cell != 0 {
			winner = p.Rules[c.Entries[cell-1].Rule].ID
		}
		list = append(list, fmt.Sprint(row.Prefix, " ", winner))
	}
	return list
}

func TestPrefixesAreMinimal(t *testing.T) {
	everything := span("0.0.0.0", "255.255.255.255")
	for _, test := range []struct {
		behaviour string
		rules     []policy.Rule
		want      []string
	}{
		{"no rules", nil, []string{}},
		{"rule without addresses", []policy.Rule{tunnel("a", 0)}, []string{}},
		{"one prefix", []policy.Rule{tunnel("a", 0, span("10.0.0.0", "10.255.255.255"))}, []string{"10.0.0.0/8 a"}},
		{"one address", []policy.Rule{tunnel("a", 0, span("10.0.0.1", "10.0.0.1"))}, []string{"10.0.0.1/32 a"}},
		{"whole family", []policy.Rule{tunnel("a", 0, everything)}, []string{"0.0.0.0/0 a"}},
		{"last address", []policy.Rule{tunnel("a", 0, span("255.255.255.255", "255.255.255.255"))}, []string{"255.255.255.255/32 a"}},
		{
			"range off prefix borders",
			[]policy.Rule{tunnel("a", 0, span("10.0.0.1", "10.0.0.6"))},
			[]string{"10.0.0.1/32 a", "10.0.0.2/31 a", "10.0.0.4/31 a", "10.0.0.6/32 a"},
		},
		{
			"neighbouring ranges of one rule",
			[]policy.Rule{tunnel("a", 0, span("10.0.0.0", "10.0.0.99"), span("10.0.0.100", "10.0.0.255"))},
			[]string{"10.0.0.0/24 a"},
		},
		{
			"overlapping ranges of one rule",
			[]policy.Rule{tunnel("a", 0, span("10.0.0.0", "10.0.0.200"), span("10.0.0.100", "10.0.0.255"), span("10.0.0.7", "10.0.0.7"))},
			[]string{"10.0.0.0/24 a"},
		},
		{
			"exception before a catch-all",
			[]policy.Rule{bypass("b", 0, span("10.1.0.0", "10.1.255.255")), tunnel("a", 1, everything)},
			[]string{"0.0.0.0/0 a", "10.1.0.0/16 b"},
		},
		{
			"exception after a catch-all never wins",
			[]policy.Rule{tunnel("a", 0, everything), bypass("b", 1, span("10.1.0.0", "10.1.255.255"))},
			[]string{"0.0.0.0/0 a"},
		},
		{
			"hole in a wide range",
			[]policy.Rule{tunnel("a", 0, span("0.0.0.0", "10.0.0.0"), span("10.0.0.2", "255.255.255.255"))},
			[]string{"0.0.0.0/0 a", "10.0.0.1/32 none"},
		},
		{
			"rule for other ports has a row of its own",
			[]policy.Rule{
				onPorts(bypass("b", 0, span("10.0.0.0", "10.0.0.127")), policy.PortRange{First: 22, Last: 22}),
				tunnel("a", 1, span("10.0.0.0", "10.0.0.255")),
			},
			[]string{"10.0.0.0/24 a", "10.0.0.128/25 a"},
		},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			p := &policy.Policy{Rules: test.rules}
			c := mustCompile(t, p)
			if diff := cmp.Diff(test.want, table(p, c, c.IPv4)); diff != "" {
				t.Errorf("IPv4 prefixes (-want +got):\n%s", diff)
			}
			if len(c.IPv6) != 0 {
				t.Errorf("IPv6 prefixes = %v, want none", c.IPv6)
			}
		})
	}
}

func TestWholeIPv6IsOnePrefix(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{
		bypass("b", 0, span("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")),
		tunnel("a", 1, span("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
	}}
	c := mustCompile(t, p)
	if diff := cmp.Diff([]string{"::/0 a", "2001:db8::/32 b"}, table(p, c, c.IPv6)); diff != "" {
		t.Errorf("IPv6 prefixes (-want +got):\n%s", diff)
	}
	if len(c.IPv4) != 0 {
		t.Errorf("IPv4 prefixes = %v, want none", c.IPv4)
	}
}

func TestPortsOfEqualCoverShareAClass(t *testing.T) {
	web := onPorts(tunnel("web", 0, span("10.0.0.0", "10.0.0.255")), policy.PortRange{First: 443, Last: 443}, policy.PortRange{First: 80, Last: 81})
	web.Protocols = policy.TCP
	c := mustCompile(t, &policy.Policy{Rules: []policy.Rule{
		web, tunnel("all", 1, span("10.0.0.0", "10.0.255.255")),
	}})
	if c.Width != 2 {
		t.Fatalf("width = %d, want 2", c.Width)
	}
	inside := c.Ports.TCP[80]
	for port := range 65536 {
		want := port == 80 || port == 81 || port == 443
		if got := c.Ports.TCP[port] == inside; got != want {
			t.Errorf("TCP port %d in the class of port 80: %t, want %t", port, got, want)
		}
		if c.Ports.UDP[port] == inside {
			t.Errorf("UDP port %d in the class of TCP port 80", port)
		}
	}
}

func TestEqualRowsAreShared(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{
		tunnel("a", 0, span("10.0.0.0", "10.0.0.255"), span("10.2.0.0", "10.2.0.255")),
		tunnel("moot", 1, span("10.2.0.0", "10.2.0.127")),
	}}
	c := mustCompile(t, p)
	if rows := len(c.Verdicts) / int(c.Width); rows != 2 {
		t.Errorf("%d rows, want 2: no match and rule a", rows)
	}
}

func TestEntriesAreRulesThenProtectionsThenPools(t *testing.T) {
	c := mustCompile(t, &policy.Policy{
		Rules:     []policy.Rule{tunnel("a", 0), bypass("b", 1)},
		Protected: policy.NeverAcquired()[:1],
		Pools:     []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16")},
	})
	want := []policy.Entry{
		{
			Kind: policy.EntryRule, Rule: 0, Protection: -1, Pool: -1,
			Action: policy.ActionTunnel, Hardening: policy.HardeningBlock, Channel: "private",
		},
		{
			Kind: policy.EntryRule, Rule: 1, Protection: -1, Pool: -1,
			Action: policy.ActionBypass, Hardening: policy.HardeningBypass, Channel: "private",
		},
		{Kind: policy.EntryProtection, Rule: -1, Protection: 0, Pool: -1},
		{Kind: policy.EntryPool, Rule: -1, Protection: -1, Pool: 0},
	}
	if diff := cmp.Diff(want, c.Entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestMalformedRangesAreRejected(t *testing.T) {
	for _, test := range []struct {
		behaviour string
		addrs     policy.AddrRange
	}{
		{"reversed", span("10.0.0.2", "10.0.0.1")},
		{"two families", span("10.0.0.1", "2001:db8::1")},
		{"zone", span("fe80::1%eth0", "fe80::2")},
		{"IPv4-mapped", span("::ffff:10.0.0.1", "::ffff:10.0.0.2")},
		{"no addresses", policy.AddrRange{}},
		{"half of one", policy.AddrRange{First: netip.MustParseAddr("10.0.0.1")}},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			c, err := policy.Compile(&policy.Policy{Rules: []policy.Rule{tunnel("bad", 0, test.addrs)}}, policy.Budget{})
			if err == nil || c != nil {
				t.Fatalf("Compile = %v, %v, want an error alone", c, err)
			}
			if _, ok := errors.AsType[*policy.BudgetError](err); ok {
				t.Errorf("error is a BudgetError: %v", err)
			}
		})
	}
	for _, prefix := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")} {
		p := &policy.Policy{Protected: []policy.Protection{{Prefix: prefix, Ports: policy.AllPorts()}}}
		if c, err := policy.Compile(p, policy.Budget{}); err == nil || c != nil {
			t.Errorf("Compile with protected prefix %s = %v, %v, want an error alone", prefix, c, err)
		}
		if c, err := policy.Compile(&policy.Policy{Pools: []netip.Prefix{prefix}}, policy.Budget{}); err == nil || c != nil {
			t.Errorf("Compile with pool %s = %v, %v, want an error alone", prefix, c, err)
		}
	}
}
