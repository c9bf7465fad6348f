package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go/http3"
)

// h3Stream is a Stream over HTTP/3.
type h3Stream struct {
	conn    *h3Conn
	stream  *http3.RequestStream
	sending sync.Mutex // held by Write and CloseWrite

	sent   atomic.Bool // CloseWrite was called
	ended  atomic.Bool // Read returned io.EOF
	closed atomic.Bool // Reset or Close was called
}

// connect sends a CONNECT, as h2Conn.connect does.
func (c *h3Conn) connect(ctx context.Context, r request) (*h3Stream, error) {
	stream, err := c.ask(ctx, r)
	if err != nil {
		return nil, err
	}
	return &h3Stream{conn: c, stream: stream}, nil
}

// Read implements Stream.
func (s *h3Stream) Read(p []byte) (int, error) {
	n, err := s.stream.Read(p)
	switch {
	case err == nil:
		return n, nil
	case s.closed.Load():
		return n, net.ErrClosed
	case err == io.EOF:
		s.ended.Store(true)
		return n, err
	}
	return n, h3Broken(err)
}

// Write implements Stream.
func (s *h3Stream) Write(p []byte) (int, error) {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.sent.Load() {
		return 0, errWriteEnded
	}
	n, err := s.stream.Write(p)
	switch {
	case err == nil:
		return n, nil
	case s.closed.Load():
		return n, net.ErrClosed
	}
	return n, h3Broken(err)
}

// h3Broken is the error of an agreed stream that broke off with err.
func h3Broken(err error) error {
	broken, ok := errors.AsType[*http3.Error](err)
	if ok && broken.Remote {
		return fmt.Errorf("%w by the edge: %w", ErrReset, broken)
	}
	return lost(err)
}

// CloseWrite implements Stream.
func (s *h3Stream) CloseWrite() error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.sent.Swap(true) {
		return nil
	}
	if err := s.stream.Close(); err != nil {
		return h3Broken(err)
	}
	return nil
}

// Reset implements Stream. RFC 9114 section 4.4 has H3_CONNECT_ERROR stand for a
// TCP RST.
func (s *h3Stream) Reset() error {
	s.release(http3.ErrCodeConnectError)
	return nil
}

// Close implements Stream.
func (s *h3Stream) Close() error {
	s.release(http3.ErrCodeRequestCanceled)
	return nil
}

// release breaks off what is not over, and gives the place on the connection
// back.
func (s *h3Stream) release(code http3.ErrCode) {
	if s.closed.Swap(true) {
		return
	}
	if !s.sent.Load() || !s.ended.Load() {
		abandon(s.stream, code)
	}
	s.conn.load.Add(-1)
}
