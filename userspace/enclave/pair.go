package enclave

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/rtnetlink"
)

// Alias is the alias of the host's end of every pair, by which one that an
// earlier agent left behind is found.
const Alias = "bpfacq"

const (
	// peerName is what the end inside is called.
	peerName = "acq"

	// pairMTU lets through what is longer than the uplink's MTU, as trains of
	// segments and reassembled datagrams are.
	pairMTU = 65535

	// maxPairs is how many names are tried, far more than a host has uplinks.
	maxPairs = 1024

	// dumps is how often a list is asked for that changes while it is read.
	dumps = 5
)

// hostMAC and peerMAC are the addresses of every pair, locally administered
// (IEEE 802, the second bit). Pairs do not meet, so they may be the same; and one
// that is set by nobody is changed by systemd-udevd after a while.
func hostMAC() net.HardwareAddr { return net.HardwareAddr{0x0a, 0xbf, 0xac, 0, 0, 1} }
func peerMAC() net.HardwareAddr { return net.HardwareAddr{0x0a, 0xbf, 0xac, 0, 0, 2} }

// addPair makes the pair, both ends down, in its places.
func (e *Enclave) addPair(name string) error {
	names := []string{name}
	if name == "" {
		names = nil
		for i := range maxPairs {
			names = append(names, fmt.Sprintf("acq%d", i))
		}
	}
	for _, name := range names {
		pair := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: name, MTU: pairMTU, HardwareAddr: hostMAC()},
			PeerName:         peerName,
			PeerNamespace:    netlink.NsFd(e.namespace.Fd()),
			PeerMTU:          pairMTU,
			PeerHardwareAddr: peerMAC(),
		}
		err := e.host.LinkAdd(pair)
		if errors.Is(err, unix.EEXIST) && len(names) > 1 {
			continue
		}
		if err != nil {
			return fmt.Errorf("create pair %q: %w", name, err)
		}
		e.pair = pair
		return nil
	}
	return fmt.Errorf("create pair: no name is free: %w", unix.EEXIST)
}

// showPair sets the host's end up, such that the host neither uses it nor says
// anything through it.
func (e *Enclave) showPair() error {
	if err := e.host.LinkSetAlias(e.pair, Alias); err != nil {
		return fmt.Errorf("mark %s: %w", e.pair.Name, err)
	}
	// Before it is up: else it gets an address and solicits routers.
	if err := set("net/ipv6/conf/"+e.pair.Name+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if err := e.host.LinkSetARPOff(e.pair); err != nil {
		return fmt.Errorf("switch ARP of %s off: %w", e.pair.Name, err)
	}
	if err := e.host.LinkSetUp(e.pair); err != nil {
		return fmt.Errorf("set %s up: %w", e.pair.Name, err)
	}
	return nil
}

// await waits until packets get through the pair: the kernel starts the end that
// was up first on a work queue, and drops what is sent there before.
func (e *Enclave) await() error {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for limit := time.Now().Add(rtnetlink.Patience); time.Now().Before(limit); <-poll.C {
		near, err := e.host.LinkByIndex(e.pair.Index)
		if err != nil {
			return fmt.Errorf("find %s: %w", e.pair.Name, err)
		}
		far, err := e.inside.LinkByIndex(e.peer)
		if err != nil {
			return fmt.Errorf("find the end inside: %w", err)
		}
		if near.Attrs().OperState == netlink.OperUp && far.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("wait for %s to work: %w", e.pair.Name, os.ErrDeadlineExceeded)
}

// set writes a sysctl of the calling thread's namespace. One that this kernel
// does not have is fine: those of IPv6 where that is switched off, and younger ones.
func set(name, value string) error {
	err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s: %w", strings.ReplaceAll(name, "/", "."), err)
	}
	return nil
}

// ours reports whether a device is the host's end of a pair.
func ours(link netlink.Link) bool {
	return link.Type() == "veth" && link.Attrs().Alias == Alias
}

// remove deletes a device; that it is gone is fine.
func remove(handle *netlink.Handle, link netlink.Link) error {
	err := handle.LinkDel(link)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// Sweep removes the pairs of earlier agents from the calling thread's namespace,
// which the kernel keeps for as long as a flow of theirs is not done. It returns
// how many there were.
func Sweep() (removed int, err error) {
	handle, err := rtnetlink.Open()
	if err != nil {
		return 0, err
	}
	defer handle.Close()
	links, err := handle.LinkList()
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < dumps; tries++ {
		links, err = handle.LinkList()
	}
	if err != nil {
		return 0, fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		if !ours(link) {
			continue
		}
		if err := remove(handle, link); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}
