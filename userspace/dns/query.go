package dns

import (
	"net/netip"
	"time"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// ask is on whose behalf servers are asked.
type ask struct {
	by      flow.Query
	network string // by which the client came: udp or tcp
	trace   *tracer
}

// query is one query of a client. Its message is as it came, and stays so.
type query struct {
	ask
	question
	message []byte
	started time.Time
}

// inspect reads the question. done says that the query needs no more than the
// answer that is returned or, if that is nil, none. What is no ordinary query,
// or one without a question (RFC 7873, section 5.4), is forwarded as it is.
func (q *query) inspect() (o Outcome, answer []byte, done bool) {
	switch {
	case len(q.message) < headerSize:
		return OutcomeMalformed, nil, true
	case flags(q.message)&flagResponse != 0:
		return OutcomeResponse, nil, true
	case !isQuery(q.message), questions(q.message) == 0:
		return 0, nil, false
	case questions(q.message) > 1:
		return OutcomeRefused, bare(q.message, wire.RcodeRefused), true
	}
	var err error
	if q.question, err = parseQuestion(q.message); err != nil {
		return OutcomeUnparsable, bare(q.message, wire.RcodeFormatError), true
	}
	return 0, nil, false
}

// forAddresses reports whether the query is one of those that lead to a host.
func (q *query) forAddresses() bool {
	switch q.kind {
	case wire.TypeA, wire.TypeAAAA, wire.TypeHTTPS, wire.TypeSVCB, wire.TypeANY:
		return true
	}
	return false
}

// path is which server is asked, and which way.
type path struct {
	way    Way
	server netip.AddrPort
}

// plan is what is to be done about a query.
type plan struct {
	path
	dead  Outcome // OutcomeUnreachable or OutcomeBlocked if the path leads nowhere; else zero
	asked string  // the name to ask the server for

	name      string    // that was judged: as it was asked for, or as a private server knows it
	judgement Judgement // of that name, if the query is one for addresses

	pooled bool   // the query is for the name of a synthetic address
	owner  string // that name; empty if the address is nobody's
}

// ours reports whether the answer may be made here.
func (p *plan) ours() bool { return p.pooled || p.judgement.Acquired || p.judgement.Undecided }

// plan decides what to do about a query.
func (s *Server) plan(q *query) *plan {
	p := &plan{asked: q.name, name: q.name}
	s.direct(q, p)
	if q.end == 0 || q.class != wire.ClassINET {
		return p
	}
	if q.forAddresses() {
		s.judge(q, p)
	}
	if addr, ok := reversed(q.name); ok && (q.kind == wire.TypePTR || q.kind == wire.TypeANY) {
		p.owner, p.pooled = s.names.Reverse(addr)
	}
	return p
}

// direct finds the path of a query.
func (s *Server) direct(q *query, p *plan) {
	p.path = path{WayDirect, q.by.Server}
	if q.end > 0 && s.names.Protected(q.name) {
		return // a channel may depend on it
	}
	if s.private != nil {
		if private, up := s.private.Holds(q.by.Server.Addr()); private {
			p.way = WayPrivate
			if !up {
				p.dead = OutcomeUnreachable
			}
			q.trace.note(Step{Kind: StepPrivate, Server: p.server, Text: privateText(up)})
			return
		}
		server, asked, ok := s.private.Server(q.name)
		if asked != q.name && !(q.forAddresses() && flags(q.message)&flagRecursion != 0) {
			ok = false // of a top-level domain, as resolvers ask about it
		}
		if ok && q.end > 0 && q.class == wire.ClassINET {
			p.path, p.asked = path{WayPrivate, server}, asked
			q.trace.note(Step{Kind: StepPrivate, Server: server, Text: "a private suffix matches; asked for " + asked})
			return
		}
	}
	switch s.upstream.Route(q.by, q.network) {
	case RouteTunnel:
		p.way = WayTunnel
	case RouteBlocked:
		p.way, p.dead = WayTunnel, OutcomeBlocked
	}
}

func privateText(up bool) string {
	if up {
		return "the server that was asked is a private one"
	}
	return "the server that was asked is a private one, and its channel is down"
}

// judge asks about the name in question and, where a private server knows it by
// a longer one, about that.
func (s *Server) judge(q *query, p *plan) {
	p.judgement = s.names.Judge(p.name, netip.Addr{})
	if p.asked != p.name && !p.judgement.Acquired && !p.judgement.Bypassed {
		p.name = p.asked
		p.judgement = s.names.Judge(p.name, netip.Addr{})
	}
	q.trace.judged(p.name, p.judgement)
}
