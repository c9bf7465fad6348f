package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestBudgetNamesWhatIsOver(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{
		onPorts(tunnel("a", 0, span("10.0.0.0", "10.0.0.255")), policy.PortRange{First: 80, Last: 80}),
		tunnel("b", 1, span("10.0.0.0", "10.0.1.255"), span("2001:db8::1", "2001:db8::1"), span("2001:db8::4", "2001:db8::4")),
	}}
	c := mustCompile(t, p)
	fits := policy.Budget{
		IPv4Prefixes: len(c.IPv4), IPv6Prefixes: len(c.IPv6),
		Classes: int(c.Width), Cells: len(c.Verdicts), Bytes: c.Bytes(),
	}
	if _, err := policy.Compile(p, fits); err != nil {
		t.Fatalf("Compile within the budget: %v", err)
	}
	for _, test := range []struct {
		figure string
		tight  func(*policy.Budget) *int
	}{
		{"IPv4 prefixes", func(b *policy.Budget) *int { return &b.IPv4Prefixes }},
		{"IPv6 prefixes", func(b *policy.Budget) *int { return &b.IPv6Prefixes }},
		{"port classes", func(b *policy.Budget) *int { return &b.Classes }},
		{"verdict cells", func(b *policy.Budget) *int { return &b.Cells }},
		{"bytes", func(b *policy.Budget) *int { return &b.Bytes }},
	} {
		t.Run(test.figure, func(t *testing.T) {
			budget := fits
			limit := test.tight(&budget)
			*limit--
			c, err := policy.Compile(p, budget)
			over, ok := errors.AsType[*policy.BudgetError](err)
			if !ok || c != nil {
				t.Fatalf("Compile = %v, %v, want a BudgetError alone", c, err)
			}
			if over.Figure != test.figure || over.Limit != *limit || over.Needed <= over.Limit || over.Remedy == "" {
				t.Errorf("BudgetError = %+v, want %s over %d", over, test.figure, *limit)
			}
			want := fmt.Sprintf("policy needs %d %s or more, the budget allows %d: %s, or raise the budget",
				over.Needed, test.figure, *limit, over.Remedy)
			if err.Error() != want {
				t.Errorf("error = %q, want %q", err, want)
			}
		})
	}
}

func TestPrefixesBeyondTheBudgetAreCounted(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{tunnel("a", 0)}}
	for i := range uint32(1000) {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(2 * i >> 8), byte(2 * i)})
		p.Rules[0].Addrs = append(p.Rules[0].Addrs, policy.AddrRange{First: addr, Last: addr})
	}
	_, err := policy.Compile(p, policy.Budget{IPv4Prefixes: 10})
	over, ok := errors.AsType[*policy.BudgetError](err)
	if !ok || over.Needed != 1000 {
		t.Errorf("Compile: %v, want 1000 IPv4 prefixes needed", err)
	}
}

func TestCompileAllocatesInProportion(t *testing.T) {
	const networks, most = 100_000, 100 << 20 // a million networks in 1 GiB
	p := millionNetworks(networks, true)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c := mustCompile(t, p)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Errorf("Compile allocates %d bytes for %d networks, want at most %d", n, networks, most)
	}
	if len(c.IPv4) > networks+1000 {
		t.Errorf("%d prefixes for %d networks in a catch-all", len(c.IPv4), networks)
	}
}
