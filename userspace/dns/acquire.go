package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

// ErrFull is what Names.Assign returns, wrapped or not, when a pool has no
// address left.
var ErrFull = errors.New("pool of synthetic addresses is full")

// discovery is what a look-up found out about a name.
type discovery struct {
	judgement Judgement
	original  netip.Addr
	address   Address
	err       error // of Assign
}

// synthesize makes the answer to a query here, unless it turns out that the
// name is not acquired after all.
func (s *Server) synthesize(ctx context.Context, q *query, p *plan) (answer []byte, o Outcome, done bool) {
	var err error
	if p.pooled {
		answer, err = q.withName(p.owner)
	} else {
		var d discovery
		if d, done = s.acquire(ctx, q, p); !done {
			return nil, 0, false
		}
		if d.err != nil {
			answer, o = s.unassigned(q, p, d.err)
			return answer, o, true
		}
		if answer, err = q.withAddress(d.address); err == nil {
			s.acquired(q, p, d)
		}
	}
	if err != nil {
		return bare(q.message, wire.RcodeFormatError), OutcomeUnparsable, true
	}
	return answer, OutcomeSynthetic, true
}

// acquire returns the addresses of a name for a query, or false if the query is
// to be forwarded.
func (s *Server) acquire(ctx context.Context, q *query, p *plan) (discovery, bool) {
	j := p.judgement
	switch {
	case j.Acquired && !j.Undecided && j.Address.IPv4.IsValid():
		s.names.Answered(p.name)
		s.refresh(q, p)
		return discovery{judgement: j, address: j.Address}, true
	case j.Acquired && !j.Undecided && j.IfUnresolved && !addressed(q.kind, j):
		return discovery{judgement: j}, true // nothing needs an address
	}
	d, ok := s.lookUp(ctx, q, p)
	switch {
	case ok:
		return d, d.judgement.Acquired
	case !j.Acquired || !j.IfUnresolved:
		return d, false // the query asks the same server, and is as patient as its client
	}
	d.judgement = j
	d.address, d.err = s.assign(ctx, q.trace, p.name, Original{IPv6: familyOf(q.kind, j)})
	return d, true
}

// addressed reports whether the answer to a query has an address.
func addressed(kind uint16, j Judgement) bool {
	return kind == wire.TypeA || kind == wire.TypeANY || kind == wire.TypeAAAA && j.IPv6
}

// familyOf reports whether the original of a query's name is its IPv6 address.
func familyOf(kind uint16, j Judgement) (ipv6 bool) { return kind == wire.TypeAAAA && j.IPv6 }

func (s *Server) assign(ctx context.Context, trace *tracer, name string, original Original) (Address, error) {
	address, err := s.names.Assign(ctx, name, original)
	trace.assigned(name, original, address, err)
	return address, err
}

// unassigned answers for a name that gets no address. It must not get the
// answer of upstream: the policy wants it acquired.
func (s *Server) unassigned(q *query, p *plan, err error) ([]byte, Outcome) {
	if errors.Is(err, ErrFull) {
		if s.full.due(time.Now()) {
			s.log.Error("answer SERVFAIL: pool of synthetic addresses is full", slog.String("name", p.name))
		}
		return q.failure(wire.ExtendedErrorCodeOther, "pool of synthetic addresses is full"), OutcomePoolFull
	}
	if s.life.Err() != nil {
		return nil, OutcomeCanceled
	}
	if s.fault.due(time.Now()) {
		s.log.Error("answer SERVFAIL: no synthetic address", slog.String("name", p.name), slog.Any("error", err))
	}
	return q.failure(wire.ExtendedErrorCodeOther, "synthetic address was not recorded"), OutcomeUnassigned
}

// acquired tells about a name that was answered with synthetic addresses.
func (s *Server) acquired(q *query, p *plan, d discovery) {
	if s.observer == nil {
		return
	}
	s.observer.Observe(Sighting{
		Name: p.name, Type: q.kind, By: q.by, Judgement: d.judgement, Address: d.address, Original: d.original,
	})
}

// complaint bounds how often the log says the same.
type complaint struct {
	mu   sync.Mutex
	last time.Time
}

// due reports whether it is time to say it, at most once a minute.
func (c *complaint) due(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() && now.Sub(c.last) < time.Minute {
		return false
	}
	c.last = now
	return true
}
