package device

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// fakeTable remembers what it was told.
type fakeTable struct {
	mu      sync.Mutex
	devices map[int]string
	refuse  bool
	changed chan struct{}
}

func newTable() *fakeTable {
	return &fakeTable{devices: make(map[int]string), changed: make(chan struct{}, 1)}
}

func (f *fakeTable) SetDevice(ifindex int, v4, v6 netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse {
		f.refuse = false
		return errors.New("refuse")
	}
	f.devices[ifindex] = strings.TrimSpace(text(v4) + " " + text(v6))
	f.tell()
	return nil
}

func (f *fakeTable) DeleteDevice(ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.devices, ifindex)
	f.tell()
	return nil
}

func (f *fakeTable) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func text(addr netip.Addr) string {
	if addr.IsValid() {
		return addr.String()
	}
	return "-"
}

// await returns once the table is as wanted.
func (f *fakeTable) await(t *testing.T, want map[int]string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		f.mu.Lock()
		diff := cmp.Diff(want, f.devices)
		f.mu.Unlock()
		if diff == "" {
			return
		}
		select {
		case <-f.changed:
		case <-limit:
			t.Fatalf("devices (-want +got):\n%s", diff)
		}
	}
}

// host is a namespace with the device up0 and its addresses.
type host struct {
	*netns.Namespace
	handle *netlink.Handle
	index  int
}

func newHost(t *testing.T, addrs ...string) *host {
	t.Helper()
	h := &host{Namespace: testutil.Netns(t)}
	end := netns.End{Namespace: h.Namespace, Name: "up0"}
	for _, addr := range addrs {
		end.Addrs = append(end.Addrs, netip.MustParsePrefix(addr))
	}
	testutil.Veth(t, end, netns.End{Namespace: testutil.Netns(t), Name: "far0"})
	var err error
	if h.handle, err = h.Handle(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.handle.Close)
	link, err := h.handle.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	h.index = link.Attrs().Index
	return h
}

func (h *host) address(t *testing.T, change func(netlink.Link, *netlink.Addr) error, addr string) {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := change(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: h.index}}, a); err != nil {
		t.Fatal(err)
	}
}

// open returns a Watcher of the host that is closed at the end.
func (h *host) open(t *testing.T, table Table) *Watcher {
	t.Helper()
	var w *Watcher
	err := h.Do(func() (err error) {
		w, err = Open(table, slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// run runs the Watcher to the end of the test.
func run(t *testing.T, w *Watcher) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestTableFollowsTheAddressesOfDevices(t *testing.T) {
	h := newHost(t, "192.0.2.1/24")
	for _, link := range []string{"lo"} {
		lo, err := h.handle.LinkByName(link)
		if err != nil {
			t.Fatal(err)
		}
		extra, _ := netlink.ParseAddr("198.51.100.1/32")
		if err := h.handle.AddrAdd(lo, extra); err != nil {
			t.Fatal(err)
		}
	}
	table := newTable()
	w := h.open(t, table)
	linkLocal, _, ok := strings.Cut(table.devices[h.index], " fe80::")
	if !ok || linkLocal != "192.0.2.1" || len(table.devices) != 1 {
		t.Fatalf("devices at first are %v, want up0 with an IPv4 and a link-local address, and not lo", table.devices)
	}
	run(t, w)

	h.address(t, h.handle.AddrAdd, "2001:db8::1/64 nodad")
	table.await(t, map[int]string{h.index: "192.0.2.1 2001:db8::1"})
	h.address(t, h.handle.AddrAdd, "192.0.2.9/24")
	h.address(t, h.handle.AddrDel, "2001:db8::1/64")
	h.address(t, h.handle.AddrAdd, "2001:db8::2/64 nodad")
	table.await(t, map[int]string{h.index: "192.0.2.1 2001:db8::2"})
	h.address(t, h.handle.AddrDel, "192.0.2.1/24") // and with it the second of its network
	table.await(t, map[int]string{h.index: "- 2001:db8::2"})

	if err := h.handle.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: h.index}}); err != nil {
		t.Fatal(err)
	}
	table.await(t, map[int]string{})
}

func TestLostChangesAreMadeUpFor(t *testing.T) {
	h := newHost(t)
	table := newTable()
	w := h.open(t, table)
	raw, err := w.events.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // many more than the socket holds
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}).String() + "/32"
		h.address(t, h.handle.AddrAdd, addr)
		if i < 99 {
			h.address(t, h.handle.AddrDel, addr)
		}
	}
	h.address(t, h.handle.AddrAdd, "2001:db8::1/64 nodad")
	run(t, w)
	table.await(t, map[int]string{h.index: "192.0.2.100 2001:db8::1"})
	h.address(t, h.handle.AddrDel, "192.0.2.100/32")
	table.await(t, map[int]string{h.index: "- 2001:db8::1"})
}

func TestWhatATableRefusesIsToldAgain(t *testing.T) {
	h := newHost(t, "192.0.2.1/24", "2001:db8::1/64")
	table := newTable()
	table.refuse = true
	w := h.open(t, table)
	if len(table.devices) != 0 {
		t.Fatalf("devices are %v, want none that was refused", table.devices)
	}
	run(t, w)
	h.address(t, h.handle.AddrAdd, "192.0.2.7/24")
	table.await(t, map[int]string{h.index: "192.0.2.1 2001:db8::1"})
}

func TestTheBestAddressOfADeviceIsChosen(t *testing.T) {
	const device = 7
	for _, test := range []struct {
		name, want string
		addrs      []netlink.Addr
	}{
		{"none", "", nil},
		{"first of equal ones", "192.0.2.1 2001:db8::1", []netlink.Addr{
			addr(t, "192.0.2.1/24", 0), addr(t, "192.0.2.2/24", unix.IFA_F_SECONDARY),
			addr(t, "2001:db8::1/64", 0), addr(t, "2001:db8::2/64", 0),
		}},
		{"link-local as a last resort", "169.254.1.1 fe80::1", []netlink.Addr{addr(t, "169.254.1.1/16", 0), addr(t, "fe80::1/64", 0)}},
		{"deprecated before link-local", "- 2001:db8::1", []netlink.Addr{addr(t, "fe80::1/64", 0), addr(t, "2001:db8::1/64", unix.IFA_F_DEPRECATED)}},
		{"preferred before deprecated", "- fd00::1", []netlink.Addr{addr(t, "2001:db8::1/64", unix.IFA_F_DEPRECATED), addr(t, "fd00::1/64", 0)}},
		{"not yet received at", "- fe80::1", []netlink.Addr{
			addr(t, "2001:db8::1/64", unix.IFA_F_TENTATIVE), addr(t, "2001:db8::2/64", unix.IFA_F_DADFAILED), addr(t, "fe80::1/64", 0),
		}},
		{"optimistic", "- 2001:db8::1", []netlink.Addr{addr(t, "2001:db8::1/64", unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC)}},
		{"loopback addresses elsewhere", "192.0.2.1 -", []netlink.Addr{addr(t, "127.0.0.9/8", 0), addr(t, "192.0.2.1/24", 0)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i := range test.addrs {
				test.addrs[i].LinkIndex = device
			}
			got, ok := choose(test.addrs)[device]
			if ok != (test.want != "") || ok && text(got.v4)+" "+text(got.v6) != test.want {
				t.Errorf("got %v and %v, want %q", got.v4, got.v6, test.want)
			}
		})
	}
}

func addr(t *testing.T, prefix string, flags int) netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatal(err)
	}
	a.Flags = flags
	return *a
}
