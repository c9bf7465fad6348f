package dns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// answer answers a query that inspect left open: here, or by asking a server.
// No answer is nil.
func (s *Server) answer(ctx context.Context, q *query, p *plan) ([]byte, Outcome) {
	if p.ours() {
		if answer, outcome, done := s.synthesize(ctx, q, p); done {
			return answer, outcome
		}
	}
	return s.forward(ctx, q, p)
}

// forward passes a query on, and the answer back.
//
// A server that is refused by its host, or that no route leads to, is answered
// for with SERVFAIL: an application that is connected to it would have got the
// network's error at once and gone on to its next server, which is what
// resolvers do after SERVFAIL, and not before their time-out after silence.
func (s *Server) forward(ctx context.Context, q *query, p *plan) ([]byte, Outcome) {
	switch p.dead {
	case OutcomeUnreachable:
		return q.failure(wire.ExtendedErrorCodeNoReachableAuthority, "channel of the private server is down"), p.dead
	case OutcomeBlocked:
		return q.failure(wire.ExtendedErrorCodeBlocked, "channel of the server is down"), p.dead
	}
	message, err := q.message, error(nil)
	if p.asked != q.name {
		if message, err = renamed(q.message, p.asked); err != nil {
			return bare(q.message, wire.RcodeFormatError), OutcomeUnparsable
		}
	}
	answer, err := s.exchange(ctx, q.ask, p.path, message)
	switch {
	case s.life.Err() != nil:
		return nil, OutcomeCanceled
	case expired(err):
		return nil, OutcomeTimeout
	case err != nil:
		return q.failure(wire.ExtendedErrorCodeNetworkError, "server is not to be had"), OutcomeUnreachable
	}
	if p.asked != q.name {
		if answer, err = restored(answer, q.message, p.asked); err != nil {
			return q.failure(wire.ExtendedErrorCodeInvalidData, "answer of the private server is malformed"), OutcomeUnreachable
		}
	}
	if p.way != WayDirect && q.network == "udp" {
		answer = s.fitted(answer, q.message)
	}
	q.trace.passed(answer)
	s.observe(q.ask, answer, p.judgement)
	return answer, [...]Outcome{WayDirect: OutcomeForwarded, WayTunnel: OutcomeTunneled, WayPrivate: OutcomePrivate}[p.way]
}

// expired reports whether err is that of a time that is over.
func expired(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// exchange asks a server, and returns the answer as it came.
func (s *Server) exchange(ctx context.Context, a ask, p path, message []byte) (answer []byte, err error) {
	started := time.Now()
	a.by.Server = p.server
	network := "tcp"
	switch {
	case p.way != WayDirect:
		answer, err = s.askPipe(ctx, p.server, message)
	case a.network == "udp":
		network = "udp"
		answer, err = s.askUDP(ctx, a.by, message)
	default:
		answer, err = s.askTCP(ctx, a.by, message)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // whatever that did to the connection
	}
	took := time.Since(started)
	s.servers.asked(p, took, err)
	a.trace.asked(Step{Server: p.server, Network: network, Way: p.way, Took: took}, answer, err)
	return answer, err
}

// askUDP asks from a socket of its own, so that each query has its own port.
// What comes from elsewhere the kernel keeps away; what is no answer to this
// query is ignored (RFC 5452, section 9).
func (s *Server) askUDP(ctx context.Context, by flow.Query, message []byte) ([]byte, error) {
	conn, err := s.upstream.DialUDP(ctx, by)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	for {
		answer, err := s.readDatagram(conn)
		if err != nil || answers(answer, message) {
			return answer, err
		}
		s.counters.count(OutcomeStray)
	}
}

// readDatagram waits for a datagram before it takes the room for one, as some
// thousand may be waited for at once and any may be of the greatest size.
func (s *Server) readDatagram(conn *net.UDPConn) (datagram []byte, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buffer := s.scratch.Get().(*[maxMessage]byte)
		defer s.scratch.Put(buffer)
		n, errno := unix.Read(int(fd), buffer[:])
		switch {
		case errno == unix.EAGAIN || errno == unix.EINTR:
			return false
		case errno != nil:
			failed = os.NewSyscallError("read", errno)
			return true
		}
		datagram = append([]byte(nil), buffer[:n]...)
		return true
	})
	return datagram, errors.Join(err, failed)
}

// askTCP asks over a connection of its own.
func (s *Server) askTCP(ctx context.Context, by flow.Query, message []byte) ([]byte, error) {
	conn, err := s.upstream.DialTCP(ctx, by)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(framed(message)); err != nil {
		return nil, err
	}
	for {
		answer, err := readFramed(conn)
		if err != nil || answers(answer, message) {
			return answer, err
		}
		s.counters.count(OutcomeStray)
	}
}

// readFramed reads one message as TCP carries it.
func readFramed(from io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, word(length[:]))
	_, err := io.ReadFull(from, message)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return message, err
}

// observe tells about a name that was asked for and not acquired.
func (s *Server) observe(a ask, answer []byte, j Judgement) {
	if s.observer == nil || len(answer) < headerSize || !isQuery(answer) || questions(answer) != 1 {
		return
	}
	asked, err := parseQuestion(answer)
	if err != nil || asked.class != wire.ClassINET || asked.kind != wire.TypeA && asked.kind != wire.TypeAAAA {
		return
	}
	j.Acquired = false
	s.observer.Observe(Sighting{
		Name: asked.name, Type: asked.kind, By: a.by, Judgement: j,
		Original: skim(answer, asked), Rcode: int(flags(answer) & maskRcode),
	})
}

// skim returns the first address of an answer, of the family that was asked
// for; zero if there is none.
func skim(answer []byte, asked question) netip.Addr {
	at := asked.end
	for range word(answer[6:]) { // records of the answer section
		at = afterName(answer, at)
		if at+10 > len(answer) {
			break
		}
		kind, class, size := word(answer[at:]), word(answer[at+2:]), int(word(answer[at+8:]))
		at += 10
		if at+size > len(answer) {
			break
		}
		if kind == asked.kind && class == wire.ClassINET {
			addr, _ := netip.AddrFromSlice(answer[at : at+size])
			return addr
		}
		at += size
	}
	return netip.Addr{}
}

// afterName returns the offset behind a name, which a pointer may end: RFC
// 1035, section 4.1.4. It is beyond the message if the name is.
func afterName(message []byte, at int) int {
	for at < len(message) {
		size := int(message[at])
		switch {
		case size == 0:
			return at + 1
		case size > maxLabel:
			return at + 2
		}
		at += 1 + size
	}
	return at
}
