package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// hook is one attach point of one program.
type hook struct {
	name    string // of the program; the pin of the link is named after it
	program *ebpf.Program
	attach  ebpf.AttachType
	cgroup  string
}

// Hook describes an attached program for people.
type Hook struct {
	Program   string // name in the kernel
	ProgramID uint32
	LinkID    uint32
	Attach    string
	CgroupID  uint64
}

// hooks lists what to attach where, in an order in which no flow is acquired
// before what carries it on is in place.
func hooks(p *bpf.SocketPrograms, cgroup, relayCgroup string) []hook {
	all := []hook{
		{bpf.SocketProgBpfacqGetpeer4, p.BpfacqGetpeer4, ebpf.AttachCgroupInet4GetPeername, cgroup},
		{bpf.SocketProgBpfacqGetpeer6, p.BpfacqGetpeer6, ebpf.AttachCgroupInet6GetPeername, cgroup},
		{bpf.SocketProgBpfacqSockops, p.BpfacqSockops, ebpf.AttachCGroupSockOps, cgroup},
		{bpf.SocketProgBpfacqConnect4, p.BpfacqConnect4, ebpf.AttachCGroupInet4Connect, cgroup},
		{bpf.SocketProgBpfacqConnect6, p.BpfacqConnect6, ebpf.AttachCGroupInet6Connect, cgroup},
	}
	if relayCgroup != "" {
		origdst := hook{bpf.SocketProgBpfacqOrigdst, p.BpfacqOrigdst, ebpf.AttachCGroupGetsockopt, relayCgroup}
		all = append([]hook{origdst}, all...)
	}
	return all
}

func (h hook) pin(dir string) string { return filepath.Join(dir, maps.PinName(h.name)) }

// attachNew attaches the hook and pins its link into dir.
func (h hook) attachNew(dir string) error {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: h.cgroup, Attach: h.attach, Program: h.program})
	if err != nil {
		return explain(fmt.Sprintf("attach %s to cgroup %s", h.name, h.cgroup), err)
	}
	defer l.Close()
	if err := l.Pin(h.pin(dir)); err != nil {
		return explain("pin link of "+h.name, err)
	}
	return nil
}

// takeOver makes the pinned link run the hook's program on the hook's cgroup.
// One that already does is left alone.
func (h hook) takeOver(dir string) error {
	pinned, err := link.LoadPinnedLink(h.pin(dir), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return h.attachNew(dir)
	}
	if err != nil {
		return explain("open pinned link of "+h.name, err)
	}
	defer pinned.Close()

	here, err := h.attachedHere(pinned)
	if err != nil {
		return err
	}
	if !here {
		return h.move(dir, pinned)
	}
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

// move attaches to the hook's cgroup before it leaves the old one.
func (h hook) move(dir string, old link.Link) error {
	aside := h.pin(dir) + "_old" // a bpffs takes no dots
	if err := os.Rename(h.pin(dir), aside); err != nil {
		return fmt.Errorf("set the old link of %s aside: %w", h.name, err)
	}
	if err := h.attachNew(dir); err != nil {
		return errors.Join(err, os.Rename(aside, h.pin(dir)))
	}
	return errors.Join(old.Detach(), os.Remove(aside))
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
	running, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false, fmt.Errorf("open running program of %s: %w", h.name, err)
	}
	defer running.Close()

	old, err := running.Info()
	if err != nil {
		return false, fmt.Errorf("read running program of %s: %w", h.name, err)
	}
	mine, err := h.program.Info()
	if err != nil {
		return false, fmt.Errorf("read program %s: %w", h.name, err)
	}
	return old.Tag == mine.Tag, nil
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
	h := Hook{
		Program:   "bpfacq_" + filepath.Base(path),
		ProgramID: uint32(info.Program),
		LinkID:    uint32(info.ID),
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		h.CgroupID = cgroup.CgroupId
		h.Attach = ebpf.AttachType(cgroup.AttachType).String()
	}
	return h, nil
}
