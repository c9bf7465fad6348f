package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

// Of names that were looked up lately.
const (
	freshFor  = TTL / 2 // at least, and twice that at most
	freshSize = 8192    // names in each half
)

// subject is what a look-up is about.
type subject struct {
	name string
	ipv6 bool
}

// errand is a look-up as nobody needs it twice at a time.
type errand struct {
	subject
	path
	device int
}

// flight is a look-up under way.
type flight struct {
	done  chan struct{} // closed when found is there
	found discovery
}

// lookups are those under way, and what was looked up lately.
type lookups struct {
	mu           sync.Mutex
	flights      map[errand]*flight
	refreshing   int
	fresh, older map[subject]struct{}
	turned       time.Time // when fresh was begun
}

// stale reports whether a name was not looked up lately, and takes it that it
// is now. The caller holds the lock.
func (l *lookups) stale(about subject, now time.Time) bool {
	if len(l.fresh) >= freshSize || now.Sub(l.turned) >= freshFor {
		l.older, l.fresh = l.fresh, make(map[subject]struct{})
		if now.Sub(l.turned) >= 2*freshFor {
			l.older = nil
		}
		l.turned = now
	}
	_, fresh := l.fresh[about]
	_, older := l.older[about]
	l.fresh[about] = struct{}{}
	return !fresh && !older
}

func (l *lookups) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh, l.older, l.turned = nil, nil, time.Time{}
}

func (l *lookups) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.flights)
}

func errandOf(q *query, p *plan) errand {
	return errand{subject{p.name, familyOf(q.kind, p.judgement)}, p.path, q.by.Device}
}

// lookUp finds out about a new name, together with others that want to know. It
// is false if that takes too long or is too much; a look-up that has begun goes
// on then, so that the name gets its original when there is one.
func (s *Server) lookUp(ctx context.Context, q *query, p *plan) (discovery, bool) {
	f := s.takeOff(q, p, false)
	if f == nil {
		return discovery{}, false
	}
	patience := time.NewTimer(s.limits.Patience)
	defer patience.Stop()
	select {
	case <-f.done:
		return f.found, true
	case <-patience.C:
	case <-ctx.Done():
	}
	return discovery{}, false
}

// refresh asks again for the original of a name that was answered at once.
func (s *Server) refresh(q *query, p *plan) { s.takeOff(q, p, true) }

// takeOff begins a look-up, or joins that which is under way. It returns nil if
// there are too many or, for a refresh, no need.
func (s *Server) takeOff(q *query, p *plan, refresh bool) *flight {
	e := errandOf(q, p)
	l := &s.lookups
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.flights[e]; ok {
		return f
	}
	trusted := s.trusted(q.ask, p)
	if refresh && (p.dead != 0 || !trusted) {
		return nil // which would teach nothing
	}
	if trusted && !l.stale(e.subject, time.Now()) && refresh {
		return nil
	}
	if len(l.flights) >= s.limits.Lookups || refresh && l.refreshing >= s.limits.Refreshes {
		s.counters.count(OutcomeLookupLimited)
		return nil
	}
	f := &flight{done: make(chan struct{})}
	begun := s.spawn(func() {
		ctx, cancel := context.WithTimeout(s.life, s.limits.Timeout)
		defer cancel()
		f.found = s.discover(ctx, q.ask, p, e.ipv6)
		s.land(e, refresh)
		close(f.done)
	})
	if !begun {
		return nil
	}
	if l.flights == nil {
		l.flights = make(map[errand]*flight)
	}
	l.flights[e] = f
	if refresh {
		l.refreshing++
		s.counters.count(OutcomeRefreshed)
	}
	return f
}

func (s *Server) land(e errand, refresh bool) {
	s.lookups.mu.Lock()
	defer s.lookups.mu.Unlock()
	delete(s.lookups.flights, e)
	if refresh {
		s.lookups.refreshing--
	}
}

// discover asks for the original of a name, judges the name by it, and gives it
// its addresses if it is acquired.
func (s *Server) discover(ctx context.Context, a ask, p *plan, ipv6 bool) discovery {
	var original Original
	if p.dead == 0 {
		original = s.original(ctx, a, p, ipv6)
	}
	if !s.trusted(a, p) {
		// Whoever chose the server would choose for everybody where a name leads.
		original = Original{IPv6: ipv6, Untrusted: true}
	}
	d := discovery{judgement: s.names.Judge(p.name, original.Addr), original: original.Addr}
	if p.judgement.Undecided {
		a.trace.judged(p.name, d.judgement)
	}
	if original.Known && p.judgement.Address.IPv4.IsValid() && (!d.judgement.Acquired || !original.Addr.IsValid()) {
		s.assign(ctx, a.trace, p.name, original) // it has an address, and leads elsewhere now
	}
	if !d.judgement.Acquired {
		return d
	}
	if !d.judgement.IfUnresolved && !original.Addr.IsValid() && !s.original(ctx, a, p, !ipv6).Addr.IsValid() {
		a.trace.note(Step{Kind: StepJudge, Text: "upstream has no address, so the name is not acquired"})
		d.judgement.Acquired = false
		return d
	}
	d.address, d.err = s.assign(ctx, a.trace, p.name, original)
	return d
}

// trusted reports whether what the server says of a name may hold for everybody.
func (s *Server) trusted(a ask, p *plan) bool { return p.way != WayDirect || s.upstream.Trusted(a.by) }

// original asks upstream for the addresses of a name. It asks plainly, without
// EDNS, so that any server understands; the first address always has room.
func (s *Server) original(ctx context.Context, a ask, p *plan, ipv6 bool) Original {
	original := Original{IPv6: ipv6}
	kind := wire.TypeA
	if ipv6 {
		kind = wire.TypeAAAA
	}
	m := new(wire.Msg).SetQuestion(wire.Fqdn(p.asked), kind)
	message, err := m.Pack()
	if err != nil {
		return original
	}
	answer, err := s.exchange(ctx, a, p.path, message)
	if err == nil && flags(answer)&flagTruncated != 0 && a.network == "udp" && p.way == WayDirect {
		a.network = "tcp"
		answer, err = s.exchange(ctx, a, p.path, message)
	}
	if err != nil {
		return original
	}
	var reply wire.Msg
	if reply.Unpack(answer) != nil || reply.Rcode != wire.RcodeSuccess && reply.Rcode != wire.RcodeNameError {
		return original
	}
	original.Known = true
	original.Addr = s.firstAddress(reply.Answer, ipv6)
	return original
}

// firstAddress returns the first address that a name can be reached at. An
// address of a pool is none: whoever answered with it knows it from us.
func (s *Server) firstAddress(records []wire.RR, ipv6 bool) netip.Addr {
	for _, rr := range records {
		var addr netip.Addr
		switch rr := rr.(type) {
		case *wire.A:
			if !ipv6 {
				addr, _ = netip.AddrFromSlice(rr.A.To4())
			}
		case *wire.AAAA:
			if ipv6 {
				addr, _ = netip.AddrFromSlice(rr.AAAA.To16())
			}
			if addr.Is4In6() {
				addr = netip.Addr{} // an IPv4 host, which A is asked for
			}
		}
		if !addr.IsValid() {
			continue
		}
		if _, pooled := s.names.Reverse(addr); !pooled {
			return addr
		}
	}
	return netip.Addr{}
}
