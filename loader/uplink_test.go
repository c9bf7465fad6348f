package loader_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// attach loads the datapath as an agent does and makes a device an uplink, in the
// namespace of a path: only the thread that starts a process may trace it, and that
// is outside.
func attach(args []string, _ io.Writer) error {
	index, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	namespace, err := os.Open(args[4])
	if err != nil {
		return err
	}
	defer namespace.Close()
	runtime.LockOSThread() // to its end
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	d, err := loader.Load(loader.Options{Cgroup: args[0], Pins: args[1], Packets: true, Filters: args[3] == "filters"})
	if err != nil {
		return err
	}
	if err := d.AttachUplink(index); err != nil {
		return err
	}
	return d.Close()
}

// uplinkBed is a host with a device, and a way to attach to it.
type uplinkBed struct {
	*bed
	handle  *netlink.Handle
	filters bool
	device  int
}

// onBothWays runs a test with links, where the kernel has them, and with filters.
func onBothWays(t *testing.T, test func(t *testing.T, b *uplinkBed)) {
	t.Helper()
	onWays(t, []string{"links", "filters"}, test)
}

func onWays(t *testing.T, ways []string, test func(t *testing.T, b *uplinkBed)) {
	t.Helper()
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			b := &uplinkBed{bed: newBed(t), filters: way == "filters"}
			if !b.filters {
				testutil.KernelSince(t, 6, 6, "tcx")
			}
			handle, err := b.ns.Handle()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(handle.Close)
			b.handle = handle
			b.device = b.veth(t, "up0")
			test(t, b)
		})
	}
}

// veth makes a device and returns its index.
func (b *uplinkBed) veth(t *testing.T, name string) int {
	t.Helper()
	testutil.Veth(t, netns.End{Namespace: b.ns, Name: name}, netns.End{Namespace: testutil.Netns(t), Name: "far"})
	made, err := b.handle.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return made.Attrs().Index
}

func (b *uplinkBed) remove(t *testing.T, index int) {
	t.Helper()
	if err := b.handle.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}); err != nil {
		t.Fatal(err)
	}
}

// packets loads the datapath with its packet path.
func (b *uplinkBed) packets(t *testing.T, change ...func(*loader.Options)) (d *loader.Datapath) {
	t.Helper()
	opts := loader.Options{Cgroup: b.cgroup, Pins: b.pins, Packets: true, Filters: b.filters}
	for _, f := range change {
		f(&opts)
	}
	b.do(t, func() (err error) {
		d, err = loader.Load(opts)
		return err
	})
	t.Cleanup(func() { // what a test has ended is not there any more
		b.ns.Do(func() error { return errors.Join(d.Detach(), d.Close()) })
	})
	return d
}

// do calls f in the namespace of the device, as an agent is.
func (b *uplinkBed) do(t *testing.T, f func() error) {
	t.Helper()
	if err := b.ns.Do(f); err != nil {
		t.Fatalf("%+v", err)
	}
}

func (b *uplinkBed) attach(t *testing.T, d *loader.Datapath, index int) {
	t.Helper()
	b.do(t, func() error { return d.AttachUplink(index) })
}

// attached lists what is attached to devices: "program@device".
func (b *uplinkBed) attached(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, h := range b.hooks(t) {
		all = append(all, fmt.Sprintf("%s@%d", h.Program, h.Device))
	}
	slices.Sort(all)
	return all
}

func (b *uplinkBed) hooks(t *testing.T) (all []loader.Hook) {
	t.Helper()
	b.do(t, func() (err error) {
		all, err = loader.Hooks(b.pins)
		return err
	})
	return slices.DeleteFunc(all, func(h loader.Hook) bool { return h.CgroupID != 0 })
}

func whole(index int) []string {
	return []string{fmt.Sprintf("bpfacq_arrive@%d", index), fmt.Sprintf("bpfacq_egress@%d", index)}
}

func (b *uplinkBed) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, b.attached(t)); diff != "" {
		t.Errorf("%s the devices have (-want +got):\n%s", when, diff)
	}
}

// qdiscs are those of all devices that hold filters.
func (b *uplinkBed) qdiscs(t *testing.T) (all []string) {
	t.Helper()
	found, err := b.handle.QdiscList(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range found {
		if q.Type() == "clsact" || q.Type() == "ingress" {
			all = append(all, fmt.Sprintf("%s@%d", q.Type(), q.Attrs().LinkIndex))
		}
	}
	return all
}

func (b *uplinkBed) lost(t *testing.T, d *loader.Datapath) (lost []int) {
	t.Helper()
	b.do(t, func() (err error) {
		lost, err = d.CheckUplinks()
		return err
	})
	return lost
}

func TestUplinkIsAttachedOnceAndDetachedWithoutATrace(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		before := testutil.HostState(t, b.ns)
		d := b.packets(t)
		b.expect(t, "loaded,")
		b.attach(t, d, b.device)
		hooks := b.hooks(t)
		b.expect(t, "attached,", whole(b.device)...)
		b.attach(t, d, b.device)
		if diff := cmp.Diff(hooks, b.hooks(t)); diff != "" {
			t.Errorf("attached again it is not as it was:\n%s", diff)
		}
		if got := d.Uplinks(); !slices.Equal(got, []int{b.device}) {
			t.Errorf("uplinks %v, want %d", got, b.device)
		}
		if lost := b.lost(t, d); lost != nil {
			t.Errorf("lost %v", lost)
		}
		if found, err := foreignOnDevice(b.ns, b.device); found != nil || err != nil {
			t.Errorf("programs of others: %v, %v", found, err)
		}
		if q := b.qdiscs(t); (len(q) == 1) != b.filters {
			t.Errorf("qdiscs %v", q)
		}
		if diff := before.Diff(testutil.HostState(t, b.ns)); diff != "" {
			t.Errorf("the host changed:\n%s", diff)
		}
		for range 2 {
			b.do(t, func() error { return d.DetachUplink(b.device) })
		}
		b.expect(t, "detached,")
		if q := b.qdiscs(t); q != nil {
			t.Errorf("qdiscs left: %v", q)
		}
	})
}

