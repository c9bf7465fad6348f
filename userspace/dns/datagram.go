package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// controlSize holds the one control message that the sockets ask for.
const controlSize = 64

// receive reads queries from a socket until its deadline is past. There is one
// reader of each socket: what Origin says is about the datagram read last.
func (s *Server) receive(from *socket) {
	buffer := make([]byte, maxMessage)
	control := make([]byte, controlSize)
	for s.life.Err() == nil {
		n, controls, _, at, err := from.conn.ReadMsgUDPAddrPort(buffer, control)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // of one datagram, or the deadline
		}
		by, err := s.origin.Query(from.fd)
		switch {
		case err != nil:
			s.counters.count(OutcomeUnknownAsker)
			continue
		case n > maxUDPQuery:
			s.counters.count(OutcomeOversized)
			continue
		}
		q := &query{
			message: append([]byte(nil), buffer[:n]...),
			ask:     ask{by: by, network: "udp"},
			started: time.Now(),
		}
		s.admit(from, q, append([]byte(nil), control[:controls]...), at)
	}
}

// admit answers a datagram in a goroutine of its own, unless there are too many
// or none is needed.
func (s *Server) admit(from *socket, q *query, control []byte, at netip.AddrPort) {
	back := func(answer []byte) error {
		_, _, err := from.conn.WriteMsgUDPAddrPort(answer, leaveBy(control), at)
		return err
	}
	if outcome, answer, done := q.inspect(); done {
		s.finish(q, outcome, answer, back)
		return
	}
	c := clientOf(q.by, unmapped(at))
	switch s.quota.take(c) {
	case excessAll:
		s.counters.count(OutcomeLimited)
		return
	case excessClient:
		s.counters.count(OutcomeProcessLimited)
		return
	}
	s.tasks.Go(func() {
		defer s.quota.release(c)
		ctx, cancel := context.WithTimeout(s.life, s.limits.Timeout)
		defer cancel()
		answer, outcome := s.answer(ctx, q, s.plan(q))
		s.finish(q, outcome, answer, back)
	})
}

// finish sends an answer, if there is one, and counts what became of a query.
func (s *Server) finish(q *query, outcome Outcome, answer []byte, back func([]byte) error) {
	if answer != nil && back(answer) != nil {
		outcome = OutcomeUnsent
	}
	s.counters.count(outcome)
	if way, ok := outcome.way(); ok {
		s.latency[way].add(time.Since(q.started))
	}
}

// leaveBy turns the control message that came with a datagram into the one that
// makes the answer leave from the address that was asked. The device is left to
// routing: addresses of this host are reached through lo, whichever device has
// them.
func leaveBy(control []byte) []byte {
	header, info, _, err := unix.ParseOneSocketControlMessage(control)
	if err != nil {
		return nil
	}
	switch { // ip(7) in_pktinfo, RFC 3542 in6_pktinfo
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(info) >= unix.SizeofInet4Pktinfo:
		clear(info[:4])
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(info) >= unix.SizeofInet6Pktinfo:
		clear(info[16:20])
	}
	return control
}
