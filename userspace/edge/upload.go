package edge

import "golang.org/x/net/http2"

// data takes a client's bytes.
func (c *connection) data(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.hurry()
	length := int(f.Length)
	if c.window -= length; c.window < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.credit += length
	c.replenish()
	s := c.streams[f.StreamID]
	if s == nil {
		return c.closedOrIdle(f.StreamID)
	}
	if s.ended {
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeStreamClosed}
	}
	if s.window -= length; s.window < 0 {
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeFlowControl}
	}
	s.ended = f.StreamEnded()
	p := f.Data()
	s.credit += length - len(p) // padding
	if s.queued {
		s.hold(p)
		return nil
	}
	if s.udp != nil {
		return c.datagrams(s, p)
	}
	c.mu.Unlock()
	n, err := s.out.tryWrite(p)
	c.edge.metrics.sent.Add(float64(n))
	c.mu.Lock()
	if s.dead {
		return nil
	}
	s.passed(n)
	if err != nil {
		s.breakUpload()
	} else if n < len(p) {
		s.queued, s.stalled = true, true
		s.hold(p[n:])
		c.flows.Go(s.upload)
	} else if s.ended {
		c.endUpload(s)
	}
	return nil
}

// datagrams sends the capsules that a client's bytes complete.
func (c *connection) datagrams(s *stream, p []byte) error {
	c.mu.Unlock()
	err := s.sendCapsules(p)
	c.mu.Lock()
	switch {
	case s.dead:
	case err != nil:
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeProtocol}
	case s.ended:
		c.endDatagrams(s)
	default:
		s.passed(len(p))
	}
	return nil
}

// hold keeps bytes for whoever owns the way to the destination.
func (s *stream) hold(p []byte) {
	if s.broken {
		s.passed(len(p))
		return
	}
	s.pending = append(s.pending, p...)
	s.conn.backlog += len(p)
}

// upload writes what is pending, waiting for the destination.
func (s *stream) upload() {
	c := s.conn
	var p []byte
	c.mu.Lock()
	defer c.mu.Unlock()
	for !s.dead && len(s.pending) > 0 {
		p, s.pending = s.pending, p[:0]
		c.mu.Unlock()
		n, err := s.origin.Write(p)
		c.edge.metrics.sent.Add(float64(n))
		c.mu.Lock()
		c.backlog -= len(p)
		if s.dead {
			return
		}
		s.passed(n)
		if err != nil {
			s.breakUpload()
			return
		}
		c.replenish()
		c.flush()
	}
	if s.dead {
		return
	}
	s.queued, s.pending = false, nil
	if s.ended {
		c.endUpload(s)
	}
}

// passed lets the client send as many bytes as have gone on. A destination that
// keeps up earns a bigger window.
func (s *stream) passed(n int) {
	if s.credit += n; s.credit < s.fullSize/2 || s.ended {
		return
	}
	grown := s.fullSize
	if !s.stalled {
		grown = min(2*s.fullSize, maxStreamWindow)
	}
	update := s.credit + grown - s.fullSize
	s.fullSize, s.stalled, s.credit = grown, false, 0
	s.window += update
	s.conn.framer.WriteWindowUpdate(s.id, uint32(update))
}

// replenish lets the client send again on the whole connection, unless too
// much of what it sent still waits for destinations.
func (c *connection) replenish() {
	if c.credit >= connectionWindow/2 && c.backlog <= maxBacklog {
		c.window += c.credit
		c.framer.WriteWindowUpdate(0, uint32(c.credit))
		c.credit = 0
	}
}

// breakUpload gives up the client's way. What the destination sent before it
// went is still to be read: download does so, and then resets the stream.
func (s *stream) breakUpload() {
	s.broken, s.queued = true, true
	s.conn.backlog -= len(s.pending)
	s.pending = nil
	if s.downloaded {
		s.conn.reset(s, http2.ErrCodeConnect)
	}
}

// endUpload passes the client's END_STREAM on.
func (c *connection) endUpload(s *stream) {
	if s.udp != nil {
		c.endDatagrams(s)
		return
	}
	s.origin.CloseWrite()
	s.uploaded = true
	c.settle(s)
}
