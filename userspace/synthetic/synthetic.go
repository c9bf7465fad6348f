// Package synthetic gives names addresses that stand for them, out of a pool,
// and remembers on disk which name has which.
//
// An address belongs to one name. It is on disk before [Pool.Assign] returns it,
// so that a name has the same address after a crash, and no other name can have
// it. A name keeps its address for as long as possible: only when the pool is
// full does the one that was unused longest lose it, no sooner than an hour
// after its last answer has expired and its last flow has ended.
package synthetic

import (
	"cmp"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Errors of a Pool, to be compared with errors.Is.
var (
	ErrName   = errors.New("use name")                              // is none: see policy.CanonicalName
	ErrFull   = errors.New("find an unused address")                // each is in use, or was within the hour
	ErrClosed = errors.New("use closed pool")                       // after Close
	ErrInUse  = errors.New("wait for another pool")                 // that is open in the same folder
	ErrFormat = errors.New("read synthetic addresses of a version") // of a later release
)

// MaxNames is how many names a Pool holds at most, however large its prefix is.
const MaxNames = 1 << 17

// Rest is how long an address is unused, after its last answer has expired and
// its last flow has ended, before another name can get it.
const Rest = time.Hour

// Options say what a Pool consists of.
type Options struct {
	// Path is the file on which names and addresses are recorded. Its folder
	// must exist, and is locked while the Pool is open.
	Path string

	// IPv4 is where addresses come from: 8 to 30 bits, without host bits.
	// Its first and last address are never given out.
	IPv4 netip.Prefix

	// IPv6, if valid, gives each name a second address, that of the same
	// number in the prefix. So it has at least the host bits of IPv4.
	IPv6 netip.Prefix

	// Reserved addresses are never given out. Those outside of the pool do
	// not matter.
	Reserved []netip.Addr

	Log *slog.Logger     // nil discards
	Now func() time.Time // nil is time.Now, whose monotonic part is what counts

	open  func(path string, flag int) (file, error) // of tests
	slack int64                                     // of tests: see defaultSlack
}

// Address is what stands for a name.
type Address struct {
	IPv4 netip.Addr
	IPv6 netip.Addr // zero unless the pool has an IPv6 prefix
}

// Stats describe a Pool at one moment.
type Stats struct {
	Capacity int    // names that the pool has addresses for
	Used     int    // names that have one
	Held     int    // names of which a flow uses one
	Full     uint64 // calls of Assign that ErrFull answered

	LogSize int64 // bytes on disk
	LogErr  error // why the last address could not be recorded; nil if it was

	Syncs    uint64        // writes to the disk, of one record or many
	SyncTime time.Duration // that they took together
	SyncMax  time.Duration // that the longest one took
}

// Pool is a set of addresses and the names that they stand for. All methods may
// be called concurrently.
type Pool struct {
	log    *slog.Logger
	now    func() time.Time
	opened time.Time
	span   *span

	mu      sync.Mutex
	names   map[string]*binding
	numbers map[uint32]*binding // those that own their number, or will when it is recorded
	idle    idle
	held    int
	elapsed time.Duration // since opened: never runs back

	next    uint32        // where to look for an unused address
	serial  uint64        // of the last binding
	highest uint32        // number in the log that was found
	shaky   time.Duration // until when unused numbers up to highest rest: their names may be lost

	batch  *batch // that waits to be recorded
	closed bool
	wake   chan struct{}
	writer sync.WaitGroup

	stats  Stats // all but what is counted above
	live   int64 // bytes of the lines that are not superseded
	slack  int64
	ledger *ledger       // the writer's
	retry  time.Duration // the writer's: when to try again what failed
}

// Open returns the Pool that is recorded at opts.Path, or an empty one. Names
// whose addresses are no longer in the pool, or are reserved now, have none. They
// stay on disk until the log is written anew, for a prefix that is put back soon.
// Every name counts as just used.
//
// A log that cannot be written is no error here: known names are served, and
// Assign fails for others until it can be. Damage is logged, and a damaged
// file is kept beside the new one, as Path with ".damaged". Open returns
// ErrInUse while another Pool is open in the same folder, and ErrFormat for a
// file that a later release wrote.
func Open(opts Options) (*Pool, error) {
	span, err := newSpan(opts.IPv4, opts.IPv6, opts.Reserved)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		log:     opts.Log,
		now:     opts.Now,
		span:    span,
		names:   make(map[string]*binding),
		numbers: make(map[uint32]*binding),
		next:    span.first,
		wake:    make(chan struct{}, 1),
		slack:   cmp.Or(opts.slack, defaultSlack),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	p.opened = p.now()

	p.ledger, err = openLedger(opts.Path, opts.open)
	if err != nil {
		return nil, err
	}
	if err := p.restore(); err != nil {
		p.ledger.close()
		return nil, err
	}
	p.writer.Go(p.write)
	return p, nil
}

// Close records what is under way, and unlocks the folder. Names can be asked
// for, but not assigned, after that.
func (p *Pool) Close() error {
	p.mu.Lock()
	first := !p.closed
	if first {
		p.closed = true
		close(p.wake)
	}
	p.mu.Unlock()
	p.writer.Wait()
	if !first {
		return nil
	}
	return p.ledger.close()
}

// Lookup returns the address of name, if it has one. Only Assign counts as a
// use of it.
func (p *Pool) Lookup(name string) (Address, bool) {
	name, ok := policy.CanonicalName(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.names[name]
	if !ok || b == nil || b.state != settled {
		return Address{}, false
	}
	return p.span.address(b.number), true
}

// Name returns the name that an address of either family stands for, as
// policy.CanonicalName has it.
func (p *Pool) Name(addr netip.Addr) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.owner(addr)
	if b == nil {
		return "", false
	}
	return b.name, true
}

// Contains reports whether addr lies in the pool, whether or not it stands for
// a name.
func (p *Pool) Contains(addr netip.Addr) bool { return p.span.contains(addr) }

// All returns names and addresses as they are at the call, in the order of
// addresses. The pool may be used meanwhile.
func (p *Pool) All() iter.Seq2[string, Address] {
	bindings := p.recorded()
	slices.SortFunc(bindings, func(a, b binding) int { return cmp.Compare(a.number, b.number) })
	return func(yield func(string, Address) bool) {
		for _, b := range bindings {
			if !yield(b.name, p.span.address(b.number)) {
				return
			}
		}
	}
}

// Stats returns the figures of the moment.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Capacity, s.Used, s.Held = p.span.capacity, len(p.numbers), p.held
	return s
}
