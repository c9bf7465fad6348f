package tunnel

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/net/http2"
)

// h2Stream is a Stream over HTTP/2. The connection's mu guards it.
type h2Stream struct {
	conn     *h2Conn
	id       uint32
	answered chan struct{} // closed when status or err is known
	sending  sync.Mutex    // held by Write and CloseWrite
	readable sync.Cond
	writable sync.Cond

	status  int   // of the final answer; zero before
	interim int   // answers before it
	sent    bool  // we sent END_STREAM
	ended   bool  // the edge sent END_STREAM
	err     error // why the stream broke off
	closed  bool  // Reset or Close was called

	window  int // send window; negative when the edge took some back
	inbox   inbox
	receive window
}

func newH2Stream(c *h2Conn, id uint32) *h2Stream {
	s := &h2Stream{
		conn:     c,
		id:       id,
		answered: make(chan struct{}),
		window:   c.initial,
		inbox:    inbox{pool: &c.pool.chunks},
		receive:  window{size: streamWindow, left: streamWindow},
	}
	s.readable.L = &c.mu
	s.writable.L = &c.mu
	return s
}

// answer returns the status of the final answer, or why there is none.
func (s *h2Stream) answer() (int, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.status == 0 {
		return 0, s.err
	}
	return s.status, nil
}

// snippet returns the start of a refusal's body, as far as it comes at once.
func (s *h2Stream) snippet(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, snippetTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.abort(http2.ErrCodeCancel) })()
	b := make([]byte, snippetLen)
	n, _ := io.ReadFull(s, b)
	return string(b[:n])
}

// Read implements Stream.
func (s *h2Stream) Read(p []byte) (int, error) {
	b, err := s.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, b)
	s.consume(n)
	return n, nil
}

// WriteTo implements io.WriterTo. It hands w the receive buffer itself.
func (s *h2Stream) WriteTo(w io.Writer) (total int64, err error) {
	for {
		b, err := s.next()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b)
		total += int64(n)
		s.consume(n)
		if err != nil {
			return total, err
		}
	}
}

// next waits for bytes, for consume to follow.
func (s *h2Stream) next() ([]byte, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	for {
		switch {
		case s.closed:
			return nil, net.ErrClosed
		case s.inbox.size > 0:
			return s.inbox.peek(), nil
		case s.ended:
			return nil, io.EOF
		case s.err != nil:
			return nil, s.err
		}
		s.readable.Wait()
	}
}

// consume gives n bytes of what next returned back, and has tend tell the edge
// when enough of them add up: a reader does not wait for writes.
func (s *h2Stream) consume(n int) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.inbox.advance(n)
	if s.ended || s.err != nil {
		return
	}
	if raise := s.receive.read(n, cmp.Or(c.rtt, assumedRTT), &c.budget); raise > 0 {
		c.framer.WriteWindowUpdate(s.id, uint32(raise))
		c.kick()
	}
}

// Write implements Stream.
func (s *h2Stream) Write(p []byte) (total int, err error) {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.sent {
		return 0, errWriteEnded
	}
	for total < len(p) {
		n, err := s.conn.write(s, p[total:])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// CloseWrite implements Stream.
func (s *h2Stream) CloseWrite() error {
	s.sending.Lock()
	defer s.sending.Unlock()
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.sent || s.err != nil {
		return s.err
	}
	c.framer.WriteData(s.id, true, nil)
	s.sent = true
	if s.ended {
		c.detach(s)
	}
	c.flush()
	return nil
}

// Reset implements Stream. RFC 9113 section 8.5 has CONNECT_ERROR stand for a
// TCP RST.
func (s *h2Stream) Reset() error {
	s.abort(http2.ErrCodeConnect)
	return nil
}

// Close implements Stream.
func (s *h2Stream) Close() error {
	s.abort(http2.ErrCodeCancel)
	return nil
}

// abort releases the stream, with RST_STREAM unless it is over. It never waits
// for the edge.
func (s *h2Stream) abort(code http2.ErrCode) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.inbox.drop()
	c.budget += s.receive.size - streamWindow
	if c.streams[s.id] == s {
		c.framer.WriteRSTStream(s.id, code)
		c.kick()
	}
	s.fail(net.ErrClosed)
}

// fail breaks the stream off, if it is not over. c.mu is held.
func (s *h2Stream) fail(err error) {
	if s.conn.streams[s.id] == s {
		s.err = err
		if s.status == 0 {
			close(s.answered)
		}
		s.conn.detach(s)
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// connectionLost breaks the stream off because its connection ended. c.mu is
// held.
func (s *h2Stream) connectionLost(cause error) {
	if s.status == 0 {
		s.fail(fmt.Errorf("%w: %w", errUnanswered, abrupt(cause)))
		return
	}
	s.fail(lost(cause))
}

// resetBy takes the edge's RST_STREAM. c.mu is held.
func (s *h2Stream) resetBy(code http2.ErrCode) {
	if s.status == 0 && code == http2.ErrCodeRefusedStream {
		s.fail(fmt.Errorf("%w: %v", errUnanswered, code))
		return
	}
	s.fail(resetByEdge(code))
}

// end takes the edge's END_STREAM. c.mu is held.
func (s *h2Stream) end() {
	s.ended = true
	s.readable.Broadcast()
	if s.sent {
		s.conn.detach(s)
	}
}
