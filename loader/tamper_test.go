package loader_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
)

// occupy attaches a program to the cgroup's last hook in a way that suffers no
// other beside it.
func occupy(t *testing.T, cgroup string) (leave func()) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet6Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	folder, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(folder.Fd()), Program: program, Attach: ebpf.AttachCGroupInet6Connect,
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		folder, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		err = link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(folder.Fd()), Program: program, Attach: ebpf.AttachCGroupInet6Connect,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadThatFailsLeavesTheOldState(t *testing.T) {
	b := newBed(t)
	b.other = testutil.Cgroup(t)
	leave := occupy(t, b.other)

	_, err := loader.Load(loader.Options{Cgroup: b.other, Pins: b.pins})
	if !errors.Is(err, unix.EPERM) {
		t.Fatalf("load on an occupied cgroup gives %v, want EPERM", err)
	}
	if e, ok := errors.AsType[*loader.Error](err); !ok || e.Remedy() == "" {
		t.Errorf("%v has no remedy", err)
	}
	if _, err := os.Stat(b.pins); !os.IsNotExist(err) {
		t.Errorf("pin folder of a first agent that did not start: %v, want none", err)
	}

	b.blocked(t, b.cgroup)
	if _, err := loader.Load(loader.Options{Cgroup: b.other, Pins: b.pins}); !errors.Is(err, unix.EPERM) {
		t.Fatalf("load on an occupied cgroup gives %v, want EPERM", err)
	}
	if old, new := b.connect(t, b.cgroup), b.connect(t, b.other); old != refused || new != direct {
		t.Errorf("after a load that failed: connect gives %q, in the new cgroup %q", old, new)
	}
	leave()
	d, err := loader.Load(loader.Options{Cgroup: b.other, Pins: b.pins})
	if err != nil {
		t.Fatal(err)
	}
	defer remove(d)
	if old, new := b.connect(t, b.cgroup), b.connect(t, b.other); old != direct || new != refused {
		t.Errorf("after a load: connect gives %q, in the new cgroup %q", old, new)
	}
}

func TestPinsThatSomebodyChangedAreRepairedOrNamed(t *testing.T) {
	live := func(b *bed, elements ...string) string {
		return filepath.Join(append([]string{b.pins, "live"}, elements...)...)
	}
	tests := []struct {
		name   string
		change func(t *testing.T, b *bed)
		want   string // what a connect comes to after the next load; empty: it fails
	}{
		{"a link is removed", func(t *testing.T, b *bed) {
			b.removePin(t, "links", "connect4")
			b.awaitDirect(t)
		}, refused},
		{"all links are removed", func(t *testing.T, b *bed) {
			if err := os.RemoveAll(live(b, "links")); err != nil {
				t.Fatal(err)
			}
			b.awaitDirect(t)
		}, refused},
		{"a map is removed", func(t *testing.T, b *bed) { b.removePin(t, "maps", "active") }, direct},
		{"all maps are removed", func(t *testing.T, b *bed) {
			if err := os.RemoveAll(live(b, "maps")); err != nil {
				t.Fatal(err)
			}
		}, direct},
		{"a map is another one", func(t *testing.T, b *bed) {
			b.removePin(t, "maps", "active")
			b.pinMap(t, "active")
		}, direct},
		{"a map is a link", func(t *testing.T, b *bed) {
			b.removePin(t, "maps", "active")
			if err := os.Rename(live(b, "links", "sockops"), live(b, "maps", "active")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"a link is a map", func(t *testing.T, b *bed) {
			b.removePin(t, "links", "sockops")
			b.pinMap(t, "stray")
			if err := os.Rename(live(b, "maps", "stray"), live(b, "links", "sockops")); err != nil {
				t.Fatal(err)
			}
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			b.blocked(t, b.cgroup)
			test.change(t, b)

			d, err := loader.Load(loader.Options{Cgroup: b.cgroup, Pins: b.pins})
			switch {
			case test.want == "":
				if e, ok := errors.AsType[*loader.Error](err); !ok || e.Remedy() == "" {
					t.Fatalf("load gives %v, want an error with a remedy", err)
				}
			case err != nil:
				t.Fatal(err)
			default:
				b.isWhole(t, d, 0)
				if got := b.connect(t, b.cgroup); got != test.want {
					t.Errorf("connect gives %q, want %q", got, test.want)
				}
			}
			if removed, err := loader.Detach(b.pins); !removed || err != nil {
				t.Errorf("detach: %t, %v", removed, err)
			}
			if _, err := os.Stat(b.pins); !os.IsNotExist(err) {
				t.Errorf("pin folder after detach: %v, want none", err)
			}
			if got := b.connect(t, b.cgroup); got != direct {
				t.Errorf("after detach: connect gives %q, want %q", got, direct)
			}
		})
	}
}

// awaitDirect waits until no program decides about connects any more: a link whose
// pin is removed is detached by a worker of the kernel, when it finds the time.
func (b *bed) awaitDirect(t *testing.T) {
	t.Helper()
	for range 500 { // each starts a process, so that this takes a while
		if b.connect(t, b.cgroup) == direct {
			return
		}
	}
	t.Fatal("the link whose pin was removed stays attached")
}

func TestCgroupThatWasRemovedAndMadeAgainIsFollowed(t *testing.T) {
	b := newBed(t)
	cgroup := filepath.Join(b.cgroup, "nested")
	for range 2 {
		if err := os.Mkdir(cgroup, 0o755); err != nil {
			t.Fatal(err)
		}
		if b.other == "" {
			b.blocked(t, cgroup)
			b.other = cgroup
		} else {
			d, err := loader.Load(loader.Options{Cgroup: cgroup, Pins: b.pins})
			if err != nil {
				t.Fatal(err)
			}
			defer remove(d)
			if !d.TookOver {
				t.Error("the maps were not taken over")
			}
		}
		if got := b.connect(t, cgroup); got != refused {
			t.Errorf("connect gives %q, want %q", got, refused)
		}
		if err := os.Remove(cgroup); err != nil {
			t.Fatal(err)
		}
	}
}

// A pin folder is a word in a file: it may name something that is not ours.
func TestDetachRemovesNothingOfOthers(t *testing.T) {
	testutil.Privileged(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "live", "maps", "precious")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loader.Detach(folder); !errors.Is(err, loader.ErrNotBPFFS) {
		t.Errorf("detach of a folder off bpffs gives %v, want ErrNotBPFFS", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}

	b := newBed(t)
	b.blocked(t, b.cgroup)
	foreign := filepath.Join(b.pins, "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := loader.Detach(b.pins); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(b.pins)
	if err != nil || len(entries) != 1 || entries[0].Name() != "foreign" {
		t.Errorf("pin folder holds %v, %v; want foreign alone", entries, err)
	}
	if got := b.connect(t, b.cgroup); got != direct {
		t.Errorf("after detach: connect gives %q, want %q", got, direct)
	}
}

func TestDetachKnowsItsOwnFolder(t *testing.T) {
	b := newBed(t)
	first := b.load(t)
	defer first.Close()
	if err := os.RemoveAll(b.pins); err != nil {
		t.Fatal(err)
	}
	if err := first.Detach(); err != nil {
		t.Errorf("detach of a datapath whose pins are gone gives %v", err)
	}

	second := b.load(t)
	defer remove(second)
	if err := first.Detach(); err != nil {
		t.Error(err)
	}
	if hooks, err := second.Hooks(); len(hooks) != 9 || err != nil {
		t.Errorf("another agent has hooks %v, %v; want nine", hooks, err)
	}
}
