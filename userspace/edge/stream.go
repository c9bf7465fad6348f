package edge

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"golang.org/x/net/http2"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

// stream is one request of an HTTP/2 connection, and the flow that it becomes.
type stream struct {
	conn    *connection
	id      uint32
	request request
	ctx     context.Context // of the dial
	cancel  context.CancelFunc

	// Set once, before queued is first cleared.
	origin *net.TCPConn
	out    *outflow
	udp    *datagrams // instead, of a flow of datagrams

	// Of a flow of datagrams, for whoever sends: the reader once queued is
	// cleared.
	capsules capsule.Reader
	batch    [][]byte

	// The rest is guarded by connection.mu.
	dead       bool      // reset, by either side
	sendOffset int64     // what the stream may send beyond the client's initial window
	opened     sync.Cond // it may send again, or is dead
	waitsRoom  bool      // it waits for room

	window     int  // what the client may still send
	fullSize   int  // of the window
	credit     int  // what has gone on since the last update
	stalled    bool // the destination did not keep up since the last update
	ended      bool // the client has sent END_STREAM
	broken     bool // the destination takes no more
	uploaded   bool // all has gone on, the end too
	downloaded bool // END_STREAM is sent

	// While queued, somebody other than the reader owns the way to the
	// destination, and the reader leaves what it reads in pending.
	queued  bool
	pending []byte
}

// request is what an edge looks at in a request's header.
type request struct {
	method, authority, path, scheme, protocol string

	authorization string
	truncated     bool
}

func parseRequest(f *http2.MetaHeadersFrame) request {
	r := request{truncated: f.Truncated}
	for _, field := range f.Fields {
		switch field.Name {
		case ":method":
			r.method = field.Value
		case ":authority":
			r.authority = field.Value
		case ":path":
			r.path = field.Value
		case ":scheme":
			r.scheme = field.Value
		case ":protocol":
			r.protocol = field.Value
		case "proxy-authorization":
			r.authorization = field.Value
		}
	}
	return r
}

func (c *connection) newStream(f *http2.MetaHeadersFrame) *stream {
	s := &stream{
		conn:     c,
		id:       f.StreamID,
		request:  parseRequest(f),
		window:   streamWindow,
		fullSize: streamWindow,
		ended:    f.StreamEnded(),
		queued:   true,
	}
	s.opened.L = &c.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// run answers the request. For a flow it dials, and carries what the
// destination sends.
func (s *stream) run() {
	reserveStack(0)
	defer s.conn.ran()
	defer s.cancel()
	e, r := s.conn.edge, &s.request
	switch {
	case r.truncated:
		s.answer(newAnswer(http.StatusRequestHeaderFieldsTooLarge, "send less than 16 KiB of header"))
	case r.method != http.MethodConnect:
		s.answer(plainAnswer(r.method, r.path))
	case r.protocol == capsule.Protocol:
		s.runDatagrams()
	case r.protocol != "":
		s.answer(unknownProtocol())
	case r.scheme != "" || r.path != "":
		s.answer(newAnswer(http.StatusBadRequest, "send CONNECT without :scheme and :path"))
	default:
		origin, refused := e.open(s.ctx, r.authority, r.authorization)
		if refused != nil {
			s.answer(e.refuse(s.conn.socket.RemoteAddr().String(), tcp, r.authority, refused))
			return
		}
		if !s.attach(origin) {
			abandon(origin)
			e.giveSlot()
			return
		}
		e.metrics.passed(tcp)
		s.download()
	}
}

// ran accounts for the end of run.
func (c *connection) ran() {
	c.mu.Lock()
	c.running--
	c.mu.Unlock()
}

// answer sends a whole response, and is done with the client's bytes.
func (s *stream) answer(a *answer) {
	c := s.conn
	c.mu.Lock()
	if !s.dead {
		c.writeHeaders(s.id, strconv.Itoa(a.status), a.fields)
	}
	c.mu.Unlock()
	if s.request.method != http.MethodHead {
		c.send(s, append(make([]byte, frameHeader), a.body...))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead {
		return
	}
	c.framer.WriteData(s.id, true, nil)
	if !s.ended {
		c.framer.WriteRSTStream(s.id, http2.ErrCodeNo)
	}
	c.kill(s)
	c.flush()
}

// attach gives the stream its destination and tells the client. It reports
// false when the stream has died during the dial.
func (s *stream) attach(origin *net.TCPConn) bool {
	out, err := newOutflow(origin)
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead || err != nil {
		return false
	}
	s.origin, s.out = origin, out
	c.writeHeaders(s.id, "200", nil)
	c.flush()
	if s.dead {
		return true // and closed: download finds that out
	}
	if len(s.pending) > 0 || s.ended {
		c.flows.Go(s.upload)
	} else {
		s.queued = false
	}
	return true
}

// download copies towards the client until the destination's FIN.
func (s *stream) download() {
	c := s.conn
	in, err := newInflow(s.origin, c.edge.buffers, frameHeader)
	for err == nil {
		limit := c.awaitWindow(s)
		if limit == 0 {
			return
		}
		var p []byte
		if p, err = in.next(limit); err != nil {
			break
		}
		c.edge.metrics.received.Add(float64(len(p) - frameHeader))
		alive := c.send(s, p)
		in.release()
		if !alive {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead {
		return
	}
	if err != io.EOF || s.broken {
		c.reset(s, http2.ErrCodeConnect)
		return
	}
	c.framer.WriteData(s.id, true, nil)
	s.downloaded = true
	c.settle(s)
	c.flush()
}

// settle closes a stream that has ended both ways.
func (c *connection) settle(s *stream) {
	if s.uploaded && s.downloaded && !s.dead {
		c.remove(s)
		s.origin.Close()
		c.edge.giveSlot()
	}
}

// reset ends the stream towards the client (RFC 9113 section 8.5) and the
// destination.
func (c *connection) reset(s *stream, code http2.ErrCode) {
	if !s.dead {
		c.framer.WriteRSTStream(s.id, code)
		c.kill(s)
		c.hurry()
	}
}

// refuseStream answers a stream's protocol error.
func (c *connection) refuseStream(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID = max(c.lastID, id)
	c.framer.WriteRSTStream(id, code)
	if s := c.streams[id]; s != nil {
		c.kill(s)
	}
	c.hurry()
}

// kill ends the stream towards the destination, a connection by a TCP reset.
func (c *connection) kill(s *stream) {
	c.remove(s)
	switch {
	case s.origin != nil:
		abandon(s.origin)
		c.edge.giveSlot()
	case s.udp != nil:
		s.udp.close()
		c.edge.giveSlot()
	}
}

func (c *connection) remove(s *stream) {
	s.dead = true
	delete(c.streams, s.id)
	c.backlog -= len(s.pending)
	s.pending = nil
	s.cancel()
	s.opened.Broadcast()
	if s.waitsRoom {
		c.room.Broadcast()
	}
	c.settleIdle()
}

// abandon closes with a TCP reset.
func abandon(origin *net.TCPConn) {
	origin.SetLinger(0)
	origin.Close()
}

// reserveStack has the runtime grow a new goroutine's stack once, while there
// is nothing on it to move: a dial needs that much, and would have it grown
// three times under many frames.
//
//go:noinline
func reserveStack(i int) byte {
	var room [6 << 10]byte
	return room[i]
}
