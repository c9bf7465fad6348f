package flow

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/cpu"
)

// DefaultEnded is how many ended flows a table remembers unless told.
const DefaultEnded = 1024

// shards is a power of two: enough that a reader who copies one shard holds up
// a sixteenth of the new flows.
const shards = 16

// Table holds the live flows and the most recently ended ones. All methods may
// be called concurrently.
type Table struct {
	lastID atomic.Uint64
	opened func(*Live)
	shards [shards]shard

	// ended is a ring. Its slots are pointers to flows that no longer
	// change, so neither writer nor reader needs a lock.
	ended     []atomic.Pointer[Live]
	lastEnded atomic.Uint64
}

// shard holds the live flows whose ID has the same remainder, and what the
// ended ones of them add up to. A flow moves from one to the other under the
// lock, so totals never count it twice or miss it.
type shard struct {
	mu    sync.Mutex
	live  map[uint64]*Live
	ended [UDP + 1]Totals // by protocol
	_     cpu.CacheLinePad
}

// NewTable returns an empty table that remembers the given number of ended
// flows, DefaultEnded if that is not positive.
func NewTable(ended int) *Table {
	if ended <= 0 {
		ended = DefaultEnded
	}
	t := &Table{ended: make([]atomic.Pointer[Live], ended)}
	for i := range t.shards {
		t.shards[i].live = make(map[uint64]*Live)
	}
	return t
}

// OnOpen has f called with each flow that is opened. It is called once, before the
// first. f may be called concurrently, and must not block.
func (t *Table) OnOpen(f func(*Live)) { t.opened = f }

// Open adds a flow. Its owner must call Close on it.
func (t *Table) Open(rec Record) *Live {
	l := &Live{table: t, id: t.lastID.Add(1), record: rec, started: time.Now()}
	s := t.shard(l)
	s.mu.Lock()
	s.live[l.id] = l
	s.mu.Unlock()
	if t.opened != nil {
		t.opened(l)
	}
	return l
}

// retire moves a flow to the ring before it leaves its shard, so that a
// Snapshot taken meanwhile finds it in at least one of them.
func (t *Table) retire(l *Live) {
	slot := (t.lastEnded.Add(1) - 1) % uint64(len(t.ended))
	t.ended[slot].Store(l)

	s := t.shard(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, l.id)
	s.ended[l.record.Protocol].add(l)
}

func (t *Table) shard(l *Live) *shard { return &t.shards[l.id%shards] }

// Snapshot returns the live flows and the remembered ended ones, oldest first.
func (t *Table) Snapshot() []Flow {
	var seen []*Live
	for i := range t.shards {
		seen = t.shards[i].appendLive(seen)
	}
	for i := range t.ended {
		if l := t.ended[i].Load(); l != nil {
			seen = append(seen, l)
		}
	}
	// A flow that ends between the two loops is in both.
	slices.SortFunc(seen, func(a, b *Live) int { return cmp.Compare(a.id, b.id) })
	seen = slices.Compact(seen)

	flows := make([]Flow, len(seen))
	for i, l := range seen {
		flows[i] = l.Flow()
	}
	return flows
}

func (s *shard) appendLive(seen []*Live) []*Live {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.AppendSeq(seen, maps.Values(s.live))
}

// Totals counts the flows of a table: the live ones now, the others since the
// table was made. Bytes are those of all flows, live ones included.
type Totals struct {
	Active, Closed, Reset, Refused, Failed uint64
	BytesSent, BytesReceived               uint64
	DatagramsSent, DatagramsReceived       uint64 // of UDP
}

// Totals adds up the whole table. Every field but Active never decreases.
func (t *Table) Totals() Totals {
	sum := t.TotalsOf(TCP)
	sum.join(t.TotalsOf(UDP))
	return sum
}

// TotalsOf adds up the flows of a protocol, as Totals does.
func (t *Table) TotalsOf(p Protocol) Totals {
	var sum Totals
	for i := range t.shards {
		t.shards[i].addTo(&sum, p)
	}
	return sum
}

func (s *shard) addTo(sum *Totals, p Protocol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum.join(s.ended[p])
	for _, l := range s.live {
		if l.record.Protocol == p {
			sum.Active++
			sum.count(l)
		}
	}
}

// join adds the figures of other.
func (sum *Totals) join(other Totals) {
	sum.Active += other.Active
	sum.Closed += other.Closed
	sum.Reset += other.Reset
	sum.Refused += other.Refused
	sum.Failed += other.Failed
	sum.BytesSent += other.BytesSent
	sum.BytesReceived += other.BytesReceived
	sum.DatagramsSent += other.DatagramsSent
	sum.DatagramsReceived += other.DatagramsReceived
}

// count adds what a flow has carried.
func (sum *Totals) count(l *Live) {
	sum.BytesSent += l.sent.bytes.Load()
	sum.BytesReceived += l.received.bytes.Load()
	sum.DatagramsSent += l.sent.datagrams.Load()
	sum.DatagramsReceived += l.received.datagrams.Load()
}

// add counts a flow that ended.
func (sum *Totals) add(l *Live) {
	switch l.end.Load().outcome.State {
	case StateClosed:
		sum.Closed++
	case StateReset:
		sum.Reset++
	case StateRefused:
		sum.Refused++
	default: // an ending without a state is a failure: it must show up somewhere
		sum.Failed++
	}
	sum.count(l)
}
