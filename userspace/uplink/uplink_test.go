package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// bed is a host whose devices a Watcher follows.
type bed struct {
	*netns.Namespace
	handle   *netlink.Handle
	prefixes atomic.Pointer[[]netip.Prefix]
	linger   time.Duration
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{Namespace: testutil.Netns(t), linger: linger}
	handle, err := b.Handle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	b.handle = handle
	b.tunnel("192.168.11.0/24", "fd00:11::/64")
	return b
}

// tunnel says where the policy tunnels to.
func (b *bed) tunnel(prefixes ...string) {
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, netip.MustParsePrefix(p))
	}
	b.prefixes.Store(&all)
}

// add makes a device and sets it up.
func (b *bed) add(t *testing.T, link netlink.Link) netlink.Link {
	t.Helper()
	err := b.handle.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) && !testing.Short() { // the kernels of make vmtest have all
		t.Logf("this kernel has no %s", link.Type())
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	b.do(t, b.handle.LinkSetUp(link))
	return link
}

func (b *bed) veth(t *testing.T, name string) netlink.Link {
	t.Helper()
	link := b.add(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"})
	far, err := b.handle.LinkByName(name + "-far")
	b.do(t, errors.Join(err, b.handle.LinkSetUp(far)))
	return link
}

func (b *bed) do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// route leads a prefix to a device, by a gateway if there is one.
func (b *bed) route(t *testing.T, link netlink.Link, to, gateway string) *netlink.Route {
	t.Helper()
	_, dst, err := net.ParseCIDR(to)
	b.do(t, err)
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
	if gateway != "" {
		route.Gw, route.Flags, route.Scope = net.ParseIP(gateway), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	}
	b.do(t, b.handle.RouteAdd(route))
	return route
}

func (b *bed) open(t *testing.T, names ...string) (w *Watcher) {
	t.Helper()
	err := b.Do(func() (err error) {
		w, err = Open(Options{
			Devices: names, Prefixes: func() []netip.Prefix { return *b.prefixes.Load() }, Log: slog.New(slog.DiscardHandler),
		})
		return err
	})
	b.do(t, err)
	w.linger = b.linger
	return w
}

// uplinks reads them once, as "name name".
func (b *bed) uplinks(t *testing.T, names ...string) string {
	t.Helper()
	w := b.open(t, names...)
	defer w.Close()
	all, err := w.Uplinks()
	b.do(t, err)
	return text(all)
}

func text(all []Uplink) string {
	var names []string
	for _, u := range all {
		names = append(names, u.Name)
	}
	return strings.Join(names, " ")
}

// following is a Watcher that runs.
type following struct {
	*Watcher
	sets  chan []Uplink
	count atomic.Int64
	last  []Uplink
}

func (b *bed) follow(t *testing.T, names ...string) *following {
	t.Helper()
	f := &following{Watcher: b.open(t, names...), sets: make(chan []Uplink, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- f.Run(ctx, func(all []Uplink) {
			f.count.Add(1)
			select { // only the newest counts
			case <-f.sets:
			default:
			}
			f.sets <- all
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, f.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

// await returns once a set is delivered that is as wanted.
func (f *following) await(t *testing.T, noun string, wanted func([]Uplink) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case f.last = <-f.sets:
			if wanted(f.last) {
				return
			}
		case <-limit:
			t.Fatalf("wait for %s: the uplinks are %+v", noun, f.last)
		}
	}
}

func (f *following) awaitNames(t *testing.T, names string) {
	t.Helper()
	f.await(t, fmt.Sprintf("%q", names), func(all []Uplink) bool { return text(all) == names })
}

func TestRoutesSayWhichDevicesAreUplinks(t *testing.T) {
	for _, test := range []struct{ name, to, gateway, want string }{
		{"default route", "0.0.0.0/0", "10.9.0.1", "up0"},
		{"default route of IPv6", "::/0", "fe80::1", "up0"},
		{"default route without a gateway", "0.0.0.0/0", "", "up0"},
		{"half a default route, with a Tunnel prefix in it", "128.0.0.0/1", "10.9.0.1", "up0"},
		{"half a default route, with none", "0.0.0.0/1", "10.9.0.1", ""},
		{"route to a Tunnel prefix", "192.168.11.0/24", "10.9.0.1", "up0"},
		{"route to a part of one", "192.168.11.128/25", "10.9.0.1", "up0"},
		{"route to more than one", "192.168.0.0/16", "10.9.0.1", "up0"},
		{"route to a Tunnel prefix of IPv6", "fd00:11::/60", "fe80::1", "up0"},
		{"route to another prefix", "192.168.12.0/24", "10.9.0.1", ""},
		{"route to another prefix of IPv6", "fd00:12::/64", "fe80::1", ""},
		{"Tunnel prefix on a veth, behind which are containers", "192.168.11.0/24", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			b.veth(t, "other")
			up := b.veth(t, "up0")
			if got := b.uplinks(t); got != "" {
				t.Errorf("without a route: %q", got)
			}
			b.route(t, up, test.to, test.gateway)
			if got := b.uplinks(t); got != test.want {
				t.Errorf("uplinks %q, want %q", got, test.want)
			}
		})
	}
}

func TestEveryTableAndNextHopCounts(t *testing.T) {
	b := newBed(t)
	policy, left, right, blackhole := b.veth(t, "policy0"), b.veth(t, "left0"), b.veth(t, "right0"), b.veth(t, "nowhere0")
	everywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	b.do(t, b.handle.RouteAdd(&netlink.Route{Dst: everywhere, Table: 51820, LinkIndex: policy.Attrs().Index, Scope: netlink.SCOPE_LINK}))
	b.do(t, b.handle.RouteAdd(&netlink.Route{Dst: everywhere, Table: 7, Type: unix.RTN_UNREACHABLE}))
	var hops []*netlink.NexthopInfo
	for i, link := range []netlink.Link{left, right} {
		hops = append(hops, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 9, byte(i), 1), Flags: int(netlink.FLAG_ONLINK)})
	}
	b.do(t, b.handle.RouteAdd(&netlink.Route{Dst: everywhere, MultiPath: hops}))
	if got := b.uplinks(t); got != "policy0 left0 right0" {
		t.Errorf("uplinks %q; nowhere0 is %d", got, blackhole.Attrs().Index)
	}
}

func TestDeviceWithoutLinkLayerIsToldApart(t *testing.T) {
	b := newBed(t)
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}
	// A descriptor of a tun device is of the thread's namespace that opened it.
	b.do(t, b.Do(func() error { return netlink.LinkAdd(tun) }))
	b.do(t, b.handle.LinkSetMTU(tun, 1420))
	b.do(t, b.handle.LinkSetUp(tun))
	b.route(t, tun, "192.168.11.0/24", "") // it has no neighbours, and so needs no gateway
	up := b.veth(t, "up0")
	b.route(t, up, "0.0.0.0/0", "10.9.0.1")
	w := b.open(t)
	defer w.Close()
	all, err := w.Uplinks()
	b.do(t, err)
	if len(all) != 2 {
		t.Fatalf("uplinks %+v", all)
	}
	if u := all[0]; u.Name != "tun0" || !u.L3 || u.MAC != nil || u.MTU != 1420 || u.Index != tun.Index {
		t.Errorf("tun0 is %+v", u)
	}
	if u := all[1]; u.Name != "up0" || u.L3 || len(u.MAC) != 6 || u.MTU != 1500 || u.Index != up.Attrs().Index {
		t.Errorf("up0 is %+v", u)
	}
}

