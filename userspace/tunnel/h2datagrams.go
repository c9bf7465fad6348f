package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/net/http2"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

// maxCapsuleQueue is how many bytes may wait to be written for datagrams to be
// queued still. It holds a few trains of the longest that UDP_SEGMENT makes.
const maxCapsuleQueue = 256 << 10

// h2Datagrams are Datagrams in the capsules of an HTTP/2 stream.
type h2Datagrams struct {
	stream  *h2Stream
	dropped atomic.Uint64
}

// connectUDP is connect for datagrams, once the edge's SETTINGS say that it takes
// extended CONNECT at all.
func (c *h2Conn) connectUDP(ctx context.Context, r request) (*h2Datagrams, error) {
	select {
	case <-c.settled:
	case <-c.done:
	case <-ctx.Done():
		c.giveBack()
		return nil, &StageError{StageConnect, context.Cause(ctx)}
	}
	c.mu.Lock()
	refused := c.err == nil && !c.extended
	c.mu.Unlock()
	if refused {
		c.giveBack()
		return nil, fmt.Errorf("%w: no extended CONNECT over HTTP/2", ErrNoDatagrams)
	}
	s, err := c.connect(ctx, r)
	if err != nil {
		return nil, err
	}
	return &h2Datagrams{stream: s}, nil
}

// giveBack gives up a stream that was promised and is not opened.
func (c *h2Conn) giveBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release()
}

// Send implements Datagrams. tend writes, so that an edge that does not read holds
// up none of the caller's other flows.
func (d *h2Datagrams) Send(batch [][]byte) error {
	s, c := d.stream, d.stream.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	case s.ended:
		return io.EOF
	}
	sent := c.queueCapsules(s, batch)
	d.dropped.Add(uint64(len(batch) - sent))
	c.kick()
	return nil
}

// queueCapsules queues those datagrams for which there is window and room, whole,
// and returns how many. DATA frames hold as many capsules as they can. c.mu is
// held.
func (c *h2Conn) queueCapsules(s *h2Stream, batch [][]byte) (sent int) {
	room := min(s.window, c.window, maxCapsuleQueue-len(c.queue.b))
	b := c.capsules[:0]
	for _, payload := range batch {
		if len(payload) > capsule.MaxPayload || len(b)+capsule.Size(len(payload)) > room {
			continue
		}
		b = capsule.Append(b, payload)
		sent++
	}
	c.capsules = b[:0]
	s.window -= len(b)
	c.window -= len(b)
	for len(b) > 0 {
		n := min(len(b), c.maxData)
		c.queueData(s.id, b[:n])
		b = b[n:]
	}
	return sent
}

// Receive implements Datagrams. Payloads that are whole in the receive buffer are
// handed out where they lie, and those that came together as one batch.
func (d *h2Datagrams) Receive(deliver func(batch [][]byte)) error {
	var capsules capsule.Reader
	var batch [][]byte
	for {
		b, err := d.stream.next()
		if err == io.EOF && capsules.Within() {
			return lost(err)
		}
		if err != nil {
			return err
		}
		batch, err = capsules.Read(b, batch[:0])
		if len(batch) > 0 {
			deliver(batch)
		}
		d.stream.consume(len(b))
		if err != nil {
			d.stream.abort(http2.ErrCodeProtocol)
			return fmt.Errorf("%w: %w", ErrReset, err)
		}
	}
}

// Dropped implements Datagrams.
func (d *h2Datagrams) Dropped() uint64 { return d.dropped.Load() }

// Close implements Datagrams.
func (d *h2Datagrams) Close() error { return d.stream.Close() }
