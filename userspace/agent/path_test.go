package agent

import (
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/control"
)

func TestPathOfAFlowIsTold(t *testing.T) {
	all := whereabouts{verdict: "acquire", packets: true, containers: true, device: "eth0", uplink: true}
	for _, test := range []struct {
		behaviour string
		change    func(w *whereabouts)
		way, why  string
	}{
		{"TCP of the host", func(*whereabouts) {}, control.WaySocket, "bound to a device or an address, packets are acquired where they leave by eth0"},
		{"TCP without an uplink", func(w *whereabouts) { w.uplink = false }, control.WaySocket, "goes direct"},
		{"TCP of an external listener", func(w *whereabouts) { w.external = true }, control.WaySocket, "external listener"},
		{"TCP that is refused", func(w *whereabouts) { w.verdict = "block" }, control.WayNone, "connect() is refused"},
		{"TCP that passes", func(w *whereabouts) { w.verdict = "pass" }, control.WayDirect, "nothing acquires it"},
		{"UDP", func(w *whereabouts) { w.udp = true }, control.WayPacket, "leave by eth0"},
		{"UDP that is refused", func(w *whereabouts) { w.udp, w.verdict = true, "block" }, control.WayNone, "as if nobody listened"},
		{"UDP that passes", func(w *whereabouts) { w.udp, w.verdict = true, "pass" }, control.WayDirect, "nothing acquires it"},
		{"UDP of an external listener", func(w *whereabouts) { w.udp, w.external, w.packets = true, true, false }, control.WayDirect, "external listener"},
		{"UDP without a packet path", func(w *whereabouts) { w.udp, w.packets = true, false }, control.WayDirect, "packet.uplinks is empty"},
		{"UDP without a route", func(w *whereabouts) { w.udp, w.device, w.uplink = true, "", false }, control.WayDirect, "no route"},
		{"UDP by another device", func(w *whereabouts) { w.udp, w.device, w.uplink = true, "wg0", false }, control.WayDirect, "wg0, which is no uplink"},
		{"UDP that no edge carries, Block", func(w *whereabouts) { w.udp, w.refused, w.hardening = true, true, maps.HardeningBlock }, control.WayNone, "hardening is block"},
		{"UDP that no edge carries, Bypass", func(w *whereabouts) { w.udp, w.refused, w.hardening = true, true, maps.HardeningBypass }, control.WayDirect, "hardening is bypass"},
		{"UDP by an uplink without an enclave, Block", func(w *whereabouts) { w.udp, w.uplink, w.broken, w.hardening = true, false, true, maps.HardeningBlock }, control.WayNone, "no enclave at present"},
		{"TCP of a container by an uplink without an enclave, Bypass", func(w *whereabouts) {
			w.foreign, w.uplink, w.broken, w.hardening = true, false, true, maps.HardeningBypass
		}, control.WayDirect, "hardening is bypass"},
		{"QUIC that is rejected by an uplink without an enclave", func(w *whereabouts) {
			w.udp, w.verdict, w.uplink, w.broken, w.hardening = true, "block", false, true, maps.HardeningBlock
		}, control.WayNone, "hardening is block"},
		{"TCP by an uplink without an enclave", func(w *whereabouts) { w.uplink, w.broken = false, true }, control.WaySocket, "hardening decides"},
		{"TCP of a container", func(w *whereabouts) { w.foreign = true }, control.WayPacket, "the host forwards it"},
		{"refused TCP of a container", func(w *whereabouts) { w.foreign, w.verdict = true, "block" }, control.WayNone, "as if nobody listened"},
		{"containers off", func(w *whereabouts) { w.foreign, w.containers = true, false }, control.WayDirect, `packet.containers is "off"`},
		{"a container without a packet path", func(w *whereabouts) { w.foreign, w.packets = true, false }, control.WayDirect, "packet.uplinks is empty"},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			w := all
			test.change(&w)
			if got := w.path(); got.Way != test.way || !strings.Contains(got.Why, test.why) {
				t.Errorf("path is %+v, want way %q because of %q", got, test.way, test.why)
			}
		})
	}
}

func TestOwnNamespaceIsNotForeign(t *testing.T) {
	for inode, want := range map[uint64]bool{0: false, 1: true} {
		if got, err := foreign(inode); err != nil || got != want {
			t.Errorf("namespace %d is foreign: %t, %v", inode, got, err)
		}
	}
}
