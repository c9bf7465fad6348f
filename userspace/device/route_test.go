package device

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRoutesThatLeadToAPrefixAreFound(t *testing.T) {
	const none = "none"
	for _, test := range []struct {
		name, prefix, route string
		table, kind         int
		want                string
	}{
		{"no other route", "6.6.0.0/16", "10.0.0.0/8", 0, 0, none},
		{"the connected network", "192.0.0.0/16", "10.0.0.0/8", 0, 0, "route 192.0.2.0/24 dev up0"},
		{"a part of the prefix", "6.6.0.0/16", "6.6.7.0/24", 0, 0, "route 6.6.7.0/24 dev up0"},
		{"all of the prefix and more", "6.6.0.0/16", "6.0.0.0/8", 0, 0, "route 6.0.0.0/8 dev up0"},
		{"in another table", "6.6.0.0/16", "6.6.0.0/24", 1234, 0, "route 6.6.0.0/24 dev up0 table 1234"},
		{"a default route", "6.6.0.0/16", "0.0.0.0/0", 0, 0, none},
		{"half of a default route", "6.6.0.0/16", "0.0.0.0/1", 0, 0, none},
		{"nowhere", "6.6.0.0/16", "6.0.0.0/8", 0, unix.RTN_UNREACHABLE, none},
		{"IPv6", "fd00:1::/64", "fd00:1::/48", 0, 0, "route fd00:1::/48 dev up0"},
		{"IPv6 elsewhere", "fd00:1::/64", "fd00:2::/48", 0, 0, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, "192.0.2.1/24")
			to := netip.MustParsePrefix(test.route)
			r := netlink.Route{
				LinkIndex: h.index, Scope: netlink.SCOPE_LINK, Table: test.table, Type: test.kind,
				Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())},
			}
			if test.kind != 0 {
				r.LinkIndex = 0
			}
			if err := h.handle.RouteAdd(&r); err != nil {
				t.Fatal(err)
			}
			var got Route
			var found bool
			err := h.Do(func() (err error) {
				got, found, err = Overlapping(netip.MustParsePrefix(test.prefix))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			text := none
			if found {
				text = got.String()
			}
			if text != test.want {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
}
