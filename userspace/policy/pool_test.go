package policy_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestPoolsOutOfReachAreRejected(t *testing.T) {
	p := &policy.Policy{
		Rules: []policy.Rule{
			bypass("spared", 0, span("6.6.0.0", "6.6.0.255")),
			tunnel("lab", 1, span("10.9.0.0", "10.9.0.9"), span("192.0.2.4", "192.0.2.9"), span("fd00:7::5", "fd00:7::9")),
			tunnel("all", 2, span("0.0.0.0", "255.255.255.255"), span("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
			tunnel("most", 3, span("193.0.0.0", "255.255.255.255")),
		},
		Protected:  []policy.Protection{{Prefix: netip.MustParsePrefix("6.6.1.1/32"), Ports: policy.AllPorts(), Reason: "edge"}},
		PrivateDNS: []policy.PrivateDNSRule{{Suffix: "corp", Server: netip.MustParseAddr("6.6.255.254")}},
	}
	for _, test := range []struct{ pool, want string }{
		{"6.6.0.0/16", ""},
		{"11.0.0.0/8", ""},
		{"192.0.2.0/30", ""},
		{"fd00:6::/64", ""},
		{"fd00:6::/48", ""},
		{"fd00:6::/124", ""},
		{"6.6.0.1/16", "use 6.6.0.1/16 for synthetic addresses: want no host bits, as in 6.6.0.0/16"},
		{"6.0.0.0/7", "use 6.0.0.0/7 for synthetic addresses: want at least /8, which is a smaller prefix"},
		{"6.6.0.0/31", "use 6.6.0.0/31 for synthetic addresses: want at most /30, which is a larger prefix"},
		{"fd00::/47", "use fd00::/47 for synthetic addresses: want at least /48, which is a smaller prefix"},
		{"fd00::/125", "use fd00::/125 for synthetic addresses: want at most /124, which is a larger prefix"},
		{"2001:db8::/64", "use 2001:db8::/64 for synthetic addresses: want a prefix in fc00::/7, the unique local addresses"},
		{"::ffff:6.6.0.0/112", "use ::ffff:6.6.0.0/112 for synthetic addresses: want a prefix of IPv4 or IPv6 addresses"},
		{"", "use invalid Prefix for synthetic addresses: want a prefix of IPv4 or IPv6 addresses"},
		{"127.0.0.0/8", "use 127.0.0.0/8 for synthetic addresses: it overlaps 127.0.0.0/8, which is never acquired (loopback)"},
		{"168.63.0.0/16", "use 168.63.0.0/16 for synthetic addresses: it overlaps 168.63.129.16/32, which is never acquired (Azure platform)"},
		{"fd00:ec2::/64", "use fd00:ec2::/64 for synthetic addresses: it overlaps fd00:ec2::254/128, which is never acquired (metadata service (AWS))"},
		{"10.9.0.8/30", `use 10.9.0.8/30 for synthetic addresses: it overlaps 10.9.0.0-10.9.0.9 of tunnel rule "lab"`},
		{"192.0.2.0/24", `use 192.0.2.0/24 for synthetic addresses: it overlaps 192.0.2.4-192.0.2.9 of tunnel rule "lab"`},
		{"fd00:7::/64", `use fd00:7::/64 for synthetic addresses: it overlaps fd00:7::5-fd00:7::9 of tunnel rule "lab"`},
		{"198.18.0.0/24", `use 198.18.0.0/24 for synthetic addresses: it overlaps 193.0.0.0-255.255.255.255 of tunnel rule "most"`},
	} {
		var pool netip.Prefix
		if test.pool != "" {
			pool = netip.MustParsePrefix(test.pool)
		}
		err := policy.CheckPool(p, pool)
		if got := errorText(err); got != test.want {
			t.Errorf("CheckPool(%s) = %q, want %q", test.pool, got, test.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestServersAndEdgesInAPoolAreReserved(t *testing.T) {
	addr := netip.MustParseAddr
	p := &policy.Policy{
		Protected: append(policy.NeverAcquired(),
			policy.Protection{Prefix: netip.MustParsePrefix("6.6.1.1/32"), Reason: "edge"},
			policy.Protection{Prefix: netip.MustParsePrefix("6.6.255.254/32"), Reason: "edge"},
			policy.Protection{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Reason: "edge"}),
		PrivateDNS: []policy.PrivateDNSRule{{Suffix: "a", Server: addr("6.6.255.254")}, {Suffix: "b", Server: addr("fd00::1")}, {Suffix: "c"}},
	}
	for _, test := range []struct {
		pool string
		want []netip.Addr
	}{
		{"6.6.0.0/16", []netip.Addr{addr("6.6.1.1"), addr("6.6.255.254")}},
		{"fd00::/64", []netip.Addr{addr("fd00::1")}},
		{"6.7.0.0/16", nil},
	} {
		if diff := cmp.Diff(test.want, p.Reserved(netip.MustParsePrefix(test.pool)), comparable()); diff != "" {
			t.Errorf("reserved in %s (-want +got):\n%s", test.pool, diff)
		}
	}
}
