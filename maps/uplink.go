package maps

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
)

// Uplink is what the packet path knows of a device that leads to the network.
// Indices are of the agent's network namespace.
type Uplink struct {
	Index int

	// MAC is the device's own address, to which answers from the enclave are
	// addressed. The programs keep it as the packets of the device say, so that a
	// change is followed at once. Nil is unknown: the first packet tells.
	MAC net.HardwareAddr

	Pair    int              // index of the device that leads to the enclave, 0 is none
	PairMAC net.HardwareAddr // of the far end of that device, in the enclave
	L3      bool             // its packets have no Ethernet header
}

// SetUplink adds or replaces an uplink: from then on its packets are acquired. An
// address that the programs have learnt stays if MAC is nil. One with a Pair of 0
// acquires nothing, and the hardening of each rule holds.
func (m *Maps) SetUplink(u Uplink) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	index := uint32(u.Index)
	var old bpf.SocketUplink
	if err := absentIsFine(m.objects.BpfacqUplink.Lookup(index, &old)); err != nil {
		return fmt.Errorf("read uplink %d: %w", u.Index, err)
	}
	raw := bpf.SocketUplink{Mac: old.Mac, Pair: uint32(u.Pair), IsL3: bit(u.L3)}
	if u.MAC != nil {
		raw.Mac = macWord(u.MAC)
	}
	copy(raw.PairMac[:], u.PairMAC)
	// The way back is there before the way out.
	if u.Pair != 0 {
		if err := m.objects.BpfacqPair.Put(raw.Pair, index); err != nil {
			return fmt.Errorf("write pair of uplink %d: %w", u.Index, err)
		}
	}
	if err := m.objects.BpfacqUplink.Put(index, &raw); err != nil {
		return fmt.Errorf("write uplink %d: %w", u.Index, err)
	}
	if old.Pair != 0 && old.Pair != raw.Pair {
		if err := absentIsFine(m.objects.BpfacqPair.Delete(old.Pair)); err != nil {
			return fmt.Errorf("delete old pair of uplink %d: %w", u.Index, err)
		}
	}
	return nil
}

// DeleteUplink forgets an uplink: its packets pass. One that is not there is fine.
func (m *Maps) DeleteUplink(index int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var old bpf.SocketUplink
	if err := absentIsFine(m.objects.BpfacqUplink.Lookup(uint32(index), &old)); err != nil {
		return fmt.Errorf("read uplink %d: %w", index, err)
	}
	if err := absentIsFine(m.objects.BpfacqUplink.Delete(uint32(index))); err != nil {
		return fmt.Errorf("delete uplink %d: %w", index, err)
	}
	if old.Pair == 0 {
		return nil
	}
	if err := absentIsFine(m.objects.BpfacqPair.Delete(old.Pair)); err != nil {
		return fmt.Errorf("delete pair of uplink %d: %w", index, err)
	}
	return nil
}

// Uplinks reads all uplinks, those of a predecessor included.
func (m *Maps) Uplinks() ([]Uplink, error) {
	var all []Uplink
	var index uint32
	var raw bpf.SocketUplink
	elements := m.objects.BpfacqUplink.Iterate()
	for elements.Next(&index, &raw) {
		all = append(all, newUplink(index, &raw))
	}
	if err := elements.Err(); err != nil {
		return nil, fmt.Errorf("walk uplinks: %w", err)
	}
	return all, nil
}

func newUplink(index uint32, raw *bpf.SocketUplink) Uplink {
	u := Uplink{Index: int(index), Pair: int(raw.Pair), L3: raw.IsL3 != 0}
	if raw.Mac != 0 {
		u.MAC = binary.NativeEndian.AppendUint64(nil, raw.Mac)[:len(raw.PairMac)]
	}
	if raw.PairMac != ([len(raw.PairMac)]uint8{}) {
		u.PairMAC = slices.Clone(raw.PairMac[:])
	}
	return u
}

// macWord is an address as the first six bytes of a word: the programs store
// and read it whole.
func macWord(mac net.HardwareAddr) uint64 {
	var image [8]byte
	copy(image[:len(bpf.SocketUplink{}.PairMac)], mac)
	return binary.NativeEndian.Uint64(image[:])
}

// Packets returns the maps that the programs of the packet path share with those
// of the socket path, by their names in spec, for the options of loading them.
// They stay those of m.
func (m *Maps) Packets(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	shared := make(map[string]*ebpf.Map)
	for name, slot := range byName(&m.objects) {
		if _, ok := spec.Maps[name]; ok {
			shared[name] = *slot
		}
	}
	return shared
}
