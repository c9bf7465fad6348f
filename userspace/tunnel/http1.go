package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// h1Stream is a Stream over HTTP/1.1, which has the link to itself.
//
// The edge's direction ends in order with close_notify, and also with a bare
// TCP FIN between two TLS records, since many proxies send no close_notify. One
// who could forge the FIN could forge a RST as well, and applications that mind
// being cut off protect themselves. A FIN inside a record is a reset.
type h1Stream struct {
	link   *link
	tunnel *Tunnel
	early  []byte // bytes of the flow that came with the answer

	sent   atomic.Bool // CloseWrite was called
	ended  atomic.Bool // Read returned io.EOF
	closed atomic.Bool // Reset or Close was called
}

func newH1Stream(l *link, t *Tunnel) *h1Stream {
	return &h1Stream{link: l, tunnel: t}
}

// connect sends the CONNECT and waits for the answer.
func (s *h1Stream) connect(ctx context.Context, r request) error {
	// The deadline breaks off what waits, and leaves the link closable.
	stop := context.AfterFunc(ctx, func() { s.link.raw.SetDeadline(time.Unix(1, 0)) })
	err := s.ask(r)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return err
	}
	return &StageError{StageConnect, err}
}

func (s *h1Stream) ask(r request) error {
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n", r.authority)
	if r.authorization != "" {
		fmt.Fprintf(&b, "Proxy-Authorization: %s\r\n", r.authorization)
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(s.link, b.String()); err != nil {
		return err
	}
	early, err := readAnswer(s.link,
		func() { s.link.raw.SetReadDeadline(time.Now().Add(snippetTime)) },
		func(alternatives []string) { s.tunnel.pool.announced(alternatives, s.link.tcp.RemoteAddr()) })
	s.early = early
	return err
}

// readAnswer reads the final answer to a CONNECT and returns the bytes read
// after it. It calls hurry before it reads a refusal's body, and announced with
// the Alt-Svc fields.
func readAnswer(r io.Reader, hurry func(), announced func(alternatives []string)) ([]byte, error) {
	limited := &io.LimitedReader{R: r, N: maxHeaderList}
	buffered := bufio.NewReaderSize(limited, 4<<10)
	for range maxInterim {
		answer, err := http.ReadResponse(buffered, &http.Request{Method: http.MethodConnect})
		if limited.N == 0 && err != nil {
			return nil, errHeaderTooLarge
		}
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", abrupt(err))
		}
		announced(answer.Header.Values("Alt-Svc"))
		switch status := answer.StatusCode; {
		case status/100 == 2:
			return buffered.Peek(buffered.Buffered())
		case status == http.StatusSwitchingProtocols || status < 100:
			return nil, malformed("status")
		case status/100 != 1:
			hurry()
			b := make([]byte, snippetLen)
			n, _ := io.ReadFull(answer.Body, b)
			return nil, &RefusedError{Status: status, Body: string(b[:n])}
		}
	}
	return nil, malformed("1xx without end")
}

// Read implements Stream.
func (s *h1Stream) Read(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		if s.early = s.early[n:]; len(s.early) == 0 {
			s.early = nil // the buffer goes with it
		}
		return n, nil
	}
	n, err := s.link.Read(p)
	if err == io.EOF {
		s.ended.Store(true)
		return n, err
	}
	return n, s.broken(err)
}

// Write implements Stream.
func (s *h1Stream) Write(p []byte) (int, error) {
	n, err := s.link.Write(p)
	return n, s.broken(err)
}

// broken is the stream's error for one of the link.
func (s *h1Stream) broken(err error) error {
	switch {
	case err == nil:
		return nil
	case s.closed.Load():
		return net.ErrClosed
	}
	return lost(err)
}

// CloseWrite implements Stream.
func (s *h1Stream) CloseWrite() error {
	if s.sent.Swap(true) {
		return nil
	}
	if secure, ok := s.link.Conn.(*tls.Conn); ok {
		if err := secure.CloseWrite(); err != nil {
			return s.broken(err)
		}
	}
	if half, ok := s.link.tcp.(interface{ CloseWrite() error }); ok {
		return s.broken(half.CloseWrite())
	}
	return nil
}

// Reset implements Stream.
func (s *h1Stream) Reset() error {
	if s.closed.Swap(true) {
		return nil
	}
	if tcp, ok := s.link.tcp.(interface{ SetLinger(seconds int) error }); ok {
		tcp.SetLinger(0) // a RST, and nothing of what waits to be sent
	}
	return s.release()
}

// Close implements Stream.
func (s *h1Stream) Close() error {
	if !s.sent.Load() || !s.ended.Load() {
		return s.Reset()
	}
	if s.closed.Swap(true) {
		return nil
	}
	return s.release()
}

func (s *h1Stream) release() error {
	s.tunnel.forget(s)
	return s.link.raw.Close()
}
