package doctor

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// What can be read without privilege, of whatever namespace the test is in.
func TestNetworkIsReadWithoutPrivilege(t *testing.T) {
	n, err := ReadNetwork()
	if err != nil {
		t.Fatal(err)
	}
	loopback := func(l Link) bool { return l.Index == 1 && l.Name == "lo" && l.Kind == "device" && !l.Uplink }
	if !slices.ContainsFunc(n.Links, loopback) {
		t.Errorf("links %+v, want lo among them", n.Links)
	}
	for _, r := range n.Rules {
		if r.Mask == 0 {
			t.Errorf("rule %+v looks at no mark", r)
		}
	}
}

func TestMarksOfWireGuardAreRead(t *testing.T) {
	ns := testutil.Netns(t)
	var links []Link
	var refused error
	err := ns.Do(func() error {
		for _, name := range []string{"wg0", "wg1"} {
			refused = netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name}})
			// A kernel without WireGuard has no marks to read; those of make vmtest have it.
			if errors.Is(refused, unix.EOPNOTSUPP) && !testing.Short() {
				_, refused = wireguardMark(name)
				return nil
			}
			if refused != nil {
				return fmt.Errorf("add device: %w", refused)
			}
		}
		if err := setMark("wg0", 51820); err != nil {
			return fmt.Errorf("set mark: %w", err)
		}
		n, err := ReadNetwork()
		if err != nil {
			return err
		}
		links = n.Links
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if refused != nil {
		if !errors.Is(refused, unix.ENOENT) {
			t.Errorf("a kernel without WireGuard says %v of a mark, want ENOENT", refused)
		}
		return
	}
	want := []Link{
		{Index: 1, Name: "lo", Kind: "device"}, {Index: 2, Name: "wg0", Kind: "wireguard", Mark: 51820}, {Index: 3, Name: "wg1", Kind: "wireguard"},
	}
	if diff := cmp.Diff(want, links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

func setMark(name string, mark uint32) error {
	request, err := wireguardRequest(name, unix.WG_CMD_SET_DEVICE, unix.NLM_F_ACK)
	if err != nil {
		return err
	}
	request.AddData(nl.NewRtAttr(unix.WGDEVICE_A_FWMARK, nl.Uint32Attr(mark)))
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

func TestFiltersOfUplinksAreRead(t *testing.T) {
	ns := testutil.Netns(t)
	var before, after *Network
	err := ns.Do(func() (err error) {
		up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up1"}
		if err := netlink.LinkAdd(up); err != nil {
			return fmt.Errorf("add device: %w", err)
		}
		if before, err = ReadNetwork(); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(up); err != nil {
			return fmt.Errorf("set device up: %w", err)
		}
		everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: up.Index, Scope: netlink.SCOPE_LINK, Dst: everywhere}); err != nil {
			return fmt.Errorf("add route: %w", err)
		}
		classifier := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: up.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
		if err := netlink.QdiscAdd(classifier); err != nil {
			return fmt.Errorf("add classifier: %w", err)
		}
		filter := &netlink.U32{FilterAttrs: netlink.FilterAttrs{
			LinkIndex: up.Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL,
		}}
		if err := netlink.FilterAdd(filter); err != nil {
			return fmt.Errorf("add filter: %w", err)
		}
		after, err = ReadNetwork()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lo, peer := Link{Index: 1, Name: "lo", Kind: "device"}, Link{Index: 2, Name: "up1", Kind: "veth"}
	want := []Link{lo, peer, {Index: 3, Name: "up0", Kind: "veth"}}
	if diff := cmp.Diff(want, before.Links); diff != "" {
		t.Errorf("links before (-want +got):\n%s", diff)
	}
	want = []Link{lo, peer, {Index: 3, Name: "up0", Kind: "veth", Uplink: true, Filters: []string{"u32"}}}
	if diff := cmp.Diff(want, after.Links); diff != "" {
		t.Errorf("links after (-want +got):\n%s", diff)
	}
}
