package maps

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// slots is how many generations fit side by side: one in force, one in the making.
const slots = 2

// Generation reads the number of the policy in force, 0 before the first.
func (m *Maps) Generation() (uint32, error) {
	var generation uint32
	if err := m.objects.BpfacqActive.Lookup(uint32(0), &generation); err != nil {
		return 0, fmt.Errorf("read the active generation: %w", err)
	}
	return generation, nil
}

// Next is the number that Store will give to the next generation.
func (m *Maps) Next() (uint32, error) {
	current, err := m.Generation()
	if current == math.MaxUint32 {
		return slots, err // 0 means none, and the slot must be the other one
	}
	return current + 1, err
}

// Store puts tables in force as the next generation and returns its number. A
// program sees the old policy or the new one, never a mixture. On an error the
// old one stays in force, whole.
func (m *Maps) Store(t *Tables) (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next, err := m.Next()
	if err != nil {
		return 0, err
	}
	slot, err := newSlot(m, t)
	if err != nil {
		return 0, err
	}
	defer slot.close()
	if err := slot.verify(t); err != nil {
		return 0, fmt.Errorf("verify generation %d: %w", next, err)
	}

	if err := slot.publish(next % slots); err != nil {
		return 0, fmt.Errorf("publish generation %d: %w", next, err)
	}
	// One aligned store into shared memory: the flip.
	if _, err := m.active.WriteAt(word32(next), 0); err != nil {
		return 0, fmt.Errorf("activate generation %d: %w", next, err)
	}
	m.live = room{generation: next, width: t.Width, next: len(t.Verdicts), end: len(t.Verdicts) + t.SpareRows*t.Width}
	// What follows only frees memory. The new policy is in force whatever it says.
	_ = m.closeView()
	if err := slot.publish(next % slots); err == nil {
		m.retire((next - 1) % slots)
	}
	return next, nil
}

// SetChannelState shows the state of a channel of the generation in force.
func (m *Maps) SetChannelState(index uint32, state ChannelState) error {
	if err := m.setChannel(index, func(c *Channel) { c.State = state }); err != nil {
		return fmt.Errorf("write state of channel %d: %w", index, err)
	}
	return nil
}

// SetDatagrams says of a channel of the generation in force whether its edges
// carry datagrams: where they do not, hardening decides about UDP.
func (m *Maps) SetDatagrams(index uint32, datagrams Datagrams) error {
	if err := m.setChannel(index, func(c *Channel) { c.Datagrams = datagrams }); err != nil {
		return fmt.Errorf("write datagrams of channel %d: %w", index, err)
	}
	return nil
}

func (m *Maps) setChannel(index uint32, change func(*Channel)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	generation, err := m.Generation()
	if err != nil {
		return err
	}
	channels, err := inner(m.objects.BpfacqChannel, generation)
	if err != nil {
		return err
	}
	defer channels.Close()

	c, err := lookupChannel(channels, index)
	if err != nil {
		return err
	}
	change(&c)
	raw := rawChannel(c)
	return channels.Put(index, &raw)
}

// outers are the maps that have two slots.
func (m *Maps) outers() []*ebpf.Map {
	return []*ebpf.Map{
		m.objects.BpfacqPrefix4,
		m.objects.BpfacqPrefix6,
		m.objects.BpfacqPorts,
		m.objects.BpfacqVerdict,
		m.objects.BpfacqEntry,
		m.objects.BpfacqChannel,
		m.objects.BpfacqName,
	}
}

// retire empties a slot that no program reads any more.
func (m *Maps) retire(slot uint32) {
	var all errgroup.Group
	for _, outer := range m.outers() {
		all.Go(func() error { return outer.Delete(slot) })
	}
	// An entry that stays costs memory until the next policy replaces it.
	_ = all.Wait()
}

// inner opens the map of a generation's slot.
func inner(outer *ebpf.Map, generation uint32) (*ebpf.Map, error) {
	if generation == 0 {
		return nil, ErrNoPolicy
	}
	var m *ebpf.Map
	err := outer.Lookup(generation%slots, &m)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("open slot of generation %d: %w", generation, ErrNoPolicy)
	}
	if err != nil {
		return nil, fmt.Errorf("open slot of generation %d: %w", generation, err)
	}
	return m, nil
}
