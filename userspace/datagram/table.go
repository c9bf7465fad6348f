package datagram

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// evictable is for how long a flow carries nothing before another one may
	// take its room, in nanoseconds.
	evictable = int64(5 * time.Second)

	// evictions is how many flows make room at once, or an evictShare of the limit
	// if that is more: to find them all are looked at, which must not happen often
	// when somebody asks the whole network.
	evictions  = 64
	evictShare = 64

	// fullPause is how long it is not looked for room again after there was none, in
	// nanoseconds.
	fullPause = int64(100 * time.Millisecond)
)

// table holds the flows of a relay.
type table struct {
	limits Limits

	mu     sync.RWMutex
	closed bool
	flows  map[Key]*carried
	shares map[netip.Addr]int // of the sources, in flows

	// Until full there is no room for sources with more flows than spare. That is
	// -1 when nobody has a flow to spare.
	full  int64
	spare int

	counts Stats
}

func newTable(l Limits) *table {
	l.Flows = cmp.Or(l.Flows, DefaultFlows)
	l.Idle = cmp.Or(l.Idle, DefaultIdle)
	l.StreamIdle = cmp.Or(l.StreamIdle, DefaultStreamIdle)
	return &table{limits: l, flows: make(map[Key]*carried), shares: make(map[netip.Addr]int)}
}

// find returns the flow of a key, or nil.
func (t *table) find(key Key) *carried {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.flows[key]
}

// add returns the flow of a key, a new one by make if there is none. Without room
// it returns nil. What had to go for it is for the caller to end.
func (t *table) add(key Key, now int64, make func() *carried) (f *carried, fresh bool, evicted []*carried) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.flows[key]; f != nil {
		return f, false, nil
	}
	if t.closed {
		return nil, false, nil
	}
	if len(t.flows) >= t.limits.Flows {
		if evicted = t.evict(now, key.Source.Addr()); len(evicted) == 0 {
			t.counts.Refused++
			return nil, false, nil
		}
	}
	f = make()
	t.flows[key] = f
	t.shares[key.Source.Addr()]++
	return f, true, evicted
}

// forget takes out a flow that is in. The caller holds t.mu.
func (t *table) forget(f *carried) {
	delete(t.flows, f.key)
	source := f.key.Source.Addr()
	if t.shares[source]--; t.shares[source] == 0 {
		delete(t.shares, source)
	}
}

// evict takes out the longest idle flows of the source that has most flows, of those
// that have idle ones. A source takes no room from those that have fewer flows. The
// caller holds t.mu.
func (t *table) evict(now int64, newcomer netip.Addr) []*carried {
	share := t.shares[newcomer]
	if now < t.full && share > t.spare {
		return nil
	}
	idle := make(map[netip.Addr][]*carried)
	var most netip.Addr
	for _, f := range t.flows {
		if now-f.used.Load() < evictable {
			continue
		}
		source := f.key.Source.Addr()
		idle[source] = append(idle[source], f)
		if t.shares[source] > t.shares[most] {
			most = source
		}
	}
	victims := idle[most]
	spare := t.shares[most]
	if len(victims) == 0 {
		spare = -1
	}
	if share > spare {
		t.full, t.spare = now+fullPause, spare
		return nil
	}
	slices.SortFunc(victims, func(a, b *carried) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	victims = victims[:min(len(victims), max(evictions, t.limits.Flows/evictShare))]
	for _, f := range victims {
		t.forget(f)
	}
	t.counts.Evicted += uint64(len(victims))
	return victims
}

// expire takes out the flows that were idle for too long.
func (t *table) expire(now int64) []*carried {
	var old []*carried
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		if now-f.used.Load() >= int64(f.patience(t.limits)) {
			t.forget(f)
			old = append(old, f)
			if !f.spent.Load() {
				t.counts.Expired++
			}
		}
	}
	return old
}

// remove takes out a flow, unless its key is another one's by now.
func (t *table) remove(f *carried) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] == f {
		t.forget(f)
	}
}

func (t *table) all() []*carried {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.flows))
}

// shut takes out all flows, and takes no more.
func (t *table) shut() []*carried {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	all := slices.Collect(maps.Values(t.flows))
	clear(t.flows)
	clear(t.shares)
	return all
}

func (t *table) stats() Stats {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s := t.counts
	s.Flows = len(t.flows)
	return s
}
