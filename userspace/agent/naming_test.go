package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestQueriesAreTakenOnlyIfThePolicyNeedsThem(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*policy.Policy, *config.Config)
		queried bool
		pooled  bool
	}{
		{"names of a Tunnel rule", func(*policy.Policy, *config.Config) {}, true, true},
		{"switched off", func(_ *policy.Policy, c *config.Config) { c.FQDN.Acquire = false }, false, false},
		{"another relay", func(_ *policy.Policy, c *config.Config) { c.Relay.ExternalListener = "127.0.0.1:1" }, false, false},
		{"names of Bypass rules only", func(p *policy.Policy, _ *config.Config) { p.Rules = p.Rules[:1] }, false, false},
		{"no pool", func(p *policy.Policy, _ *config.Config) { p.Settings.SyntheticPool = netip.Prefix{} }, false, false},
		{"private DNS", func(p *policy.Policy, _ *config.Config) {
			p.Rules, p.PrivateDNS = nil, []policy.PrivateDNSRule{{Suffix: "corp.example", Server: netip.MustParseAddr("6.6.0.53")}}
		}, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, p := newBench(t), namesPolicy(t)
			test.change(p, &b.cfg)
			b.mustApply(t, p)
			if g := b.current.Load(); g.queried != test.queried || (g.pool != nil) != test.pooled || (len(p.Pools) > 0) != test.pooled {
				t.Errorf("queried %t, pool %v, pools %v", g.queried, g.pool != nil, p.Pools)
			}
		})
	}
}

func TestOriginalAddressCountsIfTheConfigurationSaysSo(t *testing.T) {
	b, p := newBench(t), namesPolicy(t)
	b.cfg.FQDN.AlsoMatchOriginalIP = true
	p.Rules[0].Addrs = []policy.AddrRange{{First: netip.MustParseAddr("192.0.2.0"), Last: netip.MustParseAddr("192.0.2.255")}}
	p.Rules[2].Addrs = []policy.AddrRange{{First: netip.MustParseAddr("198.51.100.0"), Last: netip.MustParseAddr("198.51.100.255")}}
	b.mustApply(t, p)
	judge := func(name, original string) string {
		addr, _ := netip.ParseAddr(original)
		j := b.Judge(name, addr)
		return fmt.Sprintf("%s acquired %t undecided %t", j.Rule, j.Acquired, j.Undecided)
	}
	for _, test := range []struct{ name, original, want string }{
		{"elsewhere.example", "", " acquired false undecided true"},
		{"elsewhere.example", "203.0.113.1", " acquired false undecided false"},
		{"elsewhere.example", "198.51.100.1", "open acquired true undecided false"},
		{"a.corp.example", "", "corp acquired true undecided true"},
		{"a.corp.example", "203.0.113.1", "corp acquired true undecided false"},
		{"a.corp.example", "192.0.2.1", " acquired false undecided false"}, // the Bypass rule comes first
		{"localhost", "198.51.100.1", " acquired false undecided false"},
	} {
		if got := judge(test.name, test.original); got != test.want {
			t.Errorf("%s at %q: %s, want %s", test.name, test.original, got, test.want)
		}
	}
	b.mustAssign(t, "elsewhere.example", "198.51.100.1")
	if got, want := judge("elsewhere.example", ""), "open acquired true undecided false"; got != want {
		t.Errorf("a known name: %s, want %s", got, want)
	}
}
