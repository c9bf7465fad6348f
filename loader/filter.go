package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// filterHandle is that of every filter of this project.
	filterHandle = 0xb9fac9

	// priorities are how many are tried, from the first to be asked on: each holds
	// filters of one kind only, and that may be another one.
	priorities = 16

	// patience is how long an answer of the kernel may take, which comes at
	// once unless it is lost.
	patience = 10 * time.Second

	// dumps is how often a list is asked for that changes while it is read.
	dumps = 5
)

// withDevices calls f with a handle of the calling thread's network namespace.
func withDevices(f func(*netlink.Handle) error) error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink: %w", err)
	}
	defer handle.Close()
	if err := handle.SetSocketTimeout(patience); err != nil {
		return fmt.Errorf("set route netlink timeout: %w", err)
	}
	return f(handle)
}

// settled asks again for a list that has changed while it was read. One of a device
// that is gone is empty.
func settled[T any](list func() ([]T, error)) ([]T, error) {
	all, err := list()
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < dumps; tries++ {
		all, err = list()
	}
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return all, err
}

// parent is how filters know a side of a device.
func parent(side ebpf.AttachType) uint32 {
	if side == ebpf.AttachTCXIngress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// side is the opposite of parent.
func side(filter netlink.Filter) ebpf.AttachType {
	if filter.Attrs().Parent == netlink.HANDLE_MIN_INGRESS {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// isFilter reports whether a filter of this project is the point's.
func (p point) isFilter(f *netlink.BpfFilter) bool {
	return f.LinkIndex == p.device && side(f) == p.side && f.Name == p.name
}

// ensureFilter makes a filter run the point's program on the device, and reports
// whether none did.
func (p point) ensureFilter() (made bool, err error) {
	err = withDevices(func(handle *netlink.Handle) error {
		all, err := ownFilters(handle, p.device)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, p.isFilter); i >= 0 {
			same, err := sameProgram(ebpf.ProgramID(all[i].Id), p.program)
			if err != nil || same {
				return err
			}
			// The switch of programs is this one call; it is atomic in the kernel.
			return p.filter(handle, all[i].Priority)
		}
		made = true
		return p.addFilter(handle)
	})
	if err != nil {
		return made, explain(fmt.Sprintf("attach %s to device %d by a filter", p.name, p.device), err)
	}
	return made, nil
}

// addFilter adds the filter where it is asked first, and what holds filters where
// the device has none.
func (p point) addFilter(handle *netlink.Handle) error {
	err := handle.QdiscAdd(clsact(p.device))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact, which the module sch_ingress has: %w", err)
	}
	added := err == nil
	for priority := range uint16(priorities) {
		if err = p.filter(handle, priority+1); !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("have the kernel load its module cls_bpf: %w", err)
	}
	if err != nil && added {
		err = errors.Join(err, handle.QdiscDel(clsact(p.device)))
	}
	return err
}

// filter writes the filter.
func (p point) filter(handle *netlink.Handle, priority uint16) error {
	return handle.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: p.device, Parent: parent(p.side), Handle: filterHandle, Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.program.FD(), Name: p.name, DirectAction: true,
	})
}

// filtered is the program that the point's filter runs, 0 if there is none.
func (p point) filtered() (running ebpf.ProgramID, err error) {
	err = withDevices(func(handle *netlink.Handle) error {
		all, err := ownFilters(handle, p.device)
		if i := slices.IndexFunc(all, p.isFilter); i >= 0 {
			running = ebpf.ProgramID(all[i].Id)
		}
		return err
	})
	return running, err
}

// filters are all BPF filters of a device.
func filters(handle *netlink.Handle, device int) ([]*netlink.BpfFilter, error) {
	at := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: device}}
	var all []*netlink.BpfFilter
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		found, err := settled(func() ([]netlink.Filter, error) { return handle.FilterList(at, parent) })
		if err != nil {
			return nil, fmt.Errorf("list filters of device %d: %w", device, err)
		}
		for _, f := range found {
			if f, ok := f.(*netlink.BpfFilter); ok {
				f.Parent = parent // kernels say it, or not
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// ownFilters are those of this project on a device, or on all if it is 0.
func ownFilters(handle *netlink.Handle, device int) ([]*netlink.BpfFilter, error) {
	qdiscs, err := settled(func() ([]netlink.Qdisc, error) { return handle.QdiscList(nil) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without any
	}
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	var own []*netlink.BpfFilter
	for _, qdisc := range qdiscs {
		at := qdisc.Attrs().LinkIndex
		if qdisc.Type() != "clsact" || device != 0 && at != device {
			continue
		}
		all, err := filters(handle, at)
		if err != nil {
			return own, err
		}
		for _, f := range all {
			if isOwn(f) {
				own = append(own, f)
			}
		}
	}
	return own, nil
}

func isOwn(f *netlink.BpfFilter) bool {
	return f.Handle == filterHandle && strings.HasPrefix(f.Name, ownPrefix)
}

// filterHooks describes the filters of this project.
func filterHooks() (all []Hook, err error) {
	err = withDevices(func(handle *netlink.Handle) error {
		own, err := ownFilters(handle, 0)
		for _, f := range own {
			all = append(all, Hook{Program: f.Name, ProgramID: uint32(f.Id), Attach: "Clsact" + sideName(f), Device: f.LinkIndex})
		}
		return err
	})
	return all, err
}

func sideName(f netlink.Filter) string {
	if side(f) == ebpf.AttachTCXIngress {
		return "Ingress"
	}
	return "Egress"
}

func anyFilter(*netlink.BpfFilter) bool { return true }

// removeFilters removes the filters of this project that are unwanted, on all
// devices, and what held them where nothing else is in it. It returns how many
// there were.
func removeFilters(unwanted func(*netlink.BpfFilter) bool) (removed int, err error) {
	err = withDevices(func(handle *netlink.Handle) error {
		own, err := ownFilters(handle, 0)
		if err != nil {
			return err
		}
		for _, f := range own {
			if !unwanted(f) {
				continue
			}
			if err := handle.FilterDel(f); err != nil && !isGone(err) {
				return fmt.Errorf("remove filter of device %d: %w", f.LinkIndex, err)
			}
			removed++
			if err := removeEmpty(handle, f.LinkIndex); err != nil {
				return err
			}
		}
		return nil
	})
	return removed, err
}

// removeEmpty removes the clsact of a device that has no filter.
func removeEmpty(handle *netlink.Handle, device int) error {
	at := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: device}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		left, err := settled(func() ([]netlink.Filter, error) { return handle.FilterList(at, parent) })
		if err != nil {
			return fmt.Errorf("list filters of device %d: %w", device, err)
		}
		if len(left) > 0 {
			return nil
		}
	}
	if err := handle.QdiscDel(clsact(device)); err != nil && !isGone(err) {
		return fmt.Errorf("remove clsact of device %d: %w", device, err)
	}
	return nil
}

// isGone reports whether what was to be removed went away by itself.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}

// clsact is what holds the filters of both sides of a device.
func clsact(device int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}
