package uplink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/enclave"
)

// Uplinks reads the uplinks as they are now, by index. It is not called while Run
// runs.
func (w *Watcher) Uplinks() ([]Uplink, error) {
	links, err := settled(w.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	here := make(devices)
	for _, link := range links {
		here[link.Attrs().Index] = link
	}
	wanted, err := w.wanted(here)
	if err != nil {
		return nil, err
	}
	var current []Uplink
	for _, index := range slices.Sorted(maps.Keys(here)) {
		u, ok := here.uplink(index)
		if !ok {
			continue
		}
		sends := here.sends(index)
		u.Away = !sends || !wanted[index]
		if w.stays(index, wanted[index] && here.isUp(index), sends) {
			current = append(current, u)
		}
	}
	maps.DeleteFunc(w.until, func(index int, _ time.Time) bool { return here[index] == nil })
	return current, nil
}

// wanted are the devices that are configured, or that routes lead to.
func (w *Watcher) wanted(here devices) (map[int]bool, error) {
	if len(w.opts.Devices) == 0 || slices.Equal(w.opts.Devices, []string{Auto}) {
		return w.routed(here)
	}
	wanted := make(map[int]bool)
	for index, link := range here {
		names := append([]string{link.Attrs().Name}, link.Attrs().AltNames...)
		wanted[index] = slices.ContainsFunc(names, func(name string) bool { return slices.Contains(w.opts.Devices, name) })
	}
	return wanted, nil
}

// stays reports whether a device is an uplink: it is wanted, or was until a
// moment ago, in which it could have sent.
func (w *Watcher) stays(index int, wanted, sends bool) bool {
	now := time.Now()
	until, was := w.until[index]
	if wanted || was && !sends {
		w.until[index] = time.Time{}
		return true
	}
	if was && until.IsZero() {
		until = now.Add(w.linger)
		w.until[index] = until
	}
	if was && now.Before(until) {
		return true
	}
	delete(w.until, index)
	return false
}

// settled asks again for a list that has changed while it was read.
func settled[T any](list func() (T, error)) (T, error) {
	all, err := list()
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < dumps; tries++ {
		all, err = list()
	}
	return all, err
}

// devices are those of a namespace, by index.
type devices map[int]netlink.Link

func (d devices) isUp(index int) bool { return d[index].Attrs().RawFlags&unix.IFF_UP != 0 }

// sends reports whether packets can leave by a device: it is up and has a carrier,
// where it needs one.
func (d devices) sends(index int) bool {
	return d.isUp(index) && d[index].Attrs().RawFlags&unix.IFF_RUNNING != 0
}

// uplink describes a device, if it can be an uplink at all.
func (d devices) uplink(index int) (Uplink, bool) {
	attrs := d[index].Attrs()
	if attrs.Alias == enclave.Alias || d.isPort(index) {
		return Uplink{}, false
	}
	u := Uplink{Index: index, Name: attrs.Name, MTU: attrs.MTU, L3: isL3(attrs.EncapType)}
	if !u.L3 {
		u.MAC = attrs.HardwareAddr
	}
	return u, u.L3 || attrs.EncapType == "ether"
}

// isPort reports whether a device only carries the packets of another one, which
// is the uplink then: it belongs to a bridge or bond. Of a VRF that is not so.
func (d devices) isPort(index int) bool {
	master := d[d[index].Attrs().MasterIndex]
	return master != nil && slices.Contains([]string{"bridge", "bond", "team", "openvswitch"}, master.Type())
}

// isL3 reports whether packets of a kind of device have no link-layer header where
// programs see them: the kernel's own list is dev_is_mac_header_xmit of
// linux/if_arp.h. The library has no names for 519, ARPHRD_RAWIP, and 823,
// ARPHRD_IP6GRE.
func isL3(kind string) bool {
	return slices.Contains([]string{"none", "ppp", "ipip", "tunnel6", "sit", "gre", "unknown519", "unknown823"}, kind)
}

// leadsAway reports whether what is reached through a device directly is not on
// this host: behind a bridge or a veth are usually its own containers.
func (d devices) leadsAway(index int) bool {
	switch d[index].Type() {
	case "veth":
		return false
	case "bridge":
		for port, link := range d {
			inward := slices.Contains([]string{"veth", "tuntap", "vxlan"}, link.Type())
			if link.Attrs().MasterIndex == index && port != index && !inward {
				return true
			}
		}
		return false
	}
	return true
}
