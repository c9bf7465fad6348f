package device

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestDeviceOfARouteIsFound(t *testing.T) {
	ns := testutil.Netns(t)
	prefix := func(text string) *net.IPNet {
		_, parsed, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	err := ns.Do(func() error {
		for _, route := range []*netlink.Route{
			{LinkIndex: 1, Dst: prefix("192.0.2.0/24"), Scope: netlink.SCOPE_LINK},
			{Type: unix.RTN_UNREACHABLE, Dst: prefix("192.0.2.128/25")},
			{Type: unix.RTN_BLACKHOLE, Dst: prefix("192.0.2.64/26")},
			{Type: unix.RTN_PROHIBIT, Dst: prefix("192.0.2.32/27")},
			{LinkIndex: 1, Dst: prefix("2001:db8::/32")},
			{Type: unix.RTN_UNREACHABLE, Dst: prefix("2001:db8:1::/48")},
		} {
			if err := netlink.RouteAdd(route); err != nil {
				return err
			}
		}
		for addr, want := range map[string]string{
			"192.0.2.1": "lo", "::ffff:192.0.2.1": "lo", "192.0.2.200": "", "192.0.2.65": "", "192.0.2.33": "", "198.51.100.1": "",
			"2001:db8::1": "lo", "2001:db8:1::1": "", "2001:db9::1": "",
		} {
			if got, err := Toward(netip.MustParseAddr(addr)); err != nil || got.Name != want {
				t.Errorf("%s leaves by %q, %v; want %q", addr, got.Name, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
