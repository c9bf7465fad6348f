package agent

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	kernel "github.com/bpfacq/bpfacq/maps"
)

// flip puts the tables of a policy in force, with all names in them, by store. On
// an error all is as it was. A pool that cannot be opened is no error:
// addresses are acquired without names.
func (n *names) flip(g *naming, from poolRange, t *kernel.Tables, store func() (uint32, error)) error {
	n.writing.Lock()
	defer n.writing.Unlock()
	before := n.from
	if g.poolErr = n.reopen(from); g.poolErr != nil {
		n.log.Error("open synthetic addresses", slog.Any("error", g.poolErr))
		if len(g.policy.PrivateDNS) == 0 {
			g.queried, g.cause = false, g.poolErr.Error()
		}
	}
	g.pool, g.ipv6 = n.pool, from.ipv6.IsValid()
	filled := n.fill(g, t)

	var err error
	if g.generation, err = store(); err != nil {
		if old := n.current.Load(); old != nil && !from.equal(before) {
			restored := *old
			restored.poolErr = n.reopen(before)
			restored.pool = n.pool
			err = errors.Join(err, restored.poolErr)
			n.current.Store(&restored)
		}
		return err
	}
	n.book.Lock()
	n.known, n.owner = filled, make(map[netip.Addr]string, len(filled))
	for name, e := range filled {
		n.owner[e.address.IPv4] = name
	}
	n.book.Unlock()
	n.current.Store(g)
	close(n.renewed)
	n.renewed = make(chan struct{})
	return nil
}

// reopen makes n.pool that of a range. The caller holds n.writing.
func (n *names) reopen(from poolRange) error {
	if n.from.equal(from) && (n.pool != nil || from.path == "") {
		return nil
	}
	n.close()
	n.from = from
	var err error
	n.pool, err = n.open(from)
	return err
}

// close closes the pool. Whoever still has it can ask it for names.
func (n *names) close() {
	if n.pool != nil {
		n.pool.Close() // which has written everything before
		n.pool = nil
	}
}

// inherit reads the original addresses that a predecessor left in the kernel's
// tables, so that its names lead there before they are asked for again.
func (n *names) inherit(m *kernel.Maps) error {
	view, err := m.View()
	if errors.Is(err, kernel.ErrNoPolicy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer view.Close()
	n.left = make(map[netip.Addr]netip.Addr)
	for name, err := range view.Names() {
		if err != nil {
			return err
		}
		if name.Original.IsValid() {
			n.left[name.Addr] = name.Original
		}
	}
	return nil
}

// fill adds the names of the pool to tables, and returns them. What is known of
// original addresses stays. The caller holds n.writing.
func (n *names) fill(g *naming, t *kernel.Tables) map[string]named {
	filled := make(map[string]named)
	defer func() { n.left = nil }()
	if g.pool != nil {
		if stats := g.pool.Stats(); stats.Used == stats.Capacity {
			n.left = nil // an address may have changed hands as the predecessor died
		}
		was := n.snapshot()
		add := func(cells []uint32) (uint32, error) {
			row := len(t.Verdicts)
			t.Verdicts = append(t.Verdicts, cells...)
			return uint32(row), nil
		}
		t.Verdicts = slices.Clip(t.Verdicts) // the compiled policy keeps its own
		for name, a := range g.pool.All() {
			e, ok := was[name]
			if !ok {
				e.ipv4, e.ipv6 = n.left[a.IPv4], n.left[a.IPv6]
				e.asked = e.ipv4.IsValid() || e.ipv6.IsValid()
			}
			e.address = a
			filled[name] = e
			for _, row := range e.rows(g, name) {
				number, _ := g.row(row.cells, add)
				t.Names = append(t.Names, kernel.Name{Addr: row.addr, Original: row.original, Row: number})
			}
		}
		t.SpareRows = max(spareRows, len(g.rows))
		// Room costs next to nothing: the kernel takes memory when a name comes.
		t.SpareNames = max(0, families*g.pool.Stats().Capacity-len(t.Names))
	}
	return filled
}

func (n *names) snapshot() map[string]named {
	n.book.RLock()
	defer n.book.RUnlock()
	return maps.Clone(n.known)
}

// spareRows is how many rows there is room for beside those of the names that are
// known when a policy is stored, at least: otherwise as many again.
const spareRows = 64

// families is how many synthetic addresses a name has at most.
const families = 2
