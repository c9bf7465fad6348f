package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// point is a program on one side of a device: attached by a pinned link, or by a
// filter where the kernel has no such links.
type point struct {
	name    string // of the program
	program *ebpf.Program
	side    ebpf.AttachType // AttachTCXIngress or AttachTCXEgress
	device  int
}

// uplinkPoints are those of an uplink, in an order in which no packet is acquired
// before what belongs to it is in place.
func uplinkPoints(p *bpf.PacketPrograms, device int) []point {
	return []point{
		{bpf.PacketProgBpfacqArrive, p.BpfacqArrive, ebpf.AttachTCXIngress, device},
		{bpf.PacketProgBpfacqEgress, p.BpfacqEgress, ebpf.AttachTCXEgress, device},
	}
}

// pairPoints are those of the host's end of an enclave's pair.
func pairPoints(p *bpf.PacketPrograms, device int) []point {
	return []point{{bpf.PacketProgBpfacqReply, p.BpfacqReply, ebpf.AttachTCXIngress, device}}
}

func (p point) pinName() string { return fmt.Sprintf("%s_%d", maps.PinName(p.name), p.device) }

func (p point) pin(dir string) string { return filepath.Join(dir, p.pinName()) }

// deviceOf is the index of the device whose uplink a pin belongs to, 0 for other
// pins.
func deviceOf(pinName string) int {
	program, index, _ := strings.Cut(pinName, "_")
	if program != maps.PinName(bpf.PacketProgBpfacqEgress) && program != maps.PinName(bpf.PacketProgBpfacqArrive) {
		return 0
	}
	device, err := strconv.Atoi(index)
	if err != nil {
		return 0
	}
	return device
}

// attach attaches the point and pins its link into dir. Programs of others come
// after it: one that ends the list would let packets out.
func (p point) attach(dir string) error {
	l, err := link.AttachTCX(link.TCXOptions{Interface: p.device, Program: p.program, Attach: p.side, Anchor: link.Head()})
	if err != nil {
		return explain(fmt.Sprintf("attach %s to device %d", p.name, p.device), err)
	}
	defer l.Close()
	if err := l.Pin(p.pin(dir)); err != nil {
		return explain("pin link of "+p.name, err)
	}
	return nil
}

// ensure makes the device run the point's program, by a link in dir or by a
// filter, and reports whether it did not before.
func (p point) ensure(dir string, byFilter bool) (made bool, err error) {
	if !byFilter {
		made, err = p.ensureLink(dir)
		if err == nil {
			_, err = removeFilters(p.isFilter)
			return made, err
		}
		if !errors.Is(err, link.ErrNotSupported) {
			return made, err
		}
	}
	made, err = p.ensureFilter()
	if err != nil {
		return made, err
	}
	return made, detachLink(p.pin(dir))
}

func (p point) ensureLink(dir string) (made bool, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { // it may have gone with its links
		return false, fmt.Errorf("create folder of pins: %w", err)
	}
	running, err := p.linked(dir)
	if err != nil {
		return false, err
	}
	if running == 0 {
		if err := detachLink(p.pin(dir)); err != nil {
			return false, err
		}
		return true, p.attach(dir)
	}
	same, err := sameProgram(running, p.program)
	if err != nil || same {
		return false, err
	}
	pinned, err := link.LoadPinnedLink(p.pin(dir), nil)
	if err != nil {
		return false, foreignPins("open pinned link of "+p.name, err)
	}
	defer pinned.Close()
	// The switch of programs is this one call; it is atomic in the kernel.
	if err := pinned.Update(p.program); err != nil {
		return false, explain("replace program of "+p.name, err)
	}
	return false, nil
}

// linked is the program that the point's pinned link runs on the device, 0 if there
// is no link, or the device is gone, or another of a namespace before.
func (p point) linked(dir string) (ebpf.ProgramID, error) {
	pinned, err := link.LoadPinnedLink(p.pin(dir), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, foreignPins("open pinned link of "+p.name, err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		return 0, fmt.Errorf("read link of %s: %w", p.name, err)
	}
	at := info.TCX()
	if at == nil || int(at.Ifindex) != p.device {
		return 0, nil
	}
	here, _, err := programsOn(p.device, p.side)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return 0, explain("list programs on a device", err)
	}
	if !slices.Contains(here, info.Program) {
		return 0, nil
	}
	return info.Program, nil
}

// remove undoes ensure.
func (p point) remove(dir string) error {
	_, err := removeFilters(p.isFilter)
	return errors.Join(detachLink(p.pin(dir)), err)
}
