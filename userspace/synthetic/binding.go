package synthetic

import (
	"container/heap"
	"net/netip"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// answerLife is how long an answer is valid that an earlier process gave: no
// less than the TTL of any.
const answerLife = time.Minute

// state says whether a name's right to its number is on disk.
type state uint8

const (
	settled  state = iota // it is
	arriving              // it is about to be
	leaving               // it is, and about to be given to another
)

// binding is a name and its number. The pool's lock guards what changes.
type binding struct {
	name   string
	number uint32
	serial uint64 // in the order of the log

	state  state
	batch  *batch   // that ends the state, unless it is settled
	ousted *binding // that had the number until then

	flows int
	quiet time.Duration // since the pool was opened: when the last use ends
	place int           // in the idle ones, or nowhere
}

const nowhere = -1

// idle is a heap of the settled bindings that no flow holds: the one that was
// unused longest is first.
type idle []*binding

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (h idle) Len() int { return len(h) }

func (h idle) Less(i, j int) bool {
	if h[i].quiet != h[j].quiet {
		return h[i].quiet < h[j].quiet
	}
	return h[i].serial < h[j].serial
}

func (h idle) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *idle) Push(b any) {
	last := b.(*binding)
	last.place = len(*h)
	*h = append(*h, last)
}

func (h *idle) Pop() any {
	end := len(*h) - 1
	last := (*h)[end]
	(*h)[end] = nil
	*h = (*h)[:end]
	last.place = nowhere
	return last
}

// used notes a use that ends at a time. The caller holds the lock.
func (p *Pool) used(b *binding, until time.Duration) {
	b.quiet = max(b.quiet, until)
	if b.place != nowhere {
		heap.Fix(&p.idle, b.place)
	}
}

// clock returns the time since the pool was opened. The caller holds the lock.
func (p *Pool) clock() time.Duration {
	p.elapsed = max(p.elapsed, p.now().Sub(p.opened))
	return p.elapsed
}

// owner returns the binding of an address, or nil: also while the address is
// about to change hands. The caller holds the lock.
func (p *Pool) owner(addr netip.Addr) *binding {
	n, ok := p.span.number(addr)
	if b := p.numbers[n]; ok && b != nil && b.state == settled {
		return b
	}
	return nil
}

// Answered notes that an answer with the address of name is valid until a time,
// which should have a monotonic part, as all of time.Now have. It reports false
// if the name has no address, or is about to lose it. So ask before the answer
// leaves, unless Assign has just returned.
func (p *Pool) Answered(name string, until time.Time) bool {
	name, ok := policy.CanonicalName(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.names[name]
	if !ok || b == nil || b.state != settled {
		return false
	}
	now := p.clock()
	p.used(b, max(now, now+until.Sub(p.now())))
	return true
}

// Hold keeps an address with its name until release is called, as a flow needs
// it. Ask for the name after Hold, not before. It reports false, with a release
// that does nothing, if the address stands for no name: refuse the flow. Release may be called
// more than once, and after Close.
func (p *Pool) Hold(addr netip.Addr) (release func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.owner(addr)
	if b == nil {
		return func() {}, false
	}
	if b.flows++; b.flows == 1 {
		heap.Remove(&p.idle, b.place)
		p.held++
	}
	return sync.OnceFunc(func() { p.release(b) }), true
}

func (p *Pool) release(b *binding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used(b, p.clock())
	if b.flows--; b.flows == 0 {
		heap.Push(&p.idle, b)
		p.held--
	}
}

// Flows returns how many flows hold an address of name.
func (p *Pool) Flows(name string) int {
	name, ok := policy.CanonicalName(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.names[name]; ok && b != nil {
		return b.flows
	}
	return 0
}
