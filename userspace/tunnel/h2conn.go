package tunnel

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// defaultStreamLimit is how many streams are opened before the edge's
	// SETTINGS say how many it takes. RFC 9113 section 6.5.2 advises edges
	// to take no fewer.
	defaultStreamLimit = 100

	maxStreamID   = 1<<31 - 1
	maxBacklog    = 1 << 20  // of requests that the edge does not take, in bytes
	maxHeaderList = 32 << 10 // of an answer, in bytes
	maxFrameSize  = 64 << 10 // of received frames, in bytes

	// pingPatience is how long an edge may take to answer a PING, and
	// answerPatience to answer a CONNECT before it is asked by PING whether
	// it is there at all.
	pingPatience   = 10 * time.Second
	answerPatience = 3 * time.Second

	// farewellTime bounds sending GOAWAY to an edge that does not read.
	farewellTime = time.Second
)

// h2Conn carries streams over one HTTP/2 connection (RFC 9113).
//
// Two goroutines serve it. read takes frames in, and never waits for the edge
// to take any: what it has to say it queues. tend writes what is queued and
// nobody else writes. Streams write in their own goroutines, see flush.
type h2Conn struct {
	link    *link
	pool    *pool
	framer  *http2.Framer // its writing half appends to queue, with mu held
	kicked  chan struct{} // tells tend to look at queue
	done    chan struct{} // closed by end
	settled chan struct{} // closed when the edge's first SETTINGS are known

	load    atomic.Int32 // streams that are open or promised
	limit   atomic.Int32 // of load
	closing atomic.Bool  // no new streams

	mu      sync.Mutex
	streams map[uint32]*h2Stream
	nextID  uint32
	err     error // why the connection ended
	polite  bool  // the edge is told so, by GOAWAY with goodbye
	goodbye http2.ErrCode

	// Writing.
	queue    frames      // to be written
	spare    []byte      // the other buffer, while it is not being written
	writing  bool        // someone writes, without mu
	written  sync.Cond   // writing became false after end
	speaker  uint32      // the stream that last queued DATA
	shared   bool        // that has changed since the last gather
	answers  int         // bytes in queue that the edge made us send
	turns    []*h2Stream // streams that wait for window or queue to have room
	window   int         // connection's send window
	initial  int         // send window of new streams
	maxData  int         // bytes of DATA per frame
	encoder  *hpack.Encoder
	block    bytes.Buffer // encoder's output
	maxFrame int          // the edge's SETTINGS_MAX_FRAME_SIZE
	extended bool         // the edge takes extended CONNECT, RFC 8441
	capsules []byte       // room to put some together

	// Reading.
	left   int           // of the connection's receive window
	budget int           // for the growth of streams' receive windows
	rtt    time.Duration // the shortest that was measured; zero before
	pinged time.Time     // when the PING was queued that is not answered yet
	calm   calm          // of the reader alone
	scrap  [512]byte     // of the reader alone: where unwanted bytes go
}

// frames collects written frames.
type frames struct{ b []byte }

// Write appends; it implements io.Writer for the Framer.
func (f *frames) Write(b []byte) (int, error) {
	f.b = append(f.b, b...)
	return len(b), nil
}

// newH2Conn returns a connection on l with its preface queued. The caller runs
// read and tend.
func newH2Conn(l *link, p *pool) *h2Conn {
	c := &h2Conn{
		link:    l,
		pool:    p,
		kicked:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		settled: make(chan struct{}),
		streams: make(map[uint32]*h2Stream),
		nextID:  1,
		window:  initialWindow,
		initial: initialWindow,
		left:    connWindow,
		budget:  windowBudget,
	}
	c.limit.Store(defaultStreamLimit)
	c.written.L = &c.mu
	c.setMaxFrame(16 << 10)
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer = http2.NewFramer(&c.queue, l.Conn)
	c.framer.SetMaxReadFrameSize(maxFrameSize)
	c.framer.SetReuseFrames()
	c.framer.MaxHeaderListSize = maxHeaderList
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)

	io.WriteString(&c.queue, http2.ClientPreface)
	c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: maxFrameSize},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	)
	c.framer.WriteWindowUpdate(0, connWindow-initialWindow)
	c.ping()
	c.kick()
	return c
}

