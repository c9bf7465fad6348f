package loader_test

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
)

// load loads the datapath as an agent does, and leaves it to the next one.
func load(args []string, _ io.Writer) error {
	d, err := loader.Load(loader.Options{Cgroup: args[0], Pins: args[1]})
	if err != nil {
		return err
	}
	return d.Close()
}

// loadAndStore goes on to put a policy in force by which connects go direct.
func loadAndStore(args []string, _ io.Writer) error {
	d, err := loader.Load(loader.Options{Cgroup: args[0], Pins: args[1]})
	if err != nil {
		return err
	}
	if _, err := d.Maps.Store(tunnelAll(maps.HardeningBypass)); err != nil {
		return err
	}
	return d.Close()
}

// Every way in which Load changes the host is broken off before each of its
// steps: the old state or the new one is in force then, and the next Load brings
// the new one.
func TestLoadKilledAtAnyStepLeavesOldStateOrNew(t *testing.T) {
	tests := []struct {
		name string
		old  func(t *testing.T, b *bed) // makes the old state

		// killed says whether connects may come to this, in the cgroup of
		// the agent that was killed and in the other one. taken is whether
		// the next agent takes a state over.
		killed func(here, there string, taken bool) bool
		want   string // in the next agent's cgroup
	}{
		{
			name:   "first agent",
			old:    func(*testing.T, *bed) {},
			killed: func(here, there string, _ bool) bool { return here == direct && there == direct },
			want:   direct,
		},
		{
			name: "links missing",
			old: func(t *testing.T, b *bed) {
				b.blocked(t, b.cgroup)
				for _, name := range []string{"getpeer4", "recv6", "sockops", "send4", "connect6"} {
					b.removePin(t, "links", name)
				}
			},
			killed: func(here, there string, taken bool) bool { return here == refused && there == direct && taken },
			want:   refused,
		},
		{
			name:   "another cgroup",
			old:    func(t *testing.T, b *bed) { b.blocked(t, b.other) },
			killed: func(here, there string, taken bool) bool { return (here == refused || there == refused) && taken },
			want:   refused,
		},
		{
			name: "maps of another shape",
			old: func(t *testing.T, b *bed) {
				b.blocked(t, b.cgroup)
				b.removePin(t, "maps", "counter")
				b.pinMap(t, "counter")
			},
			killed: func(here, there string, taken bool) bool {
				return there == direct && (here == refused || here == direct && taken)
			},
			want: direct, // the new maps are empty
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			b.other = testutil.Cgroup(t)
			step := 1
			for ; ; step += stride {
				test.old(t, b)
				ended := runUntil(t, step, "load", b.cgroup, b.pins)
				here, there := b.connect(t, b.cgroup), b.connect(t, b.other)
				d := b.load(t)
				if !ended && !test.killed(here, there, d.TookOver) {
					t.Errorf("killed before step %d: connect gives %q, in the other cgroup %q, next agent takes over %t",
						step, here, there, d.TookOver)
				}
				b.isWhole(t, d, step)
				if here, there := b.connect(t, b.cgroup), b.connect(t, b.other); here != test.want || there != direct {
					t.Errorf("loaded after step %d: connect gives %q, in the other cgroup %q", step, here, there)
				}
				if _, err := loader.Detach(b.pins); err != nil {
					t.Fatal(err)
				}
				if here, there := b.connect(t, b.cgroup), b.connect(t, b.other); here != direct || there != direct {
					t.Errorf("detached after step %d: connect gives %q, in the other cgroup %q", step, here, there)
				}
				if ended {
					break
				}
			}
			if step < 3 {
				t.Errorf("only %d steps were seen", step)
			}
		})
	}
}

func TestStoreKilledAtAnyStepLeavesOldPolicyOrNew(t *testing.T) {
	b := newBed(t)
	met := make(map[string]int)
	for step, ended := 1, false; !ended; step += stride {
		b.blocked(t, b.cgroup)
		ended = runUntil(t, step, "store", b.cgroup, b.pins)
		got := b.connect(t, b.cgroup)
		met[got]++

		d := b.load(t)
		generation, err := d.Maps.Generation()
		if err != nil {
			t.Fatal(err)
		}
		if want := map[uint32]string{1: refused, 2: direct}[generation]; got != want {
			t.Errorf("killed before step %d: generation %d, connect gives %q, want %q", step, generation, got, want)
		}
		if got := store(t, d, tunnelAll(maps.HardeningBlock)); got != generation+1 {
			t.Errorf("killed before step %d: next generation is %d after %d", step, got, generation)
		}
		if got := b.connect(t, b.cgroup); got != refused {
			t.Errorf("killed before step %d: with the next policy connect gives %q", step, got)
		}
		counters, err := d.Maps.Counters()
		if err != nil {
			t.Fatal(err)
		}
		for c, n := range counters {
			if strings.HasPrefix(c.String(), "bug_") && n != 0 {
				t.Errorf("killed before step %d: counter %s is %d", step, c, n)
			}
		}
		remove(d)
	}
	if met[refused] == 0 || met[direct] == 0 {
		t.Errorf("connects came to %v, want both policies", met)
	}
}

