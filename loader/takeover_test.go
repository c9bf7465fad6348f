package loader_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestNextAgentTakesUplinksOver(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		second := b.veth(t, "up1")
		d := b.packets(t)
		b.attach(t, d, b.device)
		b.attach(t, d, second)
		for _, index := range []int{b.device, second} {
			if err := d.Maps.SetUplink(maps.Uplink{Index: index, Pair: 1000 + index}); err != nil {
				t.Fatal(err)
			}
		}
		hooks := b.hooks(t)
		if err := d.Close(); err != nil { // as when it is killed
			t.Fatal(err)
		}
		b.expect(t, "without an agent", slices.Sorted(slices.Values(slices.Concat(whole(b.device), whole(second))))...)
		b.remove(t, second)

		d = b.packets(t)
		if got := d.Uplinks(); !slices.Equal(got, []int{b.device}) {
			t.Errorf("uplinks taken over: %v, want %d", got, b.device)
		}
		b.expect(t, "taken over,", whole(b.device)...)
		hooks = slices.DeleteFunc(hooks, func(h loader.Hook) bool { return h.Device != b.device })
		if diff := cmp.Diff(hooks, b.hooks(t)); diff != "" {
			t.Errorf("the same programs were attached anew:\n%s", diff)
		}
		// The pairs went with the agent that held them.
		known, err := d.Maps.Uplinks()
		if err != nil || len(known) != 1 || known[0].Index != b.device || known[0].Pair != 0 {
			t.Errorf("uplinks in the map: %+v, %v; want %d without a pair", known, err, b.device)
		}
	})
}

// The program of another version of the agent gives way in place, without a gap.
func TestNextAgentReplacesProgramsOfAnotherKind(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		b.attach(t, d, b.device)
		before := b.hooks(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		old := stranger(t, "bpfacq_egress", ebpf.SchedCLS, ebpf.AttachNone)
		if b.filters {
			err := b.handle.FilterReplace(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{
					LinkIndex: b.device, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 0xb9fac9, Priority: 1, Protocol: unix.ETH_P_ALL,
				},
				Fd: old.FD(), Name: "bpfacq_egress", DirectAction: true,
			})
			if err != nil {
				t.Fatal(err)
			}
		} else {
			pinned, err := link.LoadPinnedLink(b.egressPin(d), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(pinned.Update(old), pinned.Close()); err != nil {
				t.Fatal(err)
			}
		}

		b.packets(t)
		b.expect(t, "taken over,", whole(b.device)...)
		after := b.hooks(t)
		if diff := cmp.Diff(before, after, cmpopts.IgnoreFields(loader.Hook{}, "ProgramID")); diff != "" {
			t.Errorf("the links changed (-before +after):\n%s", diff)
		}
		for i, h := range after {
			kept := h.ProgramID == before[i].ProgramID
			if h.Program == "bpfacq_egress" == kept {
				t.Errorf("%s is program %d now, was %d", h.Program, h.ProgramID, before[i].ProgramID)
			}
			if info, err := old.Info(); err != nil || isProgram(info, h.ProgramID) {
				t.Errorf("%s still is program %d, %v", h.Program, h.ProgramID, err)
			}
		}
	})
}

func isProgram(info *ebpf.ProgramInfo, number uint32) bool {
	id, ok := info.ID()
	return ok && uint32(id) == number
}

func (b *uplinkBed) egressPin(d *loader.Datapath) string {
	return filepath.Join(d.Pins, "live", "links", fmt.Sprintf("egress_%d", b.device))
}

func TestAgentWithoutPacketPathDetachesUplinks(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		b.attach(t, d, b.device)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = b.packets(t, func(o *loader.Options) { o.Packets = false })
		b.expect(t, "without the packet path")
		if err := b.ns.Do(func() error { return d.AttachUplink(b.device) }); err == nil {
			t.Error("an uplink is attached without the packet path")
		}
		if lost, got := b.lost(t, d), d.Uplinks(); lost != nil || got != nil {
			t.Errorf("lost %v of %v", lost, got)
		}
	})
}

