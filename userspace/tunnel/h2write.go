package tunnel

import (
	"encoding/binary"
	"runtime"
	"slices"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/bpfacq/bpfacq/userspace/capsule"
	"github.com/bpfacq/bpfacq/userspace/tlsrecord"
)

const (
	// maxQueue is how many bytes may wait while others are being written.
	// DATA waits for room; what is not DATA is bounded by what causes it.
	maxQueue = 64 << 10

	// shortQueue is how many queued bytes are worth waiting for more.
	shortQueue = 4 << 10

	// maxAnswers is how many bytes of answers may wait, to an edge that
	// asks and does not read.
	maxAnswers = 16 << 10

	// maxBurst is how much DATA a stream queues in one turn.
	maxBurst = 64 << 10

	frameHeaderLen = 9
	maxDataRecords = 4 // that a DATA frame spans
)

// flush writes what is queued, unless someone is at it who will look again. The
// caller's bytes are in the first round; what others queue during that is for
// tend, so that no stream works for the others for long. c.mu is held, but not
// during the write.
func (c *h2Conn) flush() {
	if c.writing || c.err != nil || len(c.queue.b) == 0 {
		return
	}
	c.gather()
	c.writeQueue()
	if len(c.queue.b) > 0 {
		c.kick()
	}
}

// gather gives other streams that have something to say the time to queue it: a
// system call and a TLS record for several frames cost hardly more than for one.
// For a stream that speaks alone, however many are silent, it does nothing: to
// yield wakes an idle processor. c.mu is held, but not meanwhile.
func (c *h2Conn) gather() {
	alone := !c.shared
	c.shared = false
	if alone || len(c.queue.b) >= shortQueue {
		return
	}
	c.writing = true
	c.mu.Unlock()
	runtime.Gosched()
	c.mu.Lock()
	c.writing = false
}

// writeQueue writes what is queued now. c.mu is held, but not during the write.
func (c *h2Conn) writeQueue() {
	full := c.queue.b
	c.queue.b, c.spare = c.spare[:0], nil
	c.answers = 0
	c.writing = true
	c.passTurn() // the next bytes are queued while these are written
	c.mu.Unlock()
	_, err := c.link.Write(full)
	c.mu.Lock()
	c.writing = false
	c.spare = full[:0]
	if err != nil {
		c.end(err, false, 0)
	}
	if c.err != nil {
		c.written.Signal()
	}
}

// kick makes tend write the queue. It never blocks.
func (c *h2Conn) kick() {
	select {
	case c.kicked <- struct{}{}:
	default: // tend is on its way
	}
}

// tend writes what nobody else does, and ends the connection in the end.
func (c *h2Conn) tend() {
	for {
		select {
		case <-c.kicked:
			c.mu.Lock()
			for !c.writing && c.err == nil && len(c.queue.b) > 0 {
				c.gather()
				c.writeQueue()
			}
			c.mu.Unlock()
		case <-c.done:
			c.leave()
			return
		}
	}
}

