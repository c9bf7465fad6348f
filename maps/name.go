package maps

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/bpf"
)

// Errors of writing names.
var (
	// ErrGeneration says that a generation is not the one in force, or that
	// another process stored it.
	ErrGeneration = errors.New("generation is not in force")

	// ErrRowsFull says that the verdict table has no spare row left: the
	// policy must be stored again, with more.
	ErrRowsFull = errors.New("verdict table has no spare row")

	// ErrNamesFull says that the table of names has no room left: the policy
	// must be stored again, with more.
	ErrNamesFull = errors.New("table of names is full")
)

// Name is what the programs know of one synthetic address.
type Name struct {
	Addr     netip.Addr // the synthetic address
	Original netip.Addr // of the same family, outside the pools; the zero Addr is none
	Row      uint32     // of the verdict table, already multiplied by its width
}

// room is what is left of the verdict table of a generation, in cells.
type room struct {
	generation uint32 // 0 for none
	width      int
	next, end  int
}

// AppendRow writes cells, one for each port class, into the first spare row of
// the verdict table of the generation in force, and returns the row as Name has
// it. No flow meets the row before PutName names it. The error is ErrGeneration or
// ErrRowsFull; neither has changed anything.
//
// AppendRow, PutName, DeleteName and Store may be called concurrently: a lock
// keeps each of them whole, so that a slot is never written after another
// generation has taken it. What the caller decided under one generation is refused
// under the next.
func (m *Maps) AppendRow(generation uint32, cells []uint32) (row uint32, err error) {
	err = m.inForce(generation, innerVerdict, func(verdicts *ebpf.Map) error {
		if len(cells) != m.live.width {
			return fmt.Errorf("row of %d cells for %d port classes", len(cells), m.live.width)
		}
		if m.live.next+m.live.width > m.live.end {
			return ErrRowsFull
		}
		row = uint32(m.live.next)
		for i, cell := range cells {
			if err := verdicts.Put(row+uint32(i), cell); err != nil {
				return err
			}
		}
		m.live.next += m.live.width
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("append verdict row: %w", err)
	}
	return row, nil
}

// PutName adds or replaces a synthetic address of the generation in force. The
// error is ErrGeneration, or ErrNamesFull.
func (m *Maps) PutName(generation uint32, n Name) error {
	raw, err := rawName(n)
	if err != nil {
		return err
	}
	err = m.inForce(generation, innerName, func(names *ebpf.Map) error {
		if int(n.Row)+m.live.width > m.live.next {
			return fmt.Errorf("row %d was never written", n.Row)
		}
		if err := names.Put(nameKey(n.Addr), &raw); errors.Is(err, unix.E2BIG) {
			return ErrNamesFull
		} else if err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write name of %s: %w", n.Addr, err)
	}
	return nil
}

// DeleteName forgets a synthetic address of the generation in force: flows to it
// are refused from then on. One that is not there is fine. The error is
// ErrGeneration.
func (m *Maps) DeleteName(generation uint32, addr netip.Addr) error {
	err := m.inForce(generation, innerName, func(names *ebpf.Map) error {
		return absentIsFine(names.Delete(nameKey(addr)))
	})
	if err != nil {
		return fmt.Errorf("delete name of %s: %w", addr, err)
	}
	return nil
}

// inForce lets write change one inner map of a generation, if that is the one in
// force and this process stored it.
func (m *Maps) inForce(generation uint32, index int, write func(*ebpf.Map) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	current, err := m.Generation()
	if err != nil {
		return err
	}
	if generation == 0 || generation != current || generation != m.live.generation {
		return fmt.Errorf("%w: %d, not %d", ErrGeneration, current, generation)
	}
	opened, err := inner(m.outers()[index], generation)
	if err != nil {
		return err
	}
	defer opened.Close()
	return write(opened)
}

func absentIsFine(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

func nameKey(addr netip.Addr) bpf.SocketNameKey { return bpf.SocketNameKey{Addr: addr.As16()} }

func rawName(n Name) (bpf.SocketName, error) {
	raw := bpf.SocketName{Row: n.Row}
	if n.Original.IsValid() {
		if n.Original.Is4() != n.Addr.Is4() {
			return raw, fmt.Errorf("original address %s of %s is of another family", n.Original, n.Addr)
		}
		raw.OrigAddr, raw.HasOrig = n.Original.As16(), 1
	}
	return raw, nil
}

func newName(key bpf.SocketNameKey, raw *bpf.SocketName) Name {
	n := Name{Addr: netip.AddrFrom16(key.Addr).Unmap(), Row: raw.Row}
	if raw.HasOrig != 0 {
		n.Original = netip.AddrFrom16(raw.OrigAddr).Unmap()
	}
	return n
}

func fillNames(table *ebpf.Map, names []Name) error {
	w := batch[bpf.SocketNameKey, bpf.SocketName]{m: table}
	for _, n := range names {
		raw, err := rawName(n)
		if err == nil {
			err = w.put(nameKey(n.Addr), raw)
		}
		if err != nil {
			return fmt.Errorf("fill names: %w", err)
		}
	}
	if err := w.flush(); err != nil {
		return fmt.Errorf("fill names: %w", err)
	}
	return nil
}

func verifyNames(table *ebpf.Map, t *Tables) error {
	for i := range spread(len(t.Names)) {
		want := t.Names[i]
		var raw bpf.SocketName
		if err := table.Lookup(nameKey(want.Addr), &raw); err != nil {
			return fmt.Errorf("read back name of %s: %w", want.Addr, err)
		}
		if newName(nameKey(want.Addr), &raw) != want || int(want.Row)+t.Width > len(t.Verdicts) {
			return fmt.Errorf("name of %s: %w", want.Addr, errReadBack)
		}
	}
	return nil
}

// Names yields all that the generation knows of synthetic addresses. The error
// is the last element.
func (v *View) Names() iter.Seq2[Name, error] {
	return func(yield func(Name, error) bool) {
		var key bpf.SocketNameKey
		var raw bpf.SocketName
		elements := v.inners[innerName].Iterate()
		for elements.Next(&key, &raw) {
			if !yield(newName(key, &raw), nil) {
				return
			}
		}
		if err := elements.Err(); err != nil {
			yield(Name{}, fmt.Errorf("walk names: %w", err))
		}
	}
}

// Name finds what a synthetic address stands for, and false if it is unknown.
func (v *View) Name(addr netip.Addr) (Name, bool, error) {
	key := nameKey(addr)
	var raw bpf.SocketName
	err := v.inners[innerName].Lookup(key, &raw)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Name{}, false, nil
	}
	if err != nil {
		return Name{}, false, fmt.Errorf("look up name of %s: %w", addr, err)
	}
	return newName(key, &raw), true, nil
}
