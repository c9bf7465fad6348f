package edge

import (
	"runtime"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHeader = 9         // bytes, RFC 9113 section 4.1
	maxWindow   = 1<<31 - 1 // bytes, RFC 9113 section 6.9.1
	shortQueue  = 4 << 10   // queued bytes that are worth waiting for more
	maxQueue    = 256 << 10 // queued bytes at which flows wait
	maxControl  = 1 << 20   // queued bytes at which the client is given up

	// What a connection without flows keeps of its queue, in bytes.
	maxIdleSpare = 16 << 10

	// A flow that finds itself writing for others does so this often, then
	// leaves it to the flusher and goes on with its own bytes.
	maxRounds = 2
)

// sender is the writing half of a connection, under the connection's mutex.
// Whoever has a frame writes it out, with all that was queued meanwhile; who
// finds somebody writing queues. So a lone flow needs no other goroutine, and
// flows that collide share system calls and TLS records.
type sender struct {
	queue    frames
	spare    frames
	flushing bool
	speaker  uint32    // the stream that last queued DATA
	shared   bool      // that has changed since the last gather
	room     sync.Cond // the queue is short, the connection's window open

	sendWindow    int64 // of the connection
	initialWindow int64 // of a stream, by the client's settings
	maxFrame      int
	encoder       *hpack.Encoder
	block         frames // a header block under construction
}

// frames is a buffer that a framer writes to.
type frames []byte

// Write appends p.
func (f *frames) Write(p []byte) (int, error) {
	*f = append(*f, p...)
	return len(p), nil
}

// init sets what holds before the client's settings, RFC 9113 section 6.5.2.
func (s *sender) init(mu *sync.Mutex) {
	s.room.L = mu
	s.sendWindow, s.initialWindow, s.maxFrame = 65535, 65535, 16384
	s.encoder = hpack.NewEncoder(&s.block)
}

func (s *sender) set(setting http2.Setting) {
	switch setting.ID {
	case http2.SettingInitialWindowSize:
		s.initialWindow = int64(setting.Val)
	case http2.SettingMaxFrameSize:
		s.maxFrame = int(setting.Val)
	case http2.SettingHeaderTableSize:
		s.encoder.SetMaxDynamicTableSize(min(setting.Val, 4096))
	}
}

// hurry has the flusher write the queue: for the reader, which must not wait.
func (c *connection) hurry() {
	if len(c.queue) > maxControl {
		c.fail(errFlood)
	}
	if !c.flushing && len(c.queue) > 0 && c.err == nil {
		c.flushing = true
		c.unflushed <- struct{}{}
	}
}

// flushWhenAsked writes for those who must not wait.
func (c *connection) flushWhenAsked() {
	for range c.unflushed {
		c.mu.Lock()
		for c.writeQueue() {
		}
		c.flushing = false
		c.room.Broadcast()
		c.mu.Unlock()
	}
}

// flush writes the queue, unless somebody is writing: then he does.
func (c *connection) flush() {
	if c.flushing {
		return
	}
	c.flushing = true
	c.gather()
	c.finishFlush()
}

// gather gives other flows that have something to say the time to queue it: a
// system call and a TLS record for several frames cost hardly more than for one.
// For a flow that speaks alone, however many are silent, it does nothing: to
// yield wakes an idle processor.
func (c *connection) gather() {
	alone := !c.shared
	c.shared = false
	if alone || len(c.queue) >= shortQueue {
		return
	}
	c.mu.Unlock()
	runtime.Gosched()
	c.mu.Lock()
}

// finishFlush is the rest of a flush whose first write is done.
func (c *connection) finishFlush() {
	for range maxRounds {
		if !c.writeQueue() {
			c.flushing = false
			return
		}
	}
	c.unflushed <- struct{}{}
}

// writeQueue reports whether there was something to write. It lets go of the
// mutex while it writes.
func (c *connection) writeQueue() bool {
	if len(c.queue) == 0 || c.err != nil {
		return false
	}
	batch := c.queue
	c.queue, c.spare = c.spare[:0], nil
	c.write(batch)
	c.spare = batch
	return true
}

// write writes p to the client, outside of the mutex.
func (c *connection) write(p []byte) {
	c.mu.Unlock()
	_, err := c.socket.Gather(c.wire, p)
	c.mu.Lock()
	if err != nil {
		c.fail(err)
	}
	c.room.Broadcast()
}

// fail ends the connection: the reader sees it closed and winds up.
func (c *connection) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.socket.Close()
	c.room.Broadcast()
	for _, s := range c.streams {
		s.opened.Broadcast()
	}
}

// send carries what stands behind the frame header's room in p, as DATA. It
// waits for the client's windows, and reports false when the stream is dead.
// It changes p.
func (c *connection) send(s *stream, p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.id != c.speaker {
		c.speaker, c.shared = s.id, true
	}
	for len(p) > frameHeader {
		n := c.reserve(s, len(p)-frameHeader)
		if n == 0 {
			return false
		}
		frame := p[:frameHeader+n]
		putFrameHeader(frame, n, http2.FrameData, 0, s.id)
		last := len(frame) == len(p)
		if last && len(frame) >= shortQueue && !c.flushing && len(c.queue) == 0 {
			c.flushing = true
			c.write(frame)
			c.finishFlush()
			return true
		}
		c.queue = append(c.queue, frame...)
		p = p[n:] // the next header overwrites what has gone
	}
	c.flush()
	return true
}

// reserve waits until DATA of the stream may be queued, and takes at most want
// bytes from both windows. It returns 0 when the stream is dead.
func (c *connection) reserve(s *stream, want int) int {
	for {
		window := c.initialWindow + s.sendOffset
		wait := &s.opened
		switch {
		case s.dead || c.err != nil:
			return 0
		case window <= 0:
		case c.sendWindow <= 0 || len(c.queue) >= maxQueue:
			wait = &c.room
		default:
			n := min(int64(want), window, c.sendWindow, int64(c.maxFrame))
			c.sendWindow -= n
			s.sendOffset -= n
			return int(n)
		}
		if !c.flushing && len(c.queue) > 0 {
			c.flush() // what is queued may be what opens the window
			continue
		}
		s.waitsRoom = wait == &c.room
		wait.Wait()
		s.waitsRoom = false
	}
}

// awaitWindow waits until the stream may send, and returns how much; 0 when it
// is dead.
func (c *connection) awaitWindow(s *stream) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s.dead || c.err != nil {
			return 0
		}
		if window := c.initialWindow + s.sendOffset; window > 0 {
			return int(window)
		}
		s.opened.Wait()
	}
}

// putFrameHeader follows RFC 9113 section 4.1.
func putFrameHeader(frame []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) {
	copy(frame, []byte{
		byte(length >> 16), byte(length >> 8), byte(length),
		byte(kind), byte(flags),
		byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id),
	})
}

// writeHeaders queues a response's HEADERS.
func (c *connection) writeHeaders(id uint32, status string, fields []hpack.HeaderField) {
	c.block = c.block[:0]
	c.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: status})
	for _, f := range fields {
		c.encoder.WriteField(f)
	}
	if c.edge.altSvc != "" {
		c.encoder.WriteField(hpack.HeaderField{Name: "alt-svc", Value: c.edge.altSvc})
	}
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block, EndHeaders: true})
}