func TestReplacedStateKeepsUplinks(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		b.attach(t, d, b.device)
		before := b.hooks(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		// A link cannot move to another cgroup, so the whole state is made anew.
		d = b.packets(t, func(o *loader.Options) { o.Cgroup = testutil.Cgroup(t) })
		b.expect(t, "in the new state", whole(b.device)...)
		if got := d.Uplinks(); !slices.Equal(got, []int{b.device}) {
			t.Errorf("uplinks taken over: %v, want %d", got, b.device)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		// Neither do programs work on maps of another shape.
		b.removePin(t, "maps", "counter")
		b.pinMap(t, "counter")
		d = b.packets(t)
		if d.TookOver {
			t.Fatal("maps of another shape are taken over")
		}
		b.expect(t, "with new maps", whole(b.device)...)
		for i, h := range b.hooks(t) {
			if slices.ContainsFunc(before, func(old loader.Hook) bool { return old.ProgramID == h.ProgramID }) {
				t.Errorf("hook %d still runs program %d, which works on the old maps", i, h.ProgramID)
			}
		}
	})
}

// The other way may be chosen, or come with a kernel's module: there are never two
// of a program on a device.
func TestWayOfAttachingMayChange(t *testing.T) {
	testutil.KernelSince(t, 6, 6, "tcx")
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		d := b.packets(t)
		b.attach(t, d, b.device)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		b.packets(t, func(o *loader.Options) { o.Filters = !b.filters })
		b.expect(t, "attached the other way", whole(b.device)...)
		if q := b.qdiscs(t); (len(q) == 1) == b.filters {
			t.Errorf("qdiscs %v", q)
		}
	})
}

func TestAttachKilledAtAnyStepCanBeRepeated(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		b.killed(t, stride, func() {
			d := b.packets(t)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}, func(step int, attached []string) {
			if slices.Equal(attached, whole(b.device)[1:]) {
				t.Errorf("killed before step %d: %v alone, and acquired flows need both", step, attached)
			}
		})
	})
}

// A whole new state comes into force around uplinks that are in use: none of them
// is without its programs for a moment.
func TestReplacementKilledAtAnyStepKeepsUplinks(t *testing.T) {
	onBothWays(t, func(t *testing.T, b *uplinkBed) {
		b.other = testutil.Cgroup(t)
		b.killed(t, 2*stride, func() {
			d := b.packets(t, func(o *loader.Options) { o.Cgroup = b.other })
			b.attach(t, d, b.device)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}, func(step int, attached []string) {
			for _, want := range whole(b.device) {
				if !slices.Contains(attached, want) {
					t.Errorf("killed before step %d: %v, want %s among them", step, attached, want)
				}
			}
		})
	})
}

// killed breaks an agent off before each of its steps, or each of some, and has
// what is attached then judged. The next agent brings all in order.
func (b *uplinkBed) killed(t *testing.T, stride int, old func(), judge func(step int, attached []string)) {
	t.Helper()
	way := map[bool]string{true: "filters", false: "links"}[b.filters]
	namespace := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), b.ns.Fd())
	step := 1
	for ended := false; !ended; step += stride {
		old()
		ended = runUntil(t, step, "attach", b.cgroup, b.pins, strconv.Itoa(b.device), way, namespace)
		left := b.onDevice(t)
		if ended && !slices.Equal(left, whole(b.device)) {
			t.Errorf("the agent ended: %v", left)
		}
		judge(step, left)
		d := b.packets(t)
		b.attach(t, d, b.device)
		if left := b.onDevice(t); !slices.Equal(left, whole(b.device)) {
			t.Errorf("killed before step %d and attached again: %v", step, left)
		}
		b.expect(t, fmt.Sprintf("killed before step %d and attached again,", step), whole(b.device)...)
		b.do(t, func() error { return errors.Join(d.Detach(), d.Close()) })
		if left := b.onDevice(t); left != nil {
			t.Errorf("killed before step %d, and detached: %v", step, left)
		}
	}
	if step < 3 {
		t.Errorf("only %d steps were seen", step)
	}
}

// onDevice lists the programs of this project on the device, whatever pins say.
func (b *uplinkBed) onDevice(t *testing.T) []string {
	t.Helper()
	var all []string
	b.do(t, func() error {
		for side, name := range map[ebpf.AttachType]string{ebpf.AttachTCXIngress: "bpfacq_arrive", ebpf.AttachTCXEgress: "bpfacq_egress"} {
			if b.filters {
				break
			}
			found, err := link.QueryPrograms(link.QueryOptions{Target: b.device, Attach: side})
			if err != nil {
				return err
			}
			for range found.Programs {
				all = append(all, fmt.Sprintf("%s@%d", name, b.device))
			}
		}
		return nil
	})
	if b.filters {
		all = b.attached(t)
	}
	slices.Sort(all)
	return all
}
