package edge

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What an edge announces to its clients, in bytes.
const (
	connectionWindow = 8 << 20   // in flight from a client, all streams together
	streamWindow     = 256 << 10 // in flight on a new stream
	maxStreamWindow  = 4 << 20   // what a stream's window grows to while its destination keeps up
	maxBacklog       = 64 << 20  // held for slow destinations before the whole connection waits
	maxReadFrame     = 64 << 10
)

// connection is one HTTP/2 connection of a client.
//
// One goroutine reads its frames, and writes bytes on to their destination
// itself as far as the socket takes them without waiting. Each flow has one
// goroutine more, which dials and then copies towards the client; it writes
// to the client itself unless somebody is doing that already. So a byte needs
// no goroutine but the one that read it, and a quiet flow holds no buffer.
type connection struct {
	edge      *Edge
	wire      net.Conn      // TLS
	socket    *accepted     // below wire
	framer    *http2.Framer // reads in serve alone, writes under mu
	flows     sync.WaitGroup
	unflushed chan struct{} // wakes the flusher; holds 1

	mu        sync.Mutex
	err       error // why the connection is over
	streams   map[uint32]*stream
	lastID    uint32
	running   int // goroutines that dial, carry or answer
	greeted   bool
	draining  bool
	idleSince time.Time

	window  int // what the client may still send
	credit  int // what it has sent since the last update
	backlog int // what waits for destinations

	sender
}

// serveHTTP2 returns when nothing of the connection runs any more.
func (e *Edge) serveHTTP2(wire net.Conn, socket *accepted) {
	c := newConnection(e, wire, socket)
	if !e.enter(c) {
		return
	}
	defer e.leave(c)
	c.serve()
}

func newConnection(e *Edge, wire net.Conn, socket *accepted) *connection {
	c := &connection{
		edge:      e,
		wire:      wire,
		socket:    socket,
		unflushed: make(chan struct{}, 1),
		streams:   make(map[uint32]*stream),
		window:    connectionWindow,
		idleSince: time.Now(),
	}
	c.sender.init(&c.mu)
	c.framer = http2.NewFramer(&c.queue, bufio.NewReaderSize(c, 32<<10))
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(maxReadFrame)
	c.framer.MaxHeaderListSize = maxHeaderBytes
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return c
}

func (c *connection) serve() {
	flusher := make(chan struct{})
	go func() {
		defer close(flusher)
		c.flushWhenAsked()
	}()
	err := c.greet()
	for err == nil {
		var frame http2.Frame
		if frame, err = c.framer.ReadFrame(); err == nil {
			err = c.receive(frame)
		}
		if bad, ok := errors.AsType[http2.StreamError](err); ok {
			c.refuseStream(bad.StreamID, bad.Code)
			err = nil
		}
	}
	c.end(err)
	c.flows.Wait()
	close(c.unflushed)
	<-flusher
	c.wire.Close()
}

// greet exchanges prefaces, RFC 9113 section 3.4.
func (c *connection) greet() error {
	c.wire.SetReadDeadline(time.Now().Add(c.edge.options.HeaderTimeout))
	c.mu.Lock()
	c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.edge.options.MaxFlows)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: maxReadFrame},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderBytes},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1},
	)
	c.framer.WriteWindowUpdate(0, connectionWindow-65535)
	c.hurry()
	c.mu.Unlock()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return err
	}
	if !bytes.Equal(preface, []byte(http2.ClientPreface)) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	frame, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	return c.settings(settings)
}

// Read waits for the client's bytes: without end while the connection has
// flows, for IdleTimeout otherwise.
func (c *connection) Read(p []byte) (int, error) {
	for {
		n, err := c.wire.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		c.mu.Lock()
		next := time.Now().Add(c.edge.options.IdleTimeout)
		overdue := !c.greeted
		if len(c.streams) == 0 {
			next = c.idleSince.Add(c.edge.options.IdleTimeout)
			overdue = overdue || c.draining || !time.Now().Before(next)
		}
		if !overdue {
			c.wire.SetReadDeadline(next)
		}
		c.mu.Unlock()
		if overdue {
			return 0, io.EOF
		}
	}
}

