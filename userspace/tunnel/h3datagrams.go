package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

const (
	// smallRead and largeRead are how much of the capsules on a stream is read
	// at once, in bytes. Most flows have none.
	smallRead = 512
	largeRead = 32 << 10
)

// h3Datagrams are Datagrams over HTTP/3: in QUIC DATAGRAM frames, and in capsules on
// the request's stream if they are too long for those. RFC 9298 section 6.1 would
// rather have the long ones dropped, for applications that probe for the path's MTU;
// ours are acquired behind a device that has one, and fragments must get through.
type h3Datagrams struct {
	conn    *h3Conn
	stream  *http3.RequestStream
	frames  bool // the edge takes QUIC DATAGRAM frames
	inbox   mailbox
	dropped atomic.Uint64
	closed  atomic.Bool

	sending  sync.Mutex // of the stream
	capsules []byte     // room for one
}

// outgoing is an HTTP datagram on its way into the connection.
type outgoing struct {
	flow *h3Datagrams
	b    *[]byte
}

// connectUDP is connect for datagrams, if the edge's SETTINGS say that it takes
// extended CONNECT at all.
func (c *h3Conn) connectUDP(ctx context.Context, r request) (*h3Datagrams, error) {
	settings := c.client.Settings()
	if !settings.EnableExtendedConnect {
		c.load.Add(-1)
		return nil, fmt.Errorf("%w: no extended CONNECT over HTTP/3", ErrNoDatagrams)
	}
	stream, err := c.ask(ctx, r)
	if err != nil {
		return nil, err
	}
	d := &h3Datagrams{conn: c, stream: stream, frames: settings.EnableDatagrams}
	d.inbox.filled.L = &d.inbox.mu
	if !c.pool.run(d.receive) {
		d.Close()
		return nil, &StageError{StageConnect, net.ErrClosed}
	}
	return d, nil
}

// receive fills the inbox until the flow is over. Datagrams that came before the
// end of the stream are before it in the inbox.
func (d *h3Datagrams) receive() {
	var reading sync.WaitGroup
	var over error
	reading.Go(func() { over = d.readCapsules() })
	d.readFrames()
	reading.Wait()
	d.inbox.end(over)
}

// readFrames takes in what comes in QUIC DATAGRAM frames, until readCapsules
// meets the end of the stream.
func (d *h3Datagrams) readFrames() {
	for {
		b, err := d.stream.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		payload, ok, err := capsule.Payload(b)
		if err != nil {
			abandon(d.stream, http3.ErrCodeDatagramError)
			return
		}
		if ok && !d.inbox.put(payload) {
			d.dropped.Add(1)
		}
	}
}

// readCapsules takes in what comes in capsules, and returns how the flow ended.
func (d *h3Datagrams) readCapsules() error {
	var capsules capsule.Reader
	var batch [][]byte
	b := make([]byte, smallRead)
	for {
		n, err := d.stream.Read(b)
		batch, broken := capsules.Read(b[:n], batch[:0])
		for _, payload := range batch {
			if !d.inbox.put(bytes.Clone(payload)) {
				d.dropped.Add(1)
			}
		}
		switch {
		case d.closed.Load():
			return net.ErrClosed
		case broken != nil:
			abandon(d.stream, http3.ErrCodeMessageError)
			return fmt.Errorf("%w: %w", ErrReset, broken)
		case err == io.EOF && !capsules.Within():
			return io.EOF
		case err != nil:
			return h3Broken(err)
		case n == len(b) && n < largeRead:
			b = make([]byte, largeRead)
		}
	}
}

// Send implements Datagrams. The connection has a goroutine that sends for all its
// flows, since QUIC lets who sends wait.
func (d *h3Datagrams) Send(batch [][]byte) error {
	if d.closed.Load() {
		return net.ErrClosed
	}
	if err := d.inbox.over(); err != nil {
		return err
	}
	for _, payload := range batch {
		if len(payload) > capsule.MaxPayload || !d.conn.post(d, payload) {
			d.dropped.Add(1)
		}
	}
	return nil
}

// post leaves a copy of a payload in the outbox, if there is room.
func (c *h3Conn) post(d *h3Datagrams, payload []byte) bool {
	if len(c.outbox) == cap(c.outbox) {
		return false
	}
	b, ok := c.pool.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = capsule.AppendDatagram((*b)[:0], payload)
	select {
	case c.outbox <- outgoing{d, b}:
		return true
	default:
		c.pool.buffers.Put(b)
		return false
	}
}

// send hands the datagram to QUIC, and waits while that has its hands full.
func (o outgoing) send() {
	d := o.flow
	defer d.conn.pool.buffers.Put(o.b)
	if d.frames && !d.closed.Load() {
		err := d.stream.SendDatagram(*o.b)
		if err == nil {
			return
		}
		if _, long := errors.AsType[*quic.DatagramTooLargeError](err); !long {
			d.dropped.Add(1)
			return
		}
	}
	payload, _, _ := capsule.Payload(*o.b)
	if !d.sendCapsule(payload) {
		d.dropped.Add(1)
	}
}

// sendCapsule sends a payload on the stream if that takes it whole and at once.
func (d *h3Datagrams) sendCapsule(payload []byte) bool {
	d.sending.Lock()
	defer d.sending.Unlock()
	if d.closed.Load() {
		return false
	}
	d.capsules = capsule.Append(d.capsules[:0], payload)
	return d.stream.TryWriteAll(d.capsules) == nil
}

// Receive implements Datagrams.
func (d *h3Datagrams) Receive(deliver func(batch [][]byte)) error {
	var batch [][]byte
	for {
		var err error
		if batch, err = d.inbox.take(batch); err != nil {
			return err
		}
		deliver(batch)
	}
}

// Dropped implements Datagrams.
func (d *h3Datagrams) Dropped() uint64 { return d.dropped.Load() }

// Close implements Datagrams.
func (d *h3Datagrams) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	d.inbox.close()
	d.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	d.sending.Lock()
	err := d.stream.Close()
	d.sending.Unlock()
	d.conn.load.Add(-1)
	if err != nil {
		return h3Broken(err)
	}
	return nil
}
