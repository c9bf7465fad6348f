package synthetic

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// batch is the names that get their addresses with one write to the disk.
type batch struct {
	bindings []*binding
	done     chan struct{} // closed when it has ended
	err      error         // may be read then
}

// Assign returns the address of name, and gives it one if it has none: that is
// on disk when Assign returns, together with those of concurrent calls. Name is
// one of policy.CanonicalName. It counts as a use of the address.
//
// Assign returns ErrName, ErrFull, ErrClosed, the context's error, or why the
// address was not recorded. After the context's error the name may have got one.
func (p *Pool) Assign(ctx context.Context, name string) (Address, error) {
	canonical, ok := policy.CanonicalName(name)
	if !ok {
		return Address{}, fmt.Errorf("%w: %q", ErrName, name)
	}
	for {
		b, wait, err := p.claim(canonical)
		if err != nil {
			return Address{}, err
		}
		if wait == nil {
			return p.span.address(b.number), nil
		}
		select {
		case <-ctx.Done():
			return Address{}, ctx.Err()
		case <-wait.done:
		}
		switch {
		case b == nil: // the name has just lost its address, or kept it
		case wait.err != nil:
			return Address{}, wait.err
		default:
			return p.span.address(b.number), nil
		}
	}
}

// claim returns the binding of a name, and the batch that records it if that is
// under way. A batch without a binding is one to be waited for before another
// try.
func (p *Pool) claim(name string) (*binding, *batch, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock()
	if b := p.names[name]; b != nil {
		switch b.state {
		case arriving:
			return b, b.batch, nil
		case leaving:
			return nil, b.batch, nil
		}
		p.used(b, now)
		return b, nil, nil
	}
	if p.closed {
		return nil, nil, ErrClosed
	}
	b, err := p.arrive(name, now)
	if err != nil {
		return nil, nil, err
	}
	return b, b.batch, nil
}

// arrive gives a name a number that waits to be recorded. The caller holds the
// lock.
func (p *Pool) arrive(name string, now time.Duration) (*binding, error) {
	b := &binding{name: name, state: arriving, place: nowhere}
	if n, ok := p.vacant(now); ok {
		b.number, p.next = n, n+1
		p.numbers[n] = b
	} else if b.ousted = p.oust(now); b.ousted != nil {
		b.number = b.ousted.number
	} else {
		p.stats.Full++
		return nil, ErrFull
	}
	if p.batch == nil {
		p.batch = &batch{done: make(chan struct{})}
	}
	p.serial++
	b.serial, b.batch = p.serial, p.batch
	if b.ousted != nil {
		b.ousted.state, b.ousted.batch = leaving, p.batch
	}
	p.batch.bindings = append(p.batch.bindings, b)
	p.names[name] = b
	select {
	case p.wake <- struct{}{}:
	default: // the writer has yet to begin
	}
	return b, nil
}

// vacant finds a number that is nobody's, the one that was unused longest as
// far as the order of numbers tells. The caller holds the lock.
func (p *Pool) vacant(now time.Duration) (n uint32, ok bool) {
	if len(p.numbers) >= p.span.capacity {
		return 0, false
	}
	first := p.span.first
	if now < p.shaky {
		first = max(first, p.highest+1)
	}
	n = max(first, p.next)
	for range len(p.numbers) + len(p.span.reserved) + 1 {
		if n > p.span.last {
			n = first
		}
		if p.numbers[n] == nil && !p.span.reserved[n] && n <= p.span.last {
			return n, true
		}
		n++
	}
	return 0, false
}

// oust takes the number of the name that was unused longest, if it has rested.
// The caller holds the lock.
func (p *Pool) oust(now time.Duration) *binding {
	if len(p.idle) == 0 || now-p.idle[0].quiet <= Rest {
		return nil
	}
	return heap.Pop(&p.idle).(*binding)
}

// settle ends a batch: its names own their numbers, or all is as before.
func (p *Pool) settle(done *batch, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock()
	for _, b := range done.bindings {
		was := b.ousted
		b.ousted, b.batch = nil, nil
		switch {
		case err == nil:
			if was != nil {
				delete(p.names, was.name)
				p.live -= was.size(p.span)
			}
			p.live += b.size(p.span)
			p.numbers[b.number] = b
			b.state, b.quiet = settled, max(b.quiet, now)
			heap.Push(&p.idle, b)
		case was != nil:
			delete(p.names, b.name)
			was.state, was.batch = settled, nil
			heap.Push(&p.idle, was)
		default:
			delete(p.names, b.name)
			delete(p.numbers, b.number)
		}
	}
	done.err = err
	close(done.done)
}