func TestBridgeAndVLANAreUplinksAndTheirPortsAreNot(t *testing.T) {
	b := newBed(t)
	parent := b.veth(t, "eth7")
	vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth7.5", ParentIndex: parent.Attrs().Index}, VlanId: 5}
	want := ""
	if link := b.add(t, vlan); link != nil {
		b.route(t, link, "0.0.0.0/0", "10.9.0.1")
		want = "eth7.5 "
	}
	lan, containers := b.add(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}), b.add(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "ct0"}})
	out := b.add(t, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "nic0"}})
	if out == nil {
		out = b.add(t, &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "nic0", ParentIndex: parent.Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE})
	}
	in := b.veth(t, "vnet0")
	b.do(t, b.handle.LinkSetMasterByIndex(out, lan.Attrs().Index))
	b.do(t, b.handle.LinkSetMasterByIndex(in, containers.Attrs().Index))
	b.tunnel("172.16.0.0/12")
	b.route(t, lan, "172.18.0.0/16", "")         // a network
	b.route(t, containers, "172.17.0.0/16", "")  // docker's
	b.route(t, out, "172.19.0.0/16", "10.9.1.1") // of no effect: the bridge takes all
	if got := b.uplinks(t); got != want+"lan0" {
		t.Errorf("uplinks %q, want %q", got, want+"lan0")
	}
	b.route(t, containers, "::/0", "fe80::1")
	if got := b.uplinks(t); got != want+"lan0 ct0" {
		t.Errorf("with a default route through ct0: %q", got)
	}
}

func TestConfiguredDevicesNeedNoRoute(t *testing.T) {
	b := newBed(t)
	b.route(t, b.veth(t, "up0"), "0.0.0.0/0", "10.9.0.1")
	b.veth(t, "side0")
	down := b.veth(t, "down0")
	b.do(t, b.handle.LinkSetDown(down))
	var e *enclave.Enclave
	b.do(t, b.Do(func() (err error) {
		e, err = enclave.Open(enclave.Options{MTU: 1500})
		return err
	}))
	defer e.Close()
	for _, test := range []struct {
		devices []string
		want    string
	}{
		{nil, "up0"},
		{[]string{"auto"}, "up0"},
		{[]string{"side0"}, "side0"},
		{[]string{"side0", "up0", "none0", "down0"}, "up0 side0"},
		{[]string{"lo", e.Name()}, ""},
	} {
		if got := b.uplinks(t, test.devices...); got != test.want {
			t.Errorf("configured %q: %q, want %q", test.devices, got, test.want)
		}
	}
}

func TestDisjointPrefixesMeetWhatTheyDidBefore(t *testing.T) {
	var all []netip.Prefix
	for _, p := range []string{"10.1.0.0/16", "10.0.0.0/8", "9.0.0.0/8", "fd00::/8", "10.255.0.0/16", "192.168.1.7/24", "fd00:1::/32", "192.168.1.0/24"} {
		all = append(all, netip.MustParsePrefix(p))
	}
	few := disjoint(all)
	if len(few) != 4 {
		t.Errorf("disjoint: %v", few)
	}
	for _, text := range []string{
		"0.0.0.0/1", "8.0.0.0/8", "9.9.9.9/32", "10.200.0.0/24", "11.0.0.0/8", "128.0.0.0/1", "192.168.0.0/24", "192.168.1.255/32",
		"192.168.2.0/24", "255.0.0.0/8", "::/1", "8000::/1", "fd00:1:2::/48", "fe80::/64", "::/0", "0.0.0.0/0",
	} {
		p := netip.MustParsePrefix(text)
		want := slices.ContainsFunc(all, p.Overlaps)
		if got := meets(few, p); got != want {
			t.Errorf("%v: %t, want %t", p, got, want)
		}
	}
	if meets(nil, netip.MustParsePrefix("10.0.0.0/8")) {
		t.Error("no prefix is met")
	}
}