func foreignOnDevice(ns *netns.Namespace, index int) (found []loader.Foreign, err error) {
	err = ns.Do(func() (err error) {
		found, err = loader.ForeignOnDevice(index)
		return err
	})
	return found, err
}

func TestLostProgramsAreNoticedAndAttachedAgain(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		b.attach(t, d, b.device)
		pair := b.veth(t, "acq0")
		b.do(t, func() error { return d.AttachPair(pair) })
		b.expect(t, "attached,", append(whole(b.device), fmt.Sprintf("bpfacq_reply@%d", pair))...)
		if lost := b.lost(t, d); lost != nil {
			t.Errorf("lost %v, and nothing has happened", lost)
		}

		b.steal(t, d)
		if lost := b.lost(t, d); !slices.Equal(lost, []int{b.device}) {
			t.Errorf("lost %v, want %d", lost, b.device)
		}
		if lost := b.lost(t, d); lost != nil {
			t.Errorf("lost %v a second time", lost)
		}
		b.attach(t, d, b.device)
		b.expect(t, "attached again,", append(whole(b.device), fmt.Sprintf("bpfacq_reply@%d", pair))...)

		b.remove(t, pair)
		b.remove(t, b.device)
		if lost := b.lost(t, d); !slices.Equal(lost, []int{b.device, pair}) {
			t.Errorf("lost %v, want %d and %d", lost, b.device, pair)
		}
		b.expect(t, "without devices")
		index := b.veth(t, "up0") // replaced by one of the same name
		b.attach(t, d, index)
		b.expect(t, "on the new device", whole(index)...)
		if err := b.ns.Do(func() error { return d.DetachUplink(b.device) }); err != nil {
			t.Errorf("detach from a device that is gone: %v", err)
		}
	})
}

// steal removes the egress program, as somebody does who cleans a device.
func (b *uplinkBed) steal(t *testing.T, d *loader.Datapath) {
	t.Helper()
	if b.filters {
		qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: b.device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
		if err := b.handle.QdiscDel(qdisc); err != nil {
			t.Fatal(err)
		}
		return
	}
	l, err := link.LoadPinnedLink(b.egressPin(d), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
}

func TestUplinkThatCannotBeAttachedIsLeftAsItWas(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		if err := b.ns.Do(func() error { return d.AttachUplink(b.device + 100) }); err == nil {
			t.Error("a device that is not there is attached")
		}
		if got := d.Uplinks(); got != nil {
			t.Errorf("uplinks %v", got)
		}
		b.expect(t, "after a device that is not there")
		if b.filters {
			return
		}
		// Where the pin of the second program is to be lies something else.
		if err := os.Mkdir(b.egressPin(d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := b.ns.Do(func() error { return d.AttachUplink(b.device) }); err == nil {
			t.Error("attached without a pin")
		}
		if err := os.Remove(b.egressPin(d)); err != nil {
			t.Fatal(err)
		}
		b.expect(t, "after the first of two programs")
	})
}

func TestProgramsOfOthersStay(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		program := stranger(t, "cni_from_host", ebpf.SchedCLS, ebpf.AttachNone)
		clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: b.device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
		filter := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: b.device, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_IP,
			},
			Fd: program.FD(), Name: "cni", DirectAction: true,
		}
		if err := errors.Join(b.handle.QdiscAdd(clsact), b.handle.FilterAdd(filter)); err != nil {
			t.Fatal(err)
		}
		d := b.packets(t)
		b.attach(t, d, b.device) // though the first priority is of another protocol
		b.expect(t, "beside a filter of somebody else", whole(b.device)...)
		want := []string{"cni"}
		for range 2 {
			found, err := foreignOnDevice(b.ns, b.device)
			var names []string
			for _, f := range found {
				names = append(names, f.Name)
			}
			if diff := cmp.Diff(want, names); diff != "" || err != nil {
				t.Errorf("programs of others (-want +got), %v:\n%s", err, diff)
			}
			b.do(t, func() error { return d.DetachUplink(b.device) })
		}
		b.expect(t, "detached,")
		if q := b.qdiscs(t); len(q) != 1 {
			t.Errorf("what held the filter of somebody else: %v", q)
		}
	})
}

func TestDetachSweepsDevicesWithoutPins(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		b.attach(t, d, b.device)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if b.filters {
			if err := os.RemoveAll(b.pins); err != nil { // as a reboot of a container does
				t.Fatal(err)
			}
		}
		for _, want := range []bool{true, false} {
			var found bool
			b.do(t, func() (err error) {
				found, err = loader.Detach(b.pins)
				return err
			})
			if found != want {
				t.Errorf("something to detach: %t, want %t", found, want)
			}
			b.expect(t, "detached,")
			if q := b.qdiscs(t); q != nil {
				t.Errorf("qdiscs left: %v", q)
			}
		}
	})
}
