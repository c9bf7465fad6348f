package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// acquireAll is a profile that wants everything.
func acquireAll() *policy.Policy {
	return &policy.Policy{
		Rules: []policy.Rule{tunnel("all", 0,
			span("0.0.0.0", "255.255.255.255"),
			span("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))},
		Protected: policy.NeverAcquired(),
	}
}

func TestNeverAcquiredUnderAcquireAll(t *testing.T) {
	p := acquireAll()
	c := mustCompile(t, p)
	for _, test := range []struct {
		first, last string
		reason      string
	}{
		{"0.0.0.0", "0.255.255.255", "unspecified"},
		{"127.0.0.0", "127.255.255.255", "loopback"},
		{"169.254.0.0", "169.254.255.255", "link-local, metadata service"},
		{"169.254.169.254", "169.254.169.254", "link-local, metadata service"},
		{"224.0.0.0", "239.255.255.255", "multicast"},
		{"255.255.255.255", "255.255.255.255", "broadcast"},
		{"168.63.129.16", "168.63.129.16", "Azure platform"},
		{"100.100.100.200", "100.100.100.200", "metadata service (Alibaba Cloud)"},
		{"::", "::", "unspecified"},
		{"::1", "::1", "loopback"},
		{"fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"},
		{"fe80::1%eth0", "fe80::1%eth0", "link-local"},
		{"ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"},
		{"fd00:ec2::254", "fd00:ec2::254", "metadata service (AWS)"},
		{"fd00:ec2::23", "fd00:ec2::23", "pod identity agent (AWS)"},
		{"fd20:ce::254", "fd20:ce::254", "metadata service (Google Cloud)"},
	} {
		for _, text := range []string{test.first, test.last} {
			addr := netip.MustParseAddr(text)
			addrs := []netip.Addr{addr}
			if addr.Is4() {
				addrs = append(addrs, netip.AddrFrom16(addr.As16()))
			}
			for _, addr := range addrs {
				for _, f := range []policy.Flow{
					{Protocol: policy.TCP, Addr: addr, Port: 0},
					{Protocol: policy.UDP, Addr: addr, Port: 65535},
				} {
					got := p.Match(f)
					if got.Verdict != policy.VerdictPass || got.Reason != policy.ReasonNeverAcquired || got.Rule != -1 {
						t.Errorf("Match(%+v) = %+v, want never acquired", f, got)
					} else if reason := p.Protected[got.Protection].Reason; reason != test.reason {
						t.Errorf("Match(%+v) is protected as %q, want %q", f, reason, test.reason)
					}
					if looked := c.Lookup(f); looked != got {
						t.Errorf("Lookup(%+v) = %+v, Match says %+v", f, looked, got)
					}
				}
			}
		}
	}
}

func TestNeighboursOfNeverAcquiredAreAcquired(t *testing.T) {
	p := acquireAll()
	c := mustCompile(t, p)
	want := policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule, Protection: -1}
	for _, text := range []string{
		"1.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "223.255.255.255",
		"240.0.0.0", "255.255.255.254", "168.63.129.15", "168.63.129.17", "100.100.100.199", "100.100.100.201",
		"::2", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		"fd00:ec2::253", "fd00:ec2::255", "fd00:ec2::22", "fd00:ec2::24", "fd20:ce::253", "fd20:ce::255",
	} {
		f := policy.Flow{Protocol: policy.TCP, Addr: netip.MustParseAddr(text), Port: 443}
		for way, got := range map[string]policy.Decision{"Match": p.Match(f), "Lookup": c.Lookup(f)} {
			if got != want {
				t.Errorf("%s(%s) = %+v, want %+v", way, text, got, want)
			}
		}
	}
}

func TestNeverAcquiredIsFresh(t *testing.T) {
	policy.NeverAcquired()[0].Reason = "changed"
	if got := policy.NeverAcquired()[0].Reason; got == "changed" {
		t.Error("NeverAcquired returns a list that its callers share")
	}
	if got, want := fmt.Sprint(policy.NeverAcquired()[1].Ports), fmt.Sprint(policy.AllPorts()); got != want {
		t.Errorf("protected ports = %s, want %s", got, want)
	}
}