// stride leaves steps out: most are one of many pins, each like the one before.
const stride = 11

// blocked makes a state in force on a cgroup, as an agent leaves it that was
// killed: connects are refused.
func (b *bed) blocked(t *testing.T, cgroup string) {
	t.Helper()
	d, err := loader.Load(loader.Options{Cgroup: cgroup, Pins: b.pins})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b.announce(t, d, 0)
	store(t, d, tunnelAll(maps.HardeningBlock))
}

func (b *bed) removePin(t *testing.T, kind, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(b.pins, "live", kind, name)); err != nil {
		t.Fatal(err)
	}
}

// pinMap pins a small map that is none of the datapath's.
func (b *bed) pinMap(t *testing.T, name string) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(filepath.Join(b.pins, "live", "maps", name)); err != nil {
		t.Fatal(err)
	}
}

// connect is what a connect of a process in the cgroup comes to.
func (b *bed) connect(t *testing.T, cgroup string) string {
	t.Helper()
	got := testutil.Child(t, b.ns, cgroup, "connect", acquired)
	if got == denied { // a kernel that cannot choose the errno
		return refused
	}
	return got
}

// isWhole checks that nothing is missing and nothing left over, and closes d.
func (b *bed) isWhole(t *testing.T, d *loader.Datapath, step int) {
	t.Helper()
	defer d.Close()
	if hooks, err := d.Hooks(); len(hooks) != 9 || err != nil {
		t.Errorf("loaded after step %d: hooks %v, %v; want nine", step, hooks, err)
	}
	entries, err := os.ReadDir(b.pins)
	if err != nil || len(entries) != 1 || entries[0].Name() != "live" {
		t.Errorf("loaded after step %d: pin folder holds %v, %v; want live alone", step, entries, err)
	}
}

// runUntil runs a scenario and kills it when it is about to take the given step,
// from 1, that changes the host. It reports whether the scenario ended before.
func runUntil(t *testing.T, step int, scenario string, args ...string) (ended bool) {
	t.Helper()
	runtime.LockOSThread() // only the tracer's thread may ask
	defer runtime.UnlockOSThread()
	cmd := testutil.ScenarioCommand(t, scenario, args...)
	cmd.SysProcAttr.Ptrace, cmd.SysProcAttr.Setpgid = true, true
	testutil.Start(t, nil, "", cmd)
	pid := cmd.Process.Pid
	defer cmd.Process.Release() // it is waited for here, and not by its Wait

	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		t.Fatal(err)
	}
	for thread, signal := pid, 0; ; {
		// A thread that was killed meanwhile cannot go on: its end comes next.
		if err := unix.PtraceSyscall(thread, signal); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
		var err error
		if thread, err = unix.Wait4(-pid, &status, unix.WALL, nil); err != nil {
			t.Fatal(err)
		}
		signal = 0
		switch {
		case thread == pid && status.Signaled():
			return false
		case thread == pid && status.Exited():
			if status.ExitStatus() != 0 {
				t.Fatalf("%s ends with %d", scenario, status.ExitStatus())
			}
			return true
		case !status.Stopped():
		case status.StopSignal() == syscall.SIGTRAP|0x80:
			if changesHost(t, thread) {
				if step--; step == 0 {
					unix.Kill(pid, unix.SIGKILL) // before the call is made
				}
			}
		case status.StopSignal() != syscall.SIGTRAP && status.StopSignal() != syscall.SIGSTOP:
			signal = int(status.StopSignal())
		}
	}
}

// changesHost reports whether a stopped thread is about to make a system call
// that fills, pins, attaches or removes something. The answer of the kernel is struct
// ptrace_syscall_info of linux/ptrace.h.
func changesHost(t *testing.T, thread int) bool {
	t.Helper()
	var answer [88]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread),
		unsafe.Sizeof(answer), uintptr(unsafe.Pointer(&answer)), 0, 0)
	if errno == unix.ESRCH {
		return false
	}
	if errno != 0 {
		t.Fatal(errno)
	}
	if answer[0] != unix.PTRACE_SYSCALL_INFO_ENTRY {
		return false
	}
	number, first := binary.NativeEndian.Uint64(answer[24:]), binary.NativeEndian.Uint64(answer[32:])
	switch number {
	case unix.SYS_SENDTO: // of netlink
		return true
	case unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT:
		return true
	case unix.SYS_BPF:
		return slices.Contains([]uint64{
			unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_UPDATE_BATCH, unix.BPF_MAP_DELETE_ELEM,
			unix.BPF_OBJ_PIN, unix.BPF_LINK_CREATE, unix.BPF_LINK_UPDATE, unix.BPF_LINK_DETACH,
		}, first)
	}
	return false
}