// receive acts on one frame of the client.
func (c *connection) receive(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.rstStream(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mu.Lock()
			c.framer.WritePing(true, f.Data)
			c.hurry()
			c.mu.Unlock()
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// headers starts a flow, or ends the client's way of one by trailers.
func (c *connection) headers(f *http2.MetaHeadersFrame) error {
	if f.StreamID%2 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID <= c.lastID {
		s := c.streams[f.StreamID]
		switch {
		case s == nil: // crossed our reset
			return nil
		case s.ended || !f.StreamEnded():
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
		s.ended = true
		if !s.queued {
			c.endUpload(s)
		}
		return nil
	}
	c.lastID = f.StreamID
	// What counts is goroutines, not streams: a client that opens and resets
	// cannot have more dials under way than one that waits.
	if c.draining || c.running >= c.edge.options.MaxFlows {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeRefusedStream}
	}
	s := c.newStream(f)
	c.streams[s.id] = s
	c.running++
	c.flows.Go(s.run)
	return nil
}

func (c *connection) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.sendWindow += int64(f.Increment); c.sendWindow > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.room.Broadcast()
		return nil
	}
	s := c.streams[f.StreamID]
	if s == nil {
		return c.closedOrIdle(f.StreamID)
	}
	if s.sendOffset += int64(f.Increment); s.sendOffset+c.initialWindow > maxWindow {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	s.opened.Broadcast()
	return nil
}

func (c *connection) rstStream(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.StreamID]
	if s == nil {
		return c.closedOrIdle(f.StreamID)
	}
	c.kill(s)
	return nil
}

// closedOrIdle tolerates a frame for a stream that was, and no frame for one
// that never was (RFC 9113 section 5.1).
func (c *connection) closedOrIdle(id uint32) error {
	if id > c.lastID || id%2 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

func (c *connection) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	window := c.initialWindow
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		c.sender.set(s)
		return nil
	})
	if err != nil {
		return err
	}
	if c.initialWindow > window {
		for _, s := range c.streams {
			s.opened.Broadcast()
		}
	}
	c.framer.WriteSettingsAck()
	c.hurry()
	return nil
}

// drain takes no new flow. The connection ends when it carries none.
func (c *connection) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.framer.WriteGoAway(c.lastID, http2.ErrCodeNo, nil)
	for _, s := range c.streams {
		if s.udp != nil {
			s.udp.retire()
		}
	}
	c.hurry()
	c.settleIdle()
}

// abort ends the connection, and every flow by a reset.
func (c *connection) abort() { c.socket.reset() }

// settleIdle wakes the reader when it has nothing left to wait for.
func (c *connection) settleIdle() {
	if len(c.streams) > 0 {
		return
	}
	c.idleSince = time.Now()
	if cap(c.spare) > maxIdleSpare {
		c.spare = nil
	}
	if c.draining {
		c.wire.SetReadDeadline(c.idleSince)
	}
}

// end says why the connection is over, and resets what it still carries.
func (c *connection) end(err error) {
	code := http2.ErrCodeNo
	if broken, ok := errors.AsType[http2.ConnectionError](err); ok {
		code = http2.ErrCode(broken)
	} else if errors.Is(err, http2.ErrFrameTooLarge) {
		code = http2.ErrCodeFrameSize
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		c.kill(s)
	}
	c.wire.SetWriteDeadline(time.Now().Add(time.Second))
	c.framer.WriteGoAway(c.lastID, code, nil)
	for c.err == nil && (c.flushing || len(c.queue) > 0) {
		c.hurry()
		c.room.Wait()
	}
	c.err = cmp.Or(c.err, err)
}
