package enclave_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// uplinkMAC is what enclaves are told.
func uplinkMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, 0, 0x77} }

// open makes an enclave for a host.
func open(t *testing.T, host *netns.Namespace, opts enclave.Options) *enclave.Enclave {
	t.Helper()
	e, err := try(host, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func try(host *netns.Namespace, opts enclave.Options) (e *enclave.Enclave, err error) {
	err = host.Do(func() error {
		e, err = enclave.Open(opts)
		return err
	})
	return e, err
}

func sweep(t *testing.T, host *netns.Namespace) (removed int) {
	t.Helper()
	err := host.Do(func() (err error) {
		removed, err = enclave.Sweep()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return removed
}

func handle(t *testing.T, ns *netns.Namespace) *netlink.Handle {
	t.Helper()
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func find(t *testing.T, h *netlink.Handle, name string) *netlink.LinkAttrs {
	t.Helper()
	found, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return found.Attrs()
}

// names are those of all devices of a namespace but lo.
func names(t *testing.T, h *netlink.Handle) string {
	t.Helper()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, link := range links {
		if link.Attrs().Index != 1 {
			all = append(all, link.Attrs().Name)
		}
	}
	return strings.Join(all, " ")
}

// sysctl reads one of a namespace, "" if there is none.
func sysctl(t *testing.T, ns *netns.Namespace, name string) string {
	t.Helper()
	var text []byte
	err := ns.Do(func() (err error) {
		text, err = os.ReadFile(filepath.Join("/proc/sys/net", name))
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestNothingShowsOnTheHostButThePair(t *testing.T) {
	host := testutil.Netns(t)
	before := testutil.HostState(t, host)
	e := open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	during := testutil.HostState(t, host)

	var others []string
	for line := range strings.Lines(before.Diff(during)) {
		line = strings.TrimSpace(line)
		if !strings.HasSuffix(line, ":") && !strings.Contains(line, "acq0") {
			others = append(others, line)
		}
	}
	if others != nil {
		t.Errorf("beside the pair the host has\n%s", strings.Join(others, "\n"))
	}
	if before.Addresses != during.Addresses || before.Routes != during.Routes || before.Rules != during.Rules {
		t.Errorf("addresses, routes or rules of the host changed:\n%s", before.Diff(during))
	}

	acq := find(t, handle(t, host), "acq0")
	if acq.Index != e.Device() || e.Name() != "acq0" {
		t.Errorf("the enclave says device %d, %q; the host %d", e.Device(), e.Name(), acq.Index)
	}
	if acq.Alias != enclave.Alias || acq.MTU != 65535 || acq.RawFlags&unix.IFF_NOARP == 0 || acq.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("acq0 has alias %q, MTU %d, flags %#x", acq.Alias, acq.MTU, acq.RawFlags)
	}
	if acq.HardwareAddr[0]&3 != 2 || acq.HardwareAddr.String() == e.PeerMAC().String() {
		t.Errorf("addresses %v and %v, want two that are locally administered", acq.HardwareAddr, e.PeerMAC())
	}
	if got := sysctl(t, host, "ipv6/conf/acq0/disable_ipv6"); got != "1" && got != "" {
		t.Errorf("disable_ipv6 of acq0 is %q", got)
	}

	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(testutil.HostState(t, host)); diff != "" {
		t.Errorf("after Close:\n%s", diff)
	}
}

func TestNamespaceDoesNotDependOnTheHostsSettings(t *testing.T) {
	host := testutil.Netns(t)
	err := host.Do(func() error { // which a new namespace has, or not, by net.core.devconf_inherit_init_net
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/default/rp_filter", []byte("1"), 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	for name, want := range map[string]string{
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/acq/rp_filter": "0",
		"ipv4/icmp_ratelimit": "0", "ipv4/icmp_ratemask": "0", "ipv6/icmp/ratelimit": "0",
		"ipv6/conf/acq/disable_ipv6": "0", "ipv6/conf/acq/addr_gen_mode": "1",
	} {
		if got := sysctl(t, e.Namespace(), name); got != want && got != "" {
			t.Errorf("net/%s is %q, want %q", name, got, want)
		}
	}
	inside := handle(t, e.Namespace())
	if got := names(t, inside); got != "acq" {
		t.Errorf("devices inside: %s", got)
	}
	peer := find(t, inside, "acq")
	if peer.HardwareAddr.String() != e.PeerMAC().String() {
		t.Errorf("the end inside has %v, PeerMAC says %v", peer.HardwareAddr, e.PeerMAC())
	}
	addrs, err := inside.AddrList(&netlink.Dummy{LinkAttrs: *peer}, netlink.FAMILY_ALL)
	if err != nil || len(addrs) != 0 {
		t.Errorf("addresses of the end inside: %v, %v", addrs, err)
	}
	for _, want := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"} {
		if got := sysctl(t, host, want); got != "1" {
			t.Errorf("the host's net/%s became %q", want, got)
		}
	}
}

func TestEachUplinkHasAnEnclaveOfItsOwn(t *testing.T) {
	host := testutil.Netns(t)
	first := open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	second := open(t, host, enclave.Options{MTU: 1280}) // of tun, WireGuard, ppp
	if first.Name() != "acq0" || second.Name() != "acq1" || first.Device() == second.Device() {
		t.Errorf("pairs %q (%d) and %q (%d)", first.Name(), first.Device(), second.Name(), second.Device())
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Check(); err != nil {
		t.Errorf("once the first is closed the second says %v", err)
	}
	if third := open(t, host, enclave.Options{MTU: 1500}); third.Name() != "acq0" {
		t.Errorf("the next pair is %q, want the free name", third.Name())
	}
}

func TestNameThatIsTakenIsRefusedWhole(t *testing.T) {
	host := testutil.Netns(t)
	h := handle(t, host)
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "acq0"}}); err != nil {
		t.Fatal(err)
	}
	before := testutil.HostState(t, host)
	if e, err := try(host, enclave.Options{Name: "acq0", MTU: 1500}); !errors.Is(err, unix.EEXIST) || e != nil {
		t.Errorf("with a name that is taken: %v, %v; want EEXIST", e, err)
	}
	if e, err := try(host, enclave.Options{Name: "much-longer-than-a-name-may-be", MTU: 1500}); err == nil || e != nil {
		t.Errorf("with a name that is too long: %v, %v; want an error", e, err)
	}
	if diff := before.Diff(testutil.HostState(t, host)); diff != "" {
		t.Errorf("an enclave that was refused left\n%s", diff)
	}
	if e := open(t, host, enclave.Options{MTU: 1500}); e.Name() != "acq1" {
		t.Errorf("beside somebody's acq0 the pair is %q", e.Name())
	}
}

func TestSweepRemovesWhatEarlierAgentsLeftAndNothingElse(t *testing.T) {
	host := testutil.Netns(t)
	h := handle(t, host)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "acq7"}, PeerName: "v1"}
	if err := errors.Join(h.LinkAdd(bridge), h.LinkSetAlias(bridge, enclave.Alias), h.LinkAdd(veth)); err != nil {
		t.Fatal(err)
	}
	if n := sweep(t, host); n != 0 {
		t.Errorf("removed %d of others", n)
	}
	// What holds an earlier agent's namespace is a socket that is not done.
	e := open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	if n := sweep(t, host); n != 2 {
		t.Errorf("removed %d pairs, want 2", n)
	}
	if got := names(t, h); got != "br0 v1 acq7" {
		t.Errorf("devices left: %s", got)
	}
	if err := e.Check(); err == nil {
		t.Error("an enclave without its pair says that all is well")
	}
	if err := e.Close(); err != nil {
		t.Errorf("close it: %v", err)
	}
}

func TestCheckNoticesAPairThatIsDown(t *testing.T) {
	host := testutil.Netns(t)
	e := open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	h := handle(t, host)
	link, err := h.LinkByIndex(e.Device())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	if err := e.Check(); !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("check of a pair that is down: %v, want ENETDOWN", err)
	}
}

func TestMTUOfTheUplinkIsFollowed(t *testing.T) {
	host := testutil.Netns(t)
	e := open(t, host, enclave.Options{MTU: 1500, MAC: uplinkMAC()})
	inside := handle(t, e.Namespace())
	for _, test := range []struct{ mtu, v4, v6 int }{
		{1500, 1500, 1500}, {9000, 9000, 9000}, {1280, 1280, 1280}, {576, 576, 1280}, {65535, 65535, 65535},
	} {
		if err := e.SetMTU(test.mtu); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			to  netip.Addr
			mtu int
		}{{netip.MustParseAddr("192.0.2.1"), test.v4}, {netip.MustParseAddr("2001:db8::1"), test.v6}} {
			routes, err := inside.RouteGet(want.to.AsSlice())
			if err != nil {
				t.Fatal(err)
			}
			if got := routes[0].MTU; got != want.mtu && got != min(want.mtu, 65535-15) { // which is the most of a route
				t.Errorf("uplink of %d: the route to %v has %d, want %d", test.mtu, want.to, got, want.mtu)
			}
		}
	}
}
