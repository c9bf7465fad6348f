package dns

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// session is the TCP connection of a client. Queries that are forwarded as they
// are go over one connection to the server, and its answers come back as they
// come, also those of many messages (RFC 5936). Answers that are made here
// come in between.
type session struct {
	server *Server
	conn   *net.TCPConn
	by     flow.Query
	client client

	writing sync.Mutex
	idle    *time.Timer    // ends the session
	answers sync.WaitGroup // that are made here

	upstream io.ReadWriteCloser // nil: not needed yet
	way      Way                // of upstream
	copying  sync.WaitGroup     // from upstream
}

// ServeTCP answers the queries of a connection that the TCP listener accepted,
// until it ends or ctx is done, and closes it. q says which server it was meant
// for.
func (s *Server) ServeTCP(ctx context.Context, conn *net.TCPConn, q flow.Query) {
	defer conn.Close()
	remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	c := &session{server: s, conn: conn, by: q, client: clientOf(q, unmapped(remote))}
	switch s.connections.take(c.client) {
	case excessAll:
		c.refuse(OutcomeConnectionLimited)
		return
	case excessClient:
		c.refuse(OutcomeConnectionProcessLimited)
		return
	}
	defer s.connections.release(c.client)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c.idle = time.AfterFunc(s.limits.Idle, func() {
		s.counters.count(OutcomeConnectionIdle)
		cancel()
	})
	defer c.idle.Stop()
	if c.serve(ctx) != nil {
		cancel()
	}
	c.answers.Wait()
	c.hangUp(ctx)
}

// refuse resets the connection, as a server does that is to be had no more.
func (c *session) refuse(o Outcome) {
	c.server.counters.count(o)
	c.conn.SetLinger(0)
}

// serve reads queries until the client, or the server behind, ends its
// direction.
func (c *session) serve(ctx context.Context) error {
	buffered := bufio.NewReader(c.conn)
	for {
		message, err := c.next(buffered)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = c.take(ctx, message)
		}
		if err != nil {
			return err
		}
	}
}

// hangUp passes the client's end on to the server, and waits for the server's.
func (c *session) hangUp(ctx context.Context) {
	if c.upstream == nil {
		return
	}
	defer c.upstream.Close()
	half, ok := c.upstream.(interface{ CloseWrite() error })
	if !ok || ctx.Err() != nil || half.CloseWrite() != nil {
		c.upstream.Close()
	}
	c.copying.Wait()
}

// next reads a message. It may be long in coming, but not in the middle.
func (c *session) next(from *bufio.Reader) ([]byte, error) {
	if _, err := from.Peek(1); err != nil {
		return nil, err
	}
	c.idle.Reset(c.server.limits.Idle)
	c.conn.SetReadDeadline(time.Now().Add(c.server.limits.Message))
	message, err := readFramed(from)
	if err != nil {
		if expired(err) {
			c.server.counters.count(OutcomeConnectionIdle)
		}
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	return message, c.conn.SetReadDeadline(time.Time{})
}

// take does what is to be done about one message.
func (c *session) take(ctx context.Context, message []byte) error {
	s := c.server
	q := &query{message: message, ask: ask{by: c.by, network: "tcp"}, started: time.Now()}
	if outcome, answer, done := q.inspect(); done {
		s.finish(q, outcome, answer, c.send)
		if outcome == OutcomeMalformed {
			return io.ErrUnexpectedEOF // what follows is not DNS either
		}
		return nil
	}
	p := s.plan(q)
	if !p.ours() && p.way != WayPrivate && p.dead == 0 {
		return c.relay(ctx, p.path, message)
	}
	if !s.quota.wait(ctx, c.client) {
		return ctx.Err()
	}
	c.answers.Go(func() {
		defer s.quota.release(c.client)
		ctx, cancel := context.WithTimeout(ctx, s.limits.Timeout)
		defer cancel()
		answer, outcome := s.answer(ctx, q, p)
		s.finish(q, outcome, answer, c.send)
	})
	return nil
}

// send gives the client an answer.
func (c *session) send(answer []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.conn.Write(framed(answer))
	return err
}

// relay sends a message to the server as it is.
func (c *session) relay(ctx context.Context, p path, message []byte) error {
	if c.upstream == nil {
		if err := c.open(ctx, p); err != nil {
			c.server.servers.asked(p, 0, err)
			c.refuse(OutcomeConnectionUnreachable)
			return err
		}
		c.copying.Go(c.copyAnswers)
	}
	c.server.servers.sent(path{c.way, p.server})
	_, err := c.upstream.Write(framed(message))
	return err
}

// open connects to the server, the way that the first message takes.
func (c *session) open(ctx context.Context, p path) (err error) {
	opening, cancel := context.WithTimeout(ctx, c.server.limits.Timeout)
	defer cancel()
	c.way = p.way
	if p.way == WayTunnel {
		c.upstream, err = c.server.upstream.Tunnel(opening, p.server)
	} else {
		var conn *net.TCPConn
		if conn, err = c.server.upstream.DialTCP(opening, c.by); err == nil {
			c.upstream = conn
		}
	}
	if err == nil {
		upstream := c.upstream
		context.AfterFunc(ctx, func() { upstream.Close() })
	}
	return err
}

// copyAnswers passes the server's messages to the client. Their end is that of
// the session, as it would be of the client's own connection: it closes once
// what is answered here was sent.
func (c *session) copyAnswers() {
	defer c.conn.CloseRead()
	outcome := OutcomeForwarded
	if c.way == WayTunnel {
		outcome = OutcomeTunneled
	}
	buffered := bufio.NewReader(c.upstream)
	for {
		answer, err := readFramed(buffered)
		if err != nil {
			if err != io.EOF {
				c.conn.SetLinger(0)
			}
			return
		}
		c.idle.Reset(c.server.limits.Idle)
		c.server.servers.answered(path{c.way, c.by.Server})
		if c.send(answer) != nil {
			c.server.counters.count(OutcomeUnsent)
			return
		}
		c.server.counters.count(outcome)
		c.server.observe(ask{by: c.by, network: "tcp"}, answer, Judgement{})
	}
}
