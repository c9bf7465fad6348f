package policy_test

import (
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// span returns the range between two textual addresses.
func span(first, last string) policy.AddrRange {
	return policy.AddrRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
}

// tunnel returns a rule that acquires every port of the ranges.
func tunnel(id string, order float64, addrs ...policy.AddrRange) policy.Rule {
	return policy.Rule{
		ID: id, Order: order, Channel: "private",
		Action: policy.ActionTunnel, Hardening: policy.HardeningBlock,
		Addrs: addrs, Ports: []policy.PortRange{policy.AllPorts()}, Protocols: policy.AnyProtocol,
	}
}

// bypass returns a rule that lets every port of the ranges go.
func bypass(id string, order float64, addrs ...policy.AddrRange) policy.Rule {
	rule := tunnel(id, order, addrs...)
	rule.Action, rule.Hardening = policy.ActionBypass, policy.HardeningBypass
	return rule
}

// onPorts restricts a rule to some ports.
func onPorts(rule policy.Rule, ports ...policy.PortRange) policy.Rule {
	rule.Ports = ports
	return rule
}

// tcp returns a TCP flow to host:port.
func tcp(hostport string) policy.Flow {
	to := netip.MustParseAddrPort(hostport)
	return policy.Flow{Protocol: policy.TCP, Addr: to.Addr(), Port: to.Port()}
}

func mustCompile(tb testing.TB, p *policy.Policy) *policy.Compiled {
	tb.Helper()
	c, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}
