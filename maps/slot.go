package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/bpfacq/bpfacq/bpf"
)

// chunk is how many elements one system call carries where the kernel can.
const chunk = 4096

// slot holds the inner maps of one generation, in the order of Maps.outers.
type slot struct {
	outers []*ebpf.Map
	inners []*ebpf.Map
}

// The inner maps of a slot, as indexes.
const (
	innerPrefix4 = iota
	innerPrefix6
	innerPorts
	innerVerdict
	innerEntry
	innerChannel
	innerName
)

// innerSpecs describe the inner maps, by the names of their outer maps.
func innerSpecs() (map[string]*ebpf.MapSpec, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read the embedded object: %w", err)
	}
	inner := make(map[string]*ebpf.MapSpec)
	for name, outer := range spec.Maps {
		if outer.InnerMap != nil {
			inner[name] = outer.InnerMap
		}
	}
	return inner, nil
}

// newSlot makes the inner maps for t, each as large as it must be, and fills
// them. No program can see them yet.
func newSlot(m *Maps, t *Tables) (_ *slot, err error) {
	inner, err := m.inner()
	if err != nil {
		return nil, err
	}
	s := &slot{outers: m.outers()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()

	sizes := []struct {
		name    string
		entries int
	}{
		innerPrefix4: {bpf.SocketMapBpfacqPrefix4, t.IPv4.Len},
		innerPrefix6: {bpf.SocketMapBpfacqPrefix6, t.IPv6.Len},
		innerPorts:   {bpf.SocketMapBpfacqPorts, 1},
		innerVerdict: {bpf.SocketMapBpfacqVerdict, len(t.Verdicts) + t.SpareRows*t.Width},
		innerEntry:   {bpf.SocketMapBpfacqEntry, len(t.Entries)},
		innerChannel: {bpf.SocketMapBpfacqChannel, len(t.Channels)},
		innerName:    {bpf.SocketMapBpfacqName, len(t.Names) + t.SpareNames},
	}
	for _, size := range sizes {
		template := inner[size.name].Copy()
		template.Name = size.name
		template.MaxEntries = uint32(max(size.entries, 1))
		made, err := ebpf.NewMap(template)
		if err != nil {
			return nil, fmt.Errorf("create %s for %d entries: %w", size.name, size.entries, err)
		}
		s.inners = append(s.inners, made)
	}
	return s, s.fill(t)
}

func (s *slot) close() {
	for _, m := range s.inners {
		m.Close()
	}
}

// publish points the slot of every outer map at the inner maps. Each update
// returns only when no program that began before it still runs (the kernel's
// maybe_wait_bpf_programs), so publishing the same maps twice waits for every
// reader of the time between.
func (s *slot) publish(index uint32) error {
	var all errgroup.Group
	for i, outer := range s.outers {
		all.Go(func() error { return outer.Put(index, s.inners[i]) })
	}
	return all.Wait()
}

func (s *slot) fill(t *Tables) error {
	if err := fillRows(s.inners[innerPrefix4], t.IPv4, key4); err != nil {
		return fmt.Errorf("fill IPv4 prefixes: %w", err)
	}
	if err := fillRows(s.inners[innerPrefix6], t.IPv6, key6); err != nil {
		return fmt.Errorf("fill IPv6 prefixes: %w", err)
	}
	ports := &bpf.SocketPortClasses{Tcp: *t.TCP, Udp: *t.UDP}
	if err := s.inners[innerPorts].Put(uint32(0), ports); err != nil {
		return fmt.Errorf("fill port classes: %w", err)
	}
	if err := fillArray(s.inners[innerVerdict], t.Verdicts); err != nil {
		return fmt.Errorf("fill verdicts: %w", err)
	}
	entries := make([]bpf.SocketEntry, len(t.Entries))
	for i, e := range t.Entries {
		entries[i] = rawEntry(e)
	}
	if err := fillArray(s.inners[innerEntry], entries); err != nil {
		return fmt.Errorf("fill entries: %w", err)
	}
	channels := make([]bpf.SocketChannel, len(t.Channels))
	for i, c := range t.Channels {
		channels[i] = rawChannel(c)
	}
	if err := fillArray(s.inners[innerChannel], channels); err != nil {
		return fmt.Errorf("fill channels: %w", err)
	}
	return fillNames(s.inners[innerName], t.Names)
}

// fillRows writes every prefix into a trie.
func fillRows[K any](trie *ebpf.Map, rows Rows, key func(netip.Prefix) K) error {
	w := batch[K, uint32]{m: trie}
	for prefix, row := range rows.All {
		if err := w.put(key(prefix), row); err != nil {
			return err
		}
	}
	return w.flush()
}

// fillArray writes values to the indexes from 0.
func fillArray[V any](array *ebpf.Map, values []V) error {
	w := batch[uint32, V]{m: array}
	for i, v := range values {
		if err := w.put(uint32(i), v); err != nil {
			return err
		}
	}
	return w.flush()
}

// batch collects elements and writes them with few system calls.
type batch[K, V any] struct {
	m       *ebpf.Map
	keys    []K
	values  []V
	singles bool // the kernel cannot batch this map type
}

func (b *batch[K, V]) put(key K, value V) error {
	b.keys, b.values = append(b.keys, key), append(b.values, value)
	if len(b.keys) < chunk {
		return nil
	}
	return b.flush()
}

// flush writes what is collected. A batch that the kernel refuses or breaks off
// goes on singly: a trie cannot batch before 5.13, and where it can, it may run
// out of its small reserve of free nodes in the middle of one (6.14 and later).
func (b *batch[K, V]) flush() error {
	var done int
	if !b.singles && len(b.keys) > 1 {
		n, err := b.m.BatchUpdate(b.keys, b.values, nil)
		b.singles = errors.Is(err, ebpf.ErrNotSupported)
		if done = n; b.singles {
			done = 0
		}
	}
	for i := done; i < len(b.keys); i++ {
		if err := b.m.Put(&b.keys[i], &b.values[i]); err != nil {
			return err
		}
	}
	b.keys, b.values = b.keys[:0], b.values[:0]
	return nil
}

// errReadBack says that the kernel holds something else than was written.
var errReadBack = errors.New("kernel table differs from what was written")

// samples is how many elements of each large table are read back.
const samples = 256

// verify reads back the port table, the entries, and a spread of the rest.
func (s *slot) verify(t *Tables) error {
	var ports bpf.SocketPortClasses
	if err := s.inners[innerPorts].Lookup(uint32(0), &ports); err != nil {
		return fmt.Errorf("read back port classes: %w", err)
	}
	if ports.Tcp != *t.TCP || ports.Udp != *t.UDP {
		return fmt.Errorf("port classes: %w", errReadBack)
	}
	for i := range spread(len(t.Verdicts)) {
		var cell uint32
		if err := s.inners[innerVerdict].Lookup(uint32(i), &cell); err != nil {
			return fmt.Errorf("read back verdict %d: %w", i, err)
		}
		if cell != t.Verdicts[i] || int(cell) > len(t.Entries) {
			return fmt.Errorf("verdict %d: %w", i, errReadBack)
		}
	}
	for i := range spread(len(t.Entries)) {
		var raw bpf.SocketEntry
		if err := s.inners[innerEntry].Lookup(uint32(i), &raw); err != nil {
			return fmt.Errorf("read back entry %d: %w", i, err)
		}
		if raw != rawEntry(t.Entries[i]) {
			return fmt.Errorf("entry %d: %w", i, errReadBack)
		}
	}
	if err := verifyNames(s.inners[innerName], t); err != nil {
		return err
	}
	if err := verifyRows(s.inners[innerPrefix4], t.IPv4, key4); err != nil {
		return err
	}
	return verifyRows(s.inners[innerPrefix6], t.IPv6, key6)
}

// verifyRows looks up whole prefixes: a trie that lost one answers with its
// parent's row.
func verifyRows[K any](trie *ebpf.Map, rows Rows, key func(netip.Prefix) K) error {
	step := max(rows.Len/samples, 1)
	i := 0
	for prefix, want := range rows.All {
		if i++; (i-1)%step != 0 {
			continue
		}
		var row uint32
		if err := trie.Lookup(key(prefix), &row); err != nil {
			return fmt.Errorf("read back prefix %s: %w", prefix, err)
		}
		if row != want {
			return fmt.Errorf("prefix %s: %w", prefix, errReadBack)
		}
	}
	if i != rows.Len {
		return fmt.Errorf("%d prefixes announced, %d came: %w", rows.Len, i, errReadBack)
	}
	return nil
}

// spread yields about samples indexes below n, the first and the last included.
func spread(n int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		if n == 0 {
			return
		}
		for i := 0; i < n-1; i += max(n/samples, 1) {
			if !yield(i) {
				return
			}
		}
		yield(n - 1)
	}
}
