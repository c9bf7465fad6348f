package hostname

import (
	"cmp"
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Table holds the names that were asked for most recently. All methods may be
// called concurrently.
type Table struct {
	size int

	mu      sync.Mutex
	entries map[string]*entry
	passed  list.List // of *entry that are not acquired, the last used first
	taken   list.List // of those that are
}

type entry struct {
	Hostname
	synthetic [2]netip.Addr
	in        *list.List // passed or taken
	place     *list.Element
}

// NewTable returns an empty table of the given size, DefaultSize if that is not
// positive.
func NewTable(size int) *Table {
	if size <= 0 {
		size = DefaultSize
	}
	return &Table{size: size, entries: make(map[string]*entry)}
}

// Seen notes a query. In a full table a new name takes the place of the one
// that was unused longest, of those that are not acquired while there are any.
func (t *Table) Seen(q Query) {
	name, ok := policy.CanonicalName(q.Name)
	if !ok {
		return
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[name]
	if e == nil {
		e = t.enter(name, now, q.Acquired)
	}
	e.note(q, now)
	t.touch(e)
}

// Flow notes a flow to the name, unless the table does not hold it.
func (t *Table) Flow(name string) {
	t.update(name, func(e *entry) {
		e.Flows++
		t.touch(e)
	})
}

// Learned notes the original address of the name, which became known after the
// answer, unless the table does not hold the name.
func (t *Table) Learned(name string, original netip.Addr) {
	t.update(name, func(e *entry) { e.Original = original })
}

func (t *Table) update(name string, change func(*entry)) {
	name, ok := policy.CanonicalName(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[name]; ok && e != nil {
		change(e)
	}
}

// Snapshot returns the names as they are now, sorted.
func (t *Table) Snapshot() []Hostname {
	t.mu.Lock()
	names := make([]Hostname, 0, len(t.entries))
	for _, e := range t.entries {
		names = append(names, e.hostname())
	}
	t.mu.Unlock()
	slices.SortFunc(names, func(a, b Hostname) int { return cmp.Compare(a.Name, b.Name) })
	return names
}

// enter makes room for a name, and adds it. The caller holds the lock.
func (t *Table) enter(name string, now time.Time, acquired bool) *entry {
	if len(t.entries) >= t.size {
		from := &t.passed
		if from.Len() == 0 {
			from = &t.taken
		}
		oldest := from.Remove(from.Back()).(*entry)
		delete(t.entries, oldest.Name)
	}
	e := &entry{Hostname: Hostname{Name: name, First: now, Acquired: acquired}}
	e.in = t.list(e)
	e.place = e.in.PushFront(e)
	t.entries[name] = e
	return e
}

// touch puts an entry at the front of the list in which it belongs now. The
// caller holds the lock.
func (t *Table) touch(e *entry) {
	if to := t.list(e); to == e.in {
		to.MoveToFront(e.place)
	} else {
		e.in.Remove(e.place)
		e.in, e.place = to, to.PushFront(e)
	}
}

func (t *Table) list(e *entry) *list.List {
	if e.Acquired {
		return &t.taken
	}
	return &t.passed
}

// note takes over what a query says, and keeps what it is silent about.
func (e *entry) note(q Query, now time.Time) {
	e.Queries++
	e.Last, e.Rcode = now, q.Rcode
	e.Acquired, e.Rule, e.Channel = q.Acquired, q.Rule, q.Channel
	if !q.Acquired {
		e.synthetic = [2]netip.Addr{}
	}
	for i, addr := range q.Synthetic {
		if addr.IsValid() {
			e.synthetic[i] = addr
		}
	}
	if q.Original.IsValid() {
		e.Original = q.Original
	}
	if q.HasAsker {
		e.PID, e.UID = q.PID, q.UID
	}
}

// hostname returns a copy for others.
func (e *entry) hostname() Hostname {
	h := e.Hostname
	for _, addr := range e.synthetic {
		if addr.IsValid() {
			h.Synthetic = append(h.Synthetic, addr)
		}
	}
	return h
}
