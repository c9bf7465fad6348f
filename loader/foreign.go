package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Limits of the search, far above what hosts have.
const (
	maxCgroups      = 10_000
	maxProgramsHere = 64 // on one hook of one cgroup, which is the kernel's own limit
)

// ownPrefix starts the names of this project's programs.
const ownPrefix = "bpfacq_"

// Foreign is a program of somebody else at a hook that bpfacq uses, too.
type Foreign struct {
	Name   string // in the kernel, at most 15 bytes; empty if it has none
	ID     uint32
	Attach string // the hook
	Place  string // the folder of the cgroup, empty for a device

	// Exclusive says that it was attached to be alone: no other program can
	// be attached to the same hook of the same cgroup.
	Exclusive bool
}

// errManyCgroups says that the search ended early.
var errManyCgroups = fmt.Errorf("search cgroups: more than %d", maxCgroups)

// hookTypes are where programs of others meet those of the datapath, or could
// acquire a flow before it.
func hookTypes() []ebpf.AttachType {
	return []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCGroupSockOps,
		ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
	}
}

// ForeignOnCgroups lists the programs of others that are attached to a cgroup or
// to one below it. It only reads. With an error comes what was found until then.
func ForeignOnCgroups(root string) ([]Foreign, error) {
	var all []Foreign
	seen := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && path == root:
			return fmt.Errorf("search cgroups: %w", err)
		case err != nil || !entry.IsDir():
			return gone(err)
		}
		if seen++; seen > maxCgroups {
			return errManyCgroups
		}
		here, err := foreignOn(path)
		all = append(all, here...)
		return gone(err)
	})
	return all, err
}

// gone forgives what went away while it was looked at.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// foreignOn lists the programs on one cgroup.
func foreignOn(cgroup string) ([]Foreign, error) {
	folder, err := os.Open(cgroup)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer folder.Close()

	var all []Foreign
	for _, hook := range hookTypes() {
		ids, shared, err := programsOn(int(folder.Fd()), hook)
		if errors.Is(err, unix.EINVAL) {
			continue // a hook that this kernel does not have
		}
		if err != nil {
			return all, explain("list programs on a cgroup", err)
		}
		here, err := foreign(ids)
		if err != nil {
			return all, err
		}
		for _, f := range here {
			f.Attach, f.Place, f.Exclusive = hook.String(), cgroup, !shared
			all = append(all, f)
		}
	}
	return all, nil
}

// foreign looks up names, and leaves out this project's programs and those that
// went away meanwhile.
func foreign(ids []ebpf.ProgramID) ([]Foreign, error) {
	var all []Foreign
	for _, id := range ids {
		name, err := programName(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(name, ownPrefix) {
			all = append(all, Foreign{Name: name, ID: uint32(id)})
		}
	}
	return all, nil
}

// ForeignOnDevice lists the programs of others on a network device of this
// namespace: by tcx, where the kernel has that, and by BPF filters.
func ForeignOnDevice(index int) ([]Foreign, error) {
	var all []Foreign
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		ids, _, err := programsOn(index, hook)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, explain("list programs on a device", err)
		}
		here, err := foreign(ids)
		if err != nil {
			return nil, err
		}
		for _, f := range here {
			f.Attach = hook.String()
			all = append(all, f)
		}
	}
	filters, err := foreignFilters(index)
	return append(all, filters...), err
}

// foreignFilters lists the BPF filters of others on a device.
func foreignFilters(index int) (all []Foreign, err error) {
	err = withDevices(func(handle *netlink.Handle) error {
		found, err := filters(handle, index)
		for _, f := range found {
			if f.Id != 0 && !isOwn(f) {
				all = append(all, Foreign{Name: f.Name, ID: uint32(f.Id), Attach: "Clsact" + sideName(f)})
			}
		}
		return err
	})
	return all, err
}

// programsOn asks the kernel for the programs on a hook of a cgroup, by its file
// descriptor, or of a device, by its index, and whether those on a cgroup share
// it. The library's own question has no answer to that, and takes a lack of
// privilege for an old kernel.
func programsOn(target int, hook ebpf.AttachType) (ids []ebpf.ProgramID, shared bool, err error) {
	// The part of union bpf_attr for BPF_PROG_QUERY as of 7.3, linux/bpf.h:
	// kernels fill in what they know of it, whatever size they are told.
	var question struct {
		target, hook, queryFlags, attachFlags uint32
		ids                                   uint64
		count, _                              uint32
		_, _, _, _                            uint64 // flags, links, their flags, revision
	}
	var answer [maxProgramsHere]ebpf.ProgramID
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&answer)

	question.target, question.hook = uint32(target), uint32(hook)
	question.ids, question.count = uint64(uintptr(unsafe.Pointer(&answer))), uint32(len(answer))
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&question)), unsafe.Sizeof(question))
	if errno != 0 {
		return nil, false, errno
	}
	return answer[:min(question.count, maxProgramsHere)], question.attachFlags&unix.BPF_F_ALLOW_MULTI != 0, nil
}