// connect sends a CONNECT on a stream that was promised, and waits for the
// answer. An error that matches errUnanswered allows another try elsewhere.
func (c *h2Conn) connect(ctx context.Context, r request) (*h2Stream, error) {
	s, err := c.open(r)
	if err != nil {
		return nil, &StageError{StageConnect, err}
	}
	if err := c.awaitAnswer(ctx, s); err != nil {
		return nil, &StageError{StageConnect, err}
	}
	status, err := s.answer()
	if err != nil {
		return nil, &StageError{StageConnect, err}
	}
	if status/100 == 2 {
		return s, nil
	}
	refusal := &RefusedError{Status: status, Body: s.snippet(ctx)}
	s.Close()
	return nil, refusal
}

// awaitAnswer waits for an answer to s. A connection that died in silence, as
// all do when the host's network changes, is found out by the first CONNECT.
func (c *h2Conn) awaitAnswer(ctx context.Context, s *h2Stream) error {
	slow := time.NewTimer(answerPatience)
	defer slow.Stop()
	for {
		select {
		case <-s.answered:
			return nil
		case <-slow.C:
			c.doubt()
		case <-ctx.Done():
			s.abort(http2.ErrCodeCancel)
			return context.Cause(ctx)
		}
	}
}

// doubt asks the edge for a sign of life, unless it is being asked.
func (c *h2Conn) doubt() {
	if !c.link.raw.doubt() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.ping()
		c.kick()
	}
}

// open queues the request. tend writes it, since a context may end the wait for
// an answer, but no write.
func (c *h2Conn) open(r request) (*h2Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Load() || c.nextID > maxStreamID || len(c.queue.b) > maxBacklog {
		c.closing.Store(true)
		c.release()
		c.endIfDrained()
		return nil, errUnanswered
	}
	s := newH2Stream(c, c.nextID)
	c.streams[s.id] = s
	c.nextID += 2
	c.queueRequest(s.id, r)
	c.kick()
	return s, nil
}

// release gives the place of a stream back. c.mu is held.
func (c *h2Conn) release() {
	c.load.Add(-1)
	c.pool.freed(1)
}

// detach forgets a stream that is over. c.mu is held.
func (c *h2Conn) detach(s *h2Stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	c.release()
	c.endIfDrained()
}

// endIfDrained ends a connection that takes no new streams and has no old
// ones. c.mu is held.
func (c *h2Conn) endIfDrained() {
	if c.closing.Load() && len(c.streams) == 0 {
		c.end(errDrained, true, http2.ErrCodeNo)
	}
}

// end ends the connection and all its streams, once. Whoever is writing, tend
// perhaps, is freed by that; tend then says the farewell, if it is a polite end,
// and closes. c.mu is held.
func (c *h2Conn) end(cause error, polite bool, goodbye http2.ErrCode) {
	if c.err != nil {
		return
	}
	c.err, c.polite, c.goodbye = cause, polite, goodbye
	c.closing.Store(true)
	for _, s := range c.streams {
		s.connectionLost(cause)
	}
	if polite {
		c.link.raw.SetWriteDeadline(time.Now().Add(farewellTime))
	} else {
		c.link.raw.Close()
	}
	close(c.done)
}

// close ends the connection for the pool, which waits for its goroutines.
func (c *h2Conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(net.ErrClosed, true, http2.ErrCodeNo)
}

// silent is asked after an interval of silence: is the edge there, and do we
// need it? It runs in the reader.
func (c *h2Conn) silent() error {
	retired := c.pool.retire(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if retired {
		c.end(errIdle, true, http2.ErrCodeNo)
		return errIdle
	}
	c.ping()
	c.kick()
	return nil
}

// ping queues a PING. c.mu is held.
func (c *h2Conn) ping() {
	c.pinged = time.Now()
	c.framer.WritePing(false, [8]byte{})
}

// leave says farewell and closes. It runs in tend, as the last.
func (c *h2Conn) leave() {
	c.pool.gone(c, c.err)
	if !c.polite {
		return
	}
	c.mu.Lock()
	for c.writing {
		c.written.Wait()
	}
	c.framer.WriteGoAway(0, c.goodbye, nil)
	last := c.queue.b
	c.mu.Unlock()
	// Nobody else writes after end.
	if _, err := c.link.Write(last); err != nil {
		c.link.raw.Close()
		return
	}
	if err := c.link.Close(); err != nil {
		c.pool.log.Debug("close connection", slog.Any("cause", err))
	}
}
