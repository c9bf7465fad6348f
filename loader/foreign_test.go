package loader_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
)

// stranger loads a program that lets everything through.
func stranger(t *testing.T, name string, kind ebpf.ProgramType, hook ebpf.AttachType) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: kind, AttachType: hook, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func foreignOn(t *testing.T, cgroup string) []loader.Foreign {
	t.Helper()
	found, err := loader.ForeignOnCgroups(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestForeignProgramsOnCgroupsAreNamed(t *testing.T) {
	b := newBed(t)
	d := b.load(t)
	defer remove(d)
	if found := foreignOn(t, b.cgroup); found != nil {
		t.Fatalf("found %+v beside the datapath alone", found)
	}

	child := filepath.Join(b.cgroup, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	sockops := stranger(t, "mesh_sockops", ebpf.SockOps, ebpf.AttachCGroupSockOps)
	shared, err := link.AttachCgroup(link.CgroupOptions{Path: b.cgroup, Attach: ebpf.AttachCGroupSockOps, Program: sockops})
	if err != nil {
		t.Fatal(err)
	}
	connect := stranger(t, "wall_connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg)
	folder, err := os.Open(child)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	alone := link.RawAttachProgramOptions{Target: int(folder.Fd()), Program: connect, Attach: ebpf.AttachCGroupUDP4Sendmsg}
	if err := link.RawAttachProgram(alone); err != nil {
		t.Fatal(err)
	}

	want := []loader.Foreign{
		{Name: "mesh_sockops", Attach: "CGroupSockOps", Place: b.cgroup},
		{Name: "wall_connect4", Attach: "CGroupUDP4Sendmsg", Place: child, Exclusive: true},
	}
	if diff := cmp.Diff(want, foreignOn(t, b.cgroup), cmpopts.IgnoreFields(loader.Foreign{}, "ID")); diff != "" {
		t.Errorf("programs of others (-want +got):\n%s", diff)
	}

	if err := shared.Close(); err != nil {
		t.Fatal(err)
	}
	if err := link.RawDetachProgram(link.RawDetachProgramOptions(alone)); err != nil {
		t.Fatal(err)
	}
	if found := foreignOn(t, b.cgroup); found != nil {
		t.Errorf("found %+v after they were detached", found)
	}
}

// This is the refusal that an exclusive program means for the datapath.
func TestExclusiveProgramKeepsTheDatapathOut(t *testing.T) {
	b := newBed(t)
	folder, err := os.Open(b.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	alone := link.RawAttachProgramOptions{
		Target: int(folder.Fd()), Attach: ebpf.AttachCGroupInet4Connect,
		Program: stranger(t, "wall_connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect),
	}
	if err := link.RawAttachProgram(alone); err != nil {
		t.Fatal(err)
	}
	if found := foreignOn(t, b.cgroup); len(found) != 1 || !found[0].Exclusive {
		t.Errorf("found %+v, want one that is exclusive", found)
	}
	d, err := loader.Load(loader.Options{Cgroup: b.cgroup, Pins: b.pins})
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("beside it the datapath loads with %v, want EPERM", err)
	}
	if err == nil {
		remove(d)
	}
}

func TestForeignProgramsOnDevicesAreNamed(t *testing.T) {
	testutil.KernelSince(t, 6, 6, "tcx")
	ns := testutil.Netns(t)
	const lo = 1
	program := stranger(t, "cni_from_host", ebpf.SchedCLS, ebpf.AttachNone)
	var before, during []loader.Foreign
	err := ns.Do(func() (err error) {
		if before, err = loader.ForeignOnDevice(lo); err != nil {
			return err
		}
		attached, err := link.AttachTCX(link.TCXOptions{Interface: lo, Program: program, Attach: ebpf.AttachTCXEgress})
		if err != nil {
			return err
		}
		defer attached.Close()
		during, err = loader.ForeignOnDevice(lo)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if before != nil {
		t.Errorf("found %+v on an untouched device", before)
	}
	want := []loader.Foreign{{Name: "cni_from_host", Attach: "TCXEgress"}}
	if diff := cmp.Diff(want, during, cmpopts.IgnoreFields(loader.Foreign{}, "ID")); diff != "" {
		t.Errorf("programs of others (-want +got):\n%s", diff)
	}
}

func TestForeignProgramsNeedACgroup(t *testing.T) {
	if found, err := loader.ForeignOnCgroups(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || found != nil {
		t.Errorf("a cgroup that is not there: %v, %v; want ErrNotExist", found, err)
	}
	testutil.Privileged(t)
	if found, err := loader.ForeignOnCgroups(t.TempDir()); err == nil || found != nil {
		t.Errorf("a folder that is no cgroup: %v, %v; want an error", found, err)
	}
}
