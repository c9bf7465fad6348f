package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// hook is one attach point of one program.
type hook struct {
	name       string // of the program
	pinName    string // of the link
	program    *ebpf.Program
	attachType ebpf.AttachType
	cgroup     string
}

// Hook describes an attached program for people.
type Hook struct {
	Program   string // name in the kernel
	ProgramID uint32
	LinkID    uint32 // 0 for a filter
	Attach    string
	CgroupID  uint64
	Device    int // its index, 0 for a hook of a cgroup
}

// hooks lists what to attach where, in an order in which no flow is acquired
// before what carries it on is in place.
func hooks(p *bpf.SocketPrograms, opts Options) []hook {
	at := func(cgroup, name string, program *ebpf.Program, attach ebpf.AttachType) hook {
		return hook{name, maps.PinName(name), program, attach, cgroup}
	}
	var all []hook
	if opts.OriginalDst {
		all = append(all, at(opts.RelayCgroup, bpf.SocketProgBpfacqOrigdst, p.BpfacqOrigdst, ebpf.AttachCGroupGetsockopt))
	}
	if !below(opts.RelayCgroup, opts.Cgroup) {
		// The hooks that take records and queries run for the cgroup of the listener.
		for _, h := range []hook{
			at(opts.RelayCgroup, bpf.SocketProgBpfacqSockops, p.BpfacqSockops, ebpf.AttachCGroupSockOps),
			at(opts.RelayCgroup, bpf.SocketProgBpfacqRecv4, p.BpfacqRecv4, ebpf.AttachCGroupUDP4Recvmsg),
			at(opts.RelayCgroup, bpf.SocketProgBpfacqRecv6, p.BpfacqRecv6, ebpf.AttachCGroupUDP6Recvmsg),
		} {
			h.pinName += "_relay"
			all = append(all, h)
		}
	}
	return append(all,
		at(opts.Cgroup, bpf.SocketProgBpfacqGetpeer4, p.BpfacqGetpeer4, ebpf.AttachCgroupInet4GetPeername),
		at(opts.Cgroup, bpf.SocketProgBpfacqGetpeer6, p.BpfacqGetpeer6, ebpf.AttachCgroupInet6GetPeername),
		at(opts.Cgroup, bpf.SocketProgBpfacqRecv4, p.BpfacqRecv4, ebpf.AttachCGroupUDP4Recvmsg),
		at(opts.Cgroup, bpf.SocketProgBpfacqRecv6, p.BpfacqRecv6, ebpf.AttachCGroupUDP6Recvmsg),
		at(opts.Cgroup, bpf.SocketProgBpfacqSockops, p.BpfacqSockops, ebpf.AttachCGroupSockOps),
		at(opts.Cgroup, bpf.SocketProgBpfacqSend4, p.BpfacqSend4, ebpf.AttachCGroupUDP4Sendmsg),
		at(opts.Cgroup, bpf.SocketProgBpfacqSend6, p.BpfacqSend6, ebpf.AttachCGroupUDP6Sendmsg),
		at(opts.Cgroup, bpf.SocketProgBpfacqConnect4, p.BpfacqConnect4, ebpf.AttachCGroupInet4Connect),
		at(opts.Cgroup, bpf.SocketProgBpfacqConnect6, p.BpfacqConnect6, ebpf.AttachCGroupInet6Connect),
	)
}

func (h hook) pin(dir string) string { return filepath.Join(dir, h.pinName) }

// attach attaches the hook and pins its link into dir.
func (h hook) attach(dir string) error {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: h.cgroup, Attach: h.attachType, Program: h.program})
	if err != nil {
		return explain(fmt.Sprintf("attach %s to cgroup %s", h.name, h.cgroup), err)
	}
	defer l.Close()
	if err := l.Pin(h.pin(dir)); err != nil {
		return explain("pin link of "+h.name, err)
	}
	return nil
}

// update makes the pinned link run the hook's program. One that does is left
// alone, and one that is missing is made.
func (h hook) update(dir string) error {
	pinned, err := h.pinned(dir)
	if err != nil {
		return err
	}
	if pinned == nil {
		return h.attach(dir)
	}
	defer pinned.Close()

	same, err := h.runs(pinned)
	if err != nil || same {
		return err
	}
	// The switch of programs is this one call; it is atomic in the kernel.
	if err := pinned.Update(h.program); err != nil {
		return explain("replace program of "+h.name, err)
	}
	return nil
}

// pinned opens the hook's link in dir, nil if there is none.
func (h hook) pinned(dir string) (link.Link, error) {
	l, err := link.LoadPinnedLink(h.pin(dir), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, foreignPins("open pinned link of "+h.name, err)
	}
	return l, nil
}

// attachedHere reports whether the links in dir are on the cgroups of their
// hooks. A link cannot move, and stays behind when its cgroup is removed.
func attachedHere(all []hook, dir string) (bool, error) {
	for _, h := range all {
		pinned, err := h.pinned(dir)
		if err != nil {
			return false, err
		}
		if pinned == nil {
			continue
		}
		here, err := h.attachedHere(pinned)
		pinned.Close()
		if err != nil || !here {
			return false, err
		}
	}
	return true, nil
}

func (h hook) attachedHere(l link.Link) (bool, error) {
	want, err := cgroupID(h.cgroup)
	if err != nil {
		return false, err
	}
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read link of %s: %w", h.name, err)
	}
	cgroup := info.Cgroup()
	return cgroup != nil && cgroup.CgroupId == want, nil
}

// runs compares tags, the kernel's digest of a program's instructions.
func (h hook) runs(l link.Link) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read link of %s: %w", h.name, err)
	}
	return sameProgram(info.Program, h.program)
}

// sameProgram reports whether a program of the kernel has the instructions of
// another, and works on the same maps.
func sameProgram(running ebpf.ProgramID, mine *ebpf.Program) (bool, error) {
	p, err := ebpf.NewProgramFromID(running)
	if err != nil {
		return false, fmt.Errorf("open running program %d: %w", running, err)
	}
	defer p.Close()

	old, err := p.Info()
	if err != nil {
		return false, fmt.Errorf("read running program %d: %w", running, err)
	}
	fresh, err := mine.Info()
	if err != nil {
		return false, fmt.Errorf("read program: %w", err)
	}
	oldMaps, _ := old.MapIDs()
	freshMaps, _ := fresh.MapIDs()
	// All maps are shared, or none is; only that of constants never is.
	shared := func(id ebpf.MapID) bool { return slices.Contains(oldMaps, id) }
	return old.Tag == fresh.Tag && (len(freshMaps) == 0 || slices.ContainsFunc(freshMaps, shared)), nil
}

// readHook describes one pinned link.
func readHook(path string) (Hook, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return Hook{}, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return Hook{}, fmt.Errorf("read link %s: %w", path, err)
	}
	h := Hook{ProgramID: uint32(info.Program), LinkID: uint32(info.ID)}
	if h.Program, err = programName(info.Program); err != nil {
		return Hook{}, err
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		h.CgroupID = cgroup.CgroupId
		h.Attach = ebpf.AttachType(cgroup.AttachType).String()
	}
	if device := info.TCX(); device != nil {
		h.Device = int(device.Ifindex)
		h.Attach = ebpf.AttachType(device.AttachType).String()
	}
	return h, nil
}

func programName(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("read program %d: %w", id, err)
	}
	return info.Name, nil
}
