package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	kernel "github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/dns"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/synthetic"
)

// errNoPool says that no name can be acquired at present.
var errNoPool = errors.New("no pool of synthetic addresses is open")

// names keeps names, their synthetic and their original addresses, and the
// kernel's tables of them together. It implements dns.Names.
//
// There are two locks. Writing is held while the kernel's tables are written: for
// one name, and for a policy from the moment in which its tables are filled with
// the names until it is in force. So a name is in the tables that are in force
// whenever Assign has returned, and a name that is assigned while a policy comes
// waits for it. Then book, which is held for moments only, guards what is known of
// names, so that names which have their address are answered meanwhile. Writing is
// taken before book, and Agent.apply before both.
type names struct {
	log     *slog.Logger
	kernel  nameTables
	current atomic.Pointer[naming] // nil before the first policy

	writing sync.Mutex
	pool    *synthetic.Pool
	from    poolRange
	renewed chan struct{} // closed, and replaced, when a policy has come into force
	full    chan struct{} // asks for the policy to be stored again, with more room

	left map[netip.Addr]netip.Addr // original addresses by synthetic ones, of a predecessor

	book  sync.RWMutex
	known map[string]named      // names that are in the kernel's tables
	owner map[netip.Addr]string // of the IPv4 addresses of known ones
}

// nameTables are the kernel's tables of names. *maps.Maps has them.
type nameTables interface {
	AppendRow(generation uint32, cells []uint32) (row uint32, err error)
	PutName(generation uint32, n kernel.Name) error
}

// named is what the kernel's tables have of one name.
type named struct {
	address synthetic.Address
	ipv4    netip.Addr // original addresses; zero: none, or not known
	ipv6    netip.Addr
	asked   bool // somebody asked for the name, so the original addresses are what there is
}

func newNames(tables nameTables, log *slog.Logger) *names {
	return &names{
		log:     log,
		kernel:  tables,
		renewed: make(chan struct{}),
		full:    make(chan struct{}, 1),
		known:   make(map[string]named),
		owner:   make(map[netip.Addr]string),
	}
}

// Judge implements dns.Names.
func (n *names) Judge(name string, original netip.Addr) dns.Judgement {
	j, e := n.judge(name, original)
	if !j.Acquired || !e.asked || !j.IfUnresolved && !e.ipv4.IsValid() && !e.ipv6.IsValid() {
		return j
	}
	g := n.current.Load()
	name, _ = policy.CanonicalName(name)
	// After a long rest another name may get the address just now.
	if g.pool != nil && g.pool.Answered(name, time.Now().Add(dns.TTL)) {
		j.Address = dns.Address(e.address)
	}
	return j
}

// judge says what the policy wants of a name, and what the kernel's tables have of
// it. It does not count as a use of its address.
func (n *names) judge(name string, original netip.Addr) (dns.Judgement, named) {
	g := n.current.Load()
	name, ok := policy.CanonicalName(name)
	if g == nil || g.pool == nil || !ok {
		return dns.Judgement{}, named{}
	}
	known, _ := n.find(name)
	undecided := false
	if g.policy.AlsoMatchOriginal && !original.IsValid() {
		original = known.ipv4
		undecided = !original.IsValid() && g.open(name)
	}
	index, ok := g.rule(name, original)
	if !ok {
		return dns.Judgement{Undecided: undecided}, known
	}
	rule := &g.policy.Rules[index]
	j := dns.Judgement{
		Undecided:    undecided,
		IfUnresolved: rule.AcquireIfUnresolved,
		IPv6:         g.ipv6,
		Rule:         rule.ID,
		Channel:      rule.Channel,
	}
	j.Bypassed = rule.Hardening == policy.HardeningBypass && g.epoch.routes[index].carrier.down()
	j.Acquired = !j.Bypassed
	return j, known
}

// Protected implements dns.Names.
func (n *names) Protected(name string) bool {
	g := n.current.Load()
	return g != nil && !g.open(name)
}

// find returns what the kernel's tables have of a name.
func (n *names) find(name string) (named, bool) {
	n.book.RLock()
	defer n.book.RUnlock()
	e, ok := n.known[name]
	return e, ok
}

