package loader

import (
	"errors"
	"fmt"
	stdmaps "maps"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// packets is the packet path of a datapath.
type packets struct {
	programs *bpf.PacketPrograms
	links    string // folder of pins
	byFilter bool

	mu      sync.Mutex
	uplinks map[int]bool // by index of the device
	pairs   map[int]bool // the same of the host's ends
}

// errNoPackets says that Options.Packets was not set.
var errNoPackets = errors.New("packet path is not loaded")

// AttachUplink makes a device of this process's network namespace, by its index,
// an uplink: its egress is looked at for flows to acquire, its ingress for flows
// that others open. The element of the map uplink is the caller's to set: without
// it all passes. A second call does nothing but bring the programs up to date. On
// an error the device is left as it was.
func (d *Datapath) AttachUplink(index int) error {
	return d.attachDevice(index, uplinkPoints, func(p *packets) map[int]bool { return p.uplinks })
}

// AttachPair makes what the host's end of an enclave's pair receives, by the
// index of that device, arrive at the enclave's uplink. It ends with the device.
func (d *Datapath) AttachPair(index int) error {
	return d.attachDevice(index, pairPoints, func(p *packets) map[int]bool { return p.pairs })
}

// attachDevice attaches all points of a device or none.
func (d *Datapath) attachDevice(
	index int, points func(*bpf.PacketPrograms, int) []point, of func(*packets) map[int]bool,
) error {
	p := d.packets
	if p == nil {
		return fmt.Errorf("attach to device %d: %w", index, errNoPackets)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var made []point
	for _, at := range points(p.programs, index) {
		fresh, err := at.ensure(p.links, p.byFilter)
		if err != nil {
			for _, at := range slices.Backward(made) {
				err = errors.Join(err, at.remove(p.links))
			}
			return err
		}
		if fresh {
			made = append(made, at)
		}
	}
	of(p)[index] = true
	return nil
}

// DetachUplink undoes AttachUplink. A device that is none, or that is gone, is
// fine.
func (d *Datapath) DetachUplink(index int) error {
	p := d.packets
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.uplinks, index)
	return p.detach(uplinkPoints(p.programs, index))
}

// detach removes points, the last first: what acquires goes before what it needs.
func (p *packets) detach(points []point) error {
	for _, at := range slices.Backward(points) {
		if err := at.remove(p.links); err != nil {
			return err
		}
	}
	return nil
}

// Uplinks lists the devices that are attached, by index, those of an earlier agent
// included: the caller detaches what is no uplink any more.
func (d *Datapath) Uplinks() []int {
	p := d.packets
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return sortedKeys(p.uplinks)
}

// CheckUplinks returns the indices of the uplinks and pairs that have lost a
// program, as when somebody removed it or the device is gone. They count as
// detached then. It is cheap enough for every change of a device.
func (d *Datapath) CheckUplinks() (lost []int, err error) {
	p := d.packets
	if p == nil {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kind := range []struct {
		devices map[int]bool
		points  func(*bpf.PacketPrograms, int) []point
	}{{p.uplinks, uplinkPoints}, {p.pairs, pairPoints}} {
		for _, index := range sortedKeys(kind.devices) {
			points := kind.points(p.programs, index)
			whole, err := p.areAttached(points)
			if err != nil {
				return lost, err
			}
			if whole {
				continue
			}
			delete(kind.devices, index)
			lost = append(lost, index)
			if err := p.detach(points); err != nil {
				return lost, err
			}
		}
	}
	return lost, nil
}

func (p *packets) areAttached(points []point) (bool, error) {
	for _, at := range points {
		running, err := at.running(p.links)
		if running == 0 || err != nil {
			return false, err
		}
	}
	return true, nil
}

// running is the program that the device runs for the point, 0 if there is none.
func (p point) running(dir string) (ebpf.ProgramID, error) {
	running, err := p.linked(dir)
	if running != 0 || err != nil {
		return running, err
	}
	return p.filtered()
}

// loadPackets loads the packet path, and finds the uplinks of an earlier agent that
// are still attached.
func (d *Datapath) loadPackets(byFilter bool) error {
	programs, err := packetPrograms(d.Maps, d.Features)
	if err != nil {
		return err
	}
	d.packets = &packets{
		programs: programs, links: linksDir(d.pins.live()), byFilter: byFilter,
		uplinks: make(map[int]bool), pairs: make(map[int]bool),
	}
	found, err := attachedUplinks(d.packets.links)
	if err != nil {
		return err
	}
	for _, index := range found {
		whole, err := d.packets.areAttached(uplinkPoints(programs, index))
		if err != nil {
			return err
		}
		if whole {
			d.packets.uplinks[index] = true
		}
	}
	return nil
}

// linkedUplinks are the points of the uplinks of an earlier agent that are attached
// by links.
func (d *Datapath) linkedUplinks() ([]point, error) {
	if d.packets == nil {
		return nil, nil
	}
	var all []point
	for _, index := range sortedKeys(d.packets.uplinks) {
		for _, at := range uplinkPoints(d.packets.programs, index) {
			running, err := at.linked(d.packets.links)
			if err != nil {
				return nil, err
			}
			if running != 0 {
				all = append(all, at)
			}
		}
	}
	return all, nil
}

// keepUplinks brings the uplinks of an earlier agent up to date and removes what is
// left of others. The pairs of that agent went with it: until new ones are set, the
// hardening of each rule holds.
func (d *Datapath) keepUplinks() error {
	var kept []int
	if d.packets != nil {
		kept = sortedKeys(d.packets.uplinks)
	}
	known, err := d.Maps.Uplinks()
	if err != nil {
		return err
	}
	for _, u := range known {
		if !slices.Contains(kept, u.Index) {
			err = d.Maps.DeleteUplink(u.Index)
		} else if u.Pair != 0 {
			u.Pair, u.PairMAC = 0, nil
			err = d.Maps.SetUplink(u)
		}
		if err != nil {
			return err
		}
	}
	for _, index := range kept {
		if err := d.AttachUplink(index); err != nil {
			return err
		}
	}
	_, err = removeFilters(func(f *netlink.BpfFilter) bool {
		return !slices.Contains(kept, f.LinkIndex) || f.Name == bpf.PacketProgBpfacqReply
	})
	return err
}

// attachedUplinks are the devices for which there are pins, or filters.
func attachedUplinks(links string) ([]int, error) {
	found := make(map[int]bool)
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	for _, entry := range entries {
		if device := deviceOf(entry.Name()); device != 0 {
			found[device] = true
		}
	}
	err = withDevices(func(handle *netlink.Handle) error {
		own, err := ownFilters(handle, 0)
		for _, f := range own {
			if device := deviceOf(fmt.Sprintf("%s_%d", maps.PinName(f.Name), f.LinkIndex)); device != 0 {
				found[device] = true
			}
		}
		return err
	})
	return sortedKeys(found), err
}

func (p *packets) close() error {
	if p == nil {
		return nil
	}
	return p.programs.Close()
}

func sortedKeys(set map[int]bool) []int { return slices.Sorted(stdmaps.Keys(set)) }