// answerQueued accounts for what was queued since before, because the edge asked
// for it. The error says that the edge asks and does not read. It runs in the
// reader, so it leaves the writing to tend. c.mu is held.
func (c *h2Conn) answerQueued(before int) error {
	c.answers += len(c.queue.b) - before
	if c.answers > maxAnswers {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	c.kick()
	return nil
}

// hasRoom reports whether the connection takes DATA now. c.mu is held.
func (c *h2Conn) hasRoom() bool { return len(c.queue.b) < maxQueue && c.window > 0 }

// await returns when s has window, the connection has room, and the streams
// that asked before s had their turn. c.mu is held, but not meanwhile.
func (c *h2Conn) await(s *h2Stream) error {
	waiting := false // in c.turns
	for s.err == nil {
		switch {
		case s.window <= 0:
			if waiting {
				c.leaveTurn(s)
				waiting = false
			}
		case !waiting && len(c.turns) == 0 && c.hasRoom():
			return nil
		case !waiting:
			c.turns = append(c.turns, s)
			waiting = true
		case c.turns[0] == s && c.hasRoom():
			c.turns = slices.Delete(c.turns, 0, 1)
			return nil
		}
		s.writable.Wait()
	}
	if waiting {
		c.leaveTurn(s)
	}
	return s.err
}

// leaveTurn takes s out of the queue of writers. c.mu is held.
func (c *h2Conn) leaveTurn(s *h2Stream) {
	i := slices.Index(c.turns, s)
	c.turns = slices.Delete(c.turns, i, i+1)
	c.passTurn()
}

// passTurn wakes the first of the waiting writers if it can go on. It stays the
// first until it does, so no wake-up is lost. c.mu is held.
func (c *h2Conn) passTurn() {
	if len(c.turns) > 0 && c.hasRoom() {
		c.turns[0].writable.Signal()
	}
}

// write queues as much of b as goes in one turn, and returns how much that was.
// c.mu is held, but not while it waits for its turn.
func (c *h2Conn) write(s *h2Stream, b []byte) (int, error) {
	if err := c.await(s); err != nil {
		return 0, err
	}
	n := min(len(b), s.window, c.window, maxBurst)
	s.window -= n
	c.window -= n
	for b := b[:n]; len(b) > 0; {
		m := min(len(b), c.maxData)
		c.queueData(s.id, b[:m])
		b = b[m:]
	}
	c.passTurn()
	c.flush()
	return n, nil
}

// queueData queues one DATA frame. The Framer would copy b twice.
func (c *h2Conn) queueData(id uint32, b []byte) {
	if id != c.speaker {
		c.speaker, c.shared = id, true
	}
	var header [frameHeaderLen]byte
	header[0] = byte(len(b) >> 16)
	binary.BigEndian.PutUint16(header[1:], uint16(len(b)))
	header[3] = byte(http2.FrameData)
	binary.BigEndian.PutUint32(header[5:], id)
	c.queue.b = append(c.queue.b, header[:]...)
	c.queue.b = append(c.queue.b, b...)
}

// queueRequest queues the HEADERS of a CONNECT, RFC 9113 section 8.5, or of an
// extended one, RFC 8441 section 4. The authorization is left indexable: it is too
// long to guess, and would make up most of each request.
func (c *h2Conn) queueRequest(id uint32, r request) {
	c.block.Reset()
	c.encoder.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
	if r.udp {
		c.encoder.WriteField(hpack.HeaderField{Name: ":protocol", Value: capsule.Protocol})
		c.encoder.WriteField(hpack.HeaderField{Name: ":scheme", Value: "https"})
		c.encoder.WriteField(hpack.HeaderField{Name: ":authority", Value: c.pool.dialer.address})
		c.encoder.WriteField(hpack.HeaderField{Name: ":path", Value: r.path()})
		c.encoder.WriteField(hpack.HeaderField{Name: capsule.Header, Value: capsule.HeaderTrue})
	} else {
		c.encoder.WriteField(hpack.HeaderField{Name: ":authority", Value: r.authority})
	}
	if r.authorization != "" {
		c.encoder.WriteField(hpack.HeaderField{Name: "proxy-authorization", Value: r.authorization})
	}
	first := c.block.Next(c.maxFrame)
	c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID:      id,
		BlockFragment: first,
		EndHeaders:    c.block.Len() == 0,
	})
	for c.block.Len() > 0 {
		next := c.block.Next(c.maxFrame)
		c.framer.WriteContinuation(id, c.block.Len() == 0, next)
	}
}

// setMaxFrame takes the edge's SETTINGS_MAX_FRAME_SIZE. DATA frames are cut so
// that with their header they fill TLS records without a rest, which would
// cost a record of its own.
func (c *h2Conn) setMaxFrame(n int) {
	c.maxFrame = n
	c.maxData = min(n/tlsrecord.Len, maxDataRecords)*tlsrecord.Len - frameHeaderLen
}
