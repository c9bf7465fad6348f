package control

import (
	"net/netip"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestRangesThatArePrefixesAreShownSo(t *testing.T) {
	for _, test := range []struct{ first, last, want string }{
		{"0.0.0.0", "255.255.255.255", "0.0.0.0/0"},
		{"10.0.0.0", "10.255.255.255", "10.0.0.0/8"},
		{"10.0.0.2", "10.0.0.3", "10.0.0.2/31"},
		{"10.0.0.1", "10.0.0.2", "10.0.0.1-10.0.0.2"},
		{"10.0.0.0", "10.0.0.2", "10.0.0.0-10.0.0.2"},
		{"10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"},
		{"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::/32"},
		{"2001:db8::1", "2001:db8::4", "2001:db8::1-2001:db8::4"},
	} {
		r := policy.AddrRange{First: netip.MustParseAddr(test.first), Last: netip.MustParseAddr(test.last)}
		if got := rangeText(r); got != test.want {
			t.Errorf("%v is shown as %q, want %q", r, got, test.want)
		}
	}
}
