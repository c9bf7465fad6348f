package edge

import (
	"errors"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

// runDatagrams answers a CONNECT-UDP, and carries what the destination sends.
func (s *stream) runDatagrams() {
	e, r := s.conn.edge, &s.request
	target, err := capsule.ParsePath(r.path)
	if r.scheme == "" || r.authority == "" || err != nil {
		s.answer(badPath())
		return
	}
	d, refused := e.openDatagrams(s.ctx, target, r.authorization)
	if refused != nil {
		s.answer(e.refuse(s.conn.socket.RemoteAddr().String(), udp, target, refused))
		return
	}
	if !s.attachDatagrams(d) {
		d.close()
		e.giveSlot()
		return
	}
	e.metrics.passed(udp)
	s.returnDatagrams()
}

// attachDatagrams is attach for a flow of datagrams.
func (s *stream) attachDatagrams(d *datagrams) bool {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead {
		return false
	}
	s.udp = d
	c.writeHeaders(s.id, "200", []hpack.HeaderField{{Name: capsule.Header, Value: capsule.HeaderTrue}})
	c.flush()
	if s.dead {
		return true // and closed: returnDatagrams finds that out
	}
	early := s.pending
	s.pending, s.queued = nil, false
	c.backlog -= len(early)
	if c.draining {
		d.retire()
	}
	if err := s.sendCapsules(early); err != nil {
		c.reset(s, http2.ErrCodeProtocol)
		return true
	}
	s.passed(len(early))
	if s.ended {
		c.endDatagrams(s)
	}
	return true
}

// sendCapsules sends what p and the pieces before it hold. One goroutine at a
// time may call it.
func (s *stream) sendCapsules(p []byte) (err error) {
	s.batch, err = s.capsules.Read(p, s.batch[:0])
	s.udp.send(s.batch)
	clear(s.batch)
	return err
}

// returnDatagrams carries what the destination sends, until the flow ends.
func (s *stream) returnDatagrams() {
	c := s.conn
	for c.awaitWindow(s) > 0 { // else the kernel's buffer is the one to fill
		var block *[]byte
		err := s.udp.receive(func(in *intake) {
			block = borrow(&c.edge.rooms.blocks, func() *[]byte { return new([]byte) })
			*block = c.edge.pack(append((*block)[:0], make([]byte, frameHeader)...), in)
		})
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if errors.Is(err, errQuiet) {
				c.endDatagrams(s)
			} else {
				c.reset(s, http2.ErrCodeConnect)
			}
			return
		}
		alive := c.send(s, *block)
		c.edge.rooms.blocks.Put(block)
		if !alive {
			return
		}
	}
}

// pack appends what was received, in capsules.
func (e *Edge) pack(p []byte, in *intake) []byte {
	count, bytes := 0, 0
	for d := range in.datagrams() {
		p = capsule.Append(p, d)
		count++
		bytes += len(d)
	}
	e.metrics.returned(count, bytes)
	return p
}

// endDatagrams ends both ways of a flow of datagrams: it has no halves.
func (c *connection) endDatagrams(s *stream) {
	if s.dead {
		return
	}
	c.framer.WriteData(s.id, true, nil)
	if !s.ended {
		c.framer.WriteRSTStream(s.id, http2.ErrCodeNo)
	}
	c.kill(s)
	c.hurry()
}
