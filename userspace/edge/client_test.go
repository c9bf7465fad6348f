package edge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client is the client's end of an HTTP/2 connection, with windows so wide
// that no edge waits for it unless a test says so.
type client struct {
	conn   net.Conn
	framer *http2.Framer
	done   chan struct{}

	mu      sync.Mutex
	changed sync.Cond
	streams map[uint32]*clientStream
	nextID  uint32
	window  int64 // of the connection, towards the edge
	initial int64
	goAway  *http2.ErrCode
	err     error
}

type clientStream struct {
	c        *client
	id       uint32
	fields   map[string]string
	received []byte
	discard  func(n int) // takes the place of received
	offset   int64
	ended    bool
	code     *http2.ErrCode
}

func trust(certificate tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	return &tls.Config{RootCAs: roots, ServerName: "edge.test", NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true}
}

func dialClient(tb testing.TB, addr net.Addr, config *tls.Config, settings ...http2.Setting) *client {
	tb.Helper()
	conn, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		tb.Fatal(err)
	}
	c := newClient(conn, settings...)
	tb.Cleanup(c.close)
	return c
}

// newClient greets the edge at the other end of conn.
func newClient(conn net.Conn, settings ...http2.Setting) *client {
	c := &client{
		conn: conn, framer: http2.NewFramer(conn, conn), done: make(chan struct{}),
		streams: make(map[uint32]*clientStream), nextID: 1, window: 65535, initial: 65535,
	}
	c.changed.L = &c.mu
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(1 << 20)
	io.WriteString(conn, http2.ClientPreface)
	settings = append([]http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 30}}, settings...)
	c.framer.WriteSettings(settings...)
	c.framer.WriteWindowUpdate(0, 1<<30)
	go c.read()
	return c
}

func (c *client) close() {
	if over, ok := c.conn.(*tls.Conn); ok {
		over.NetConn().Close()
	} else {
		c.conn.Close()
	}
	<-c.done
}

func (c *client) read() {
	defer close(c.done)
	for {
		frame, err := c.framer.ReadFrame()
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
		if c.receive(frame) {
			c.changed.Broadcast()
		}
		c.mu.Unlock()
	}
}

// receive reports whether somebody may have waited for the frame.
func (c *client) receive(frame http2.Frame) bool {
	s := c.streams[frame.Header().StreamID]
	if s == nil && frame.Header().StreamID != 0 {
		return false
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			c.initial = int64(v)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.window += int64(f.Increment)
		} else {
			s.offset += int64(f.Increment)
		}
	case *http2.MetaHeadersFrame:
		s.fields = make(map[string]string)
		for _, field := range f.Fields {
			s.fields[field.Name] = field.Value
		}
		s.ended = f.StreamEnded()
	case *http2.DataFrame:
		if s.ended = f.StreamEnded(); s.discard != nil {
			s.discard(len(f.Data()))
			return false
		} else {
			s.received = append(s.received, f.Data()...)
		}
	case *http2.RSTStreamFrame:
		s.code = &f.ErrCode
	case *http2.GoAwayFrame:
		c.goAway = &f.ErrCode
	}
	return true
}

// request opens a stream; end closes its client's way at once.
func (c *client) request(end bool, fields ...string) *clientStream {
	var block frames
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &clientStream{c: c, id: c.nextID}
	c.nextID += 2
	c.streams[s.id] = s
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: block, EndHeaders: true, EndStream: end})
	return s
}

func (c *client) connect(target string) *clientStream {
	return c.request(false, ":method", "CONNECT", ":authority", target)
}

var errStreamReset = errors.New("stream is reset")

// await returns when ok holds, with an error when it never will.
func (s *clientStream) await(ok func() bool) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for !ok() {
		switch {
		case s.code != nil:
			return fmt.Errorf("%w: %v", errStreamReset, *s.code)
		case s.c.err != nil:
			return s.c.err
		}
		s.c.changed.Wait()
	}
	return nil
}

func (s *clientStream) status() (string, error) {
	err := s.await(func() bool { return s.fields != nil })
	return s.fields[":status"], err
}

func (s *clientStream) Read(p []byte) (n int, err error) {
	if err := s.await(func() bool { return len(s.received) > 0 || s.ended }); err != nil {
		return 0, err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	n = copy(p, s.received)
	if s.received = s.received[n:]; n == 0 && s.ended {
		return 0, io.EOF
	}
	return n, nil
}

func (s *clientStream) Write(p []byte) (n int, err error) {
	for n < len(p) {
		err := s.await(func() bool { return s.c.window > 0 && s.c.initial+s.offset > 0 })
		if err != nil {
			return n, err
		}
		s.c.mu.Lock()
		size := min(int64(len(p)-n), s.c.window, s.c.initial+s.offset, 16384)
		s.c.window -= size
		s.offset -= size
		err = s.c.framer.WriteData(s.id, false, p[n:n+int(size)])
		s.c.mu.Unlock()
		if err != nil {
			return n, err
		}
		n += int(size)
	}
	return n, nil
}

func (s *clientStream) closeWrite() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.framer.WriteData(s.id, true, nil)
}

func (s *clientStream) reset() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.framer.WriteRSTStream(s.id, http2.ErrCodeCancel)
	s.code = new(http2.ErrCode)
	*s.code = http2.ErrCodeCancel
}

// resetCode is the code of the edge's RST_STREAM, or empty.
func (s *clientStream) resetCode() string {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.code == nil {
		return ""
	}
	return s.code.String()
}
