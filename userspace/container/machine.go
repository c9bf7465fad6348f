package container

import (
	"bytes"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxMachines bounds how many files of machines are read.
const maxMachines = 1 << 10

// machine returns the name of the virtual machine of libvirt that has an address,
// or an empty text. The host's neighbours tell the MAC address, the bridges the
// port behind which that is, and libvirt whose port it is.
func (o Options) machine(addr netip.Addr) string {
	files, err := filepath.Glob(filepath.Join(o.Libvirt, "*.xml"))
	if err != nil || len(files) == 0 {
		return ""
	}
	port := portOf(addr)
	if port == "" {
		return ""
	}
	for _, file := range files[:min(len(files), maxMachines)] {
		if hasPort(readFile(file), port) {
			return "libvirt " + printable(strings.TrimSuffix(filepath.Base(file), ".xml"))
		}
	}
	return ""
}

// hasPort reports whether the description of a machine names a device of the host.
func hasPort(description []byte, device string) bool {
	return bytes.Contains(description, []byte("<target dev='"+device+"'"))
}

// portOf returns the name of the port of a bridge behind which a neighbour is.
func portOf(addr netip.Addr) string {
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	neighbours, err := netlink.NeighList(0, family)
	if err != nil {
		return ""
	}
	var mac net.HardwareAddr
	for _, n := range neighbours {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr && len(n.HardwareAddr) > 0 {
			mac = n.HardwareAddr
		}
	}
	if mac == nil {
		return ""
	}
	entries, err := netlink.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if e.MasterIndex == 0 || !bytes.Equal(e.HardwareAddr, mac) {
			continue
		}
		if device, err := net.InterfaceByIndex(e.LinkIndex); err == nil {
			return device.Name
		}
	}
	return ""
}