// Assign implements dns.Names.
func (n *names) Assign(ctx context.Context, name string, original dns.Original) (dns.Address, error) {
	name, ok := policy.CanonicalName(name)
	if !ok {
		return dns.Address{}, synthetic.ErrName
	}
	for {
		address, renewed, err := n.assign(ctx, name, original)
		if err == nil {
			return dns.Address(address), nil
		}
		if !errors.Is(err, kernel.ErrRowsFull) && !errors.Is(err, kernel.ErrNamesFull) {
			return dns.Address{}, err
		}
		select {
		case n.full <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return dns.Address{}, errors.Join(err, ctx.Err())
		case <-renewed:
		}
	}
}

// assign is Assign for as long as there is room. If there is none, renewed tells
// when there may be.
func (n *names) assign(ctx context.Context, name string, original dns.Original) (a synthetic.Address, renewed <-chan struct{}, err error) {
	g := n.current.Load()
	if g == nil || g.pool == nil {
		return a, nil, errNoPool
	}
	switch a, err = g.pool.Assign(ctx, name); {
	case errors.Is(err, synthetic.ErrFull):
		return a, nil, fmt.Errorf("%w: %w", dns.ErrFull, err)
	case err != nil:
		return a, nil, err
	}
	n.writing.Lock()
	defer n.writing.Unlock()
	if latest := n.current.Load(); latest.pool != g.pool {
		return a, nil, errNoPool // it was changed meanwhile; the client asks again
	}
	g = n.current.Load()
	g.pool.Answered(name, time.Now().Add(dns.TTL))
	return a, n.renewed, n.put(g, name, a, original)
}

// put brings the kernel's tables up to date with one name. The caller holds
// n.writing.
func (n *names) put(g *naming, name string, a synthetic.Address, original dns.Original) error {
	was, published := n.find(name)
	next := was
	next.address, next.asked = a, was.asked || !original.Untrusted
	switch {
	case original.Known && original.IPv6:
		next.ipv6 = original.Addr
	case original.Known:
		next.ipv4 = original.Addr
	}
	if published && next == was {
		return nil
	}
	for _, row := range next.rows(g, name) {
		number, err := g.row(row.cells, func(cells []uint32) (uint32, error) { return n.kernel.AppendRow(g.generation, cells) })
		if err != nil {
			return err
		}
		if err := n.kernel.PutName(g.generation, kernel.Name{Addr: row.addr, Original: row.original, Row: number}); err != nil {
			return err
		}
	}
	n.note(name, next)
	return nil
}

// nameRow is what one synthetic address needs of the kernel's tables.
type nameRow struct {
	addr, original netip.Addr
	cells          []uint32
}

// rows returns what an entry needs under a policy: one of each family.
func (e named) rows(g *naming, name string) []nameRow {
	rows := make([]nameRow, 0, 2)
	for _, pair := range [][2]netip.Addr{{e.address.IPv4, e.ipv4}, {e.address.IPv6, e.ipv6}} {
		row := nameRow{addr: pair[0], original: pair[1]}
		if !row.addr.IsValid() {
			continue
		}
		if o := row.original; g.pool.Contains(o) || o.Is4In6() || o.IsValid() && o.Is4() != row.addr.Is4() {
			row.original = netip.Addr{} // back to here, or what a socket of this family does not reach
		}
		row.cells = g.cells(name, row.original)
		rows = append(rows, row)
	}
	return rows
}

// note remembers an entry, and forgets the name that had its address before.
func (n *names) note(name string, e named) {
	n.book.Lock()
	defer n.book.Unlock()
	if before, ok := n.owner[e.address.IPv4]; ok && before != name {
		delete(n.known, before)
	}
	n.known[name], n.owner[e.address.IPv4] = e, name
}

// Answered implements dns.Names.
func (n *names) Answered(name string) {
	if g := n.current.Load(); g != nil && g.pool != nil {
		g.pool.Answered(name, time.Now().Add(dns.TTL))
	}
}

// Reverse implements dns.Names.
func (n *names) Reverse(addr netip.Addr) (name string, pooled bool) {
	g := n.current.Load()
	if g == nil || g.pool == nil || !g.pool.Contains(addr) {
		return "", false
	}
	name, _ = g.pool.Name(addr)
	return name, true
}

// hold keeps the name of a synthetic address for a flow to it. It is empty for
// an address that stands for none.
func (n *names) hold(addr netip.Addr) (name string, release func()) {
	g := n.current.Load()
	if g == nil || g.pool == nil || !g.pool.Contains(addr) {
		return "", func() {}
	}
	release, held := g.pool.Hold(addr)
	if !held {
		return "", func() {}
	}
	name, _ = g.pool.Name(addr)
	return name, release
}
