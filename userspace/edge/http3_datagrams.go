package edge

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

// uploadQueue is how many datagrams of a client may wait to be sent together.
const uploadQueue = 256

// datagrams3 is a stream of HTTP/3 that has become a flow of datagrams.
type datagrams3 struct {
	edge   *Edge
	cancel context.CancelFunc // of the dial, then of the flow

	mu       sync.Mutex
	draining bool
	udp      *datagrams
}

// drain ends the flow when it is quiet.
func (t *datagrams3) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	if t.udp != nil {
		t.udp.retire()
	}
}

// abort ends the flow.
func (t *datagrams3) abort() { t.cancel() }

// carry returns when the flow has ended: by the client, by ctx, or because it
// was quiet.
func (t *datagrams3) carry(ctx context.Context, stream *http3.Stream, d *datagrams) {
	t.mu.Lock()
	t.udp = d
	if t.draining {
		d.retire()
	}
	t.mu.Unlock()
	stop := context.AfterFunc(ctx, d.close)
	defer stop()
	var uploads sync.WaitGroup
	queue := make(chan []byte, uploadQueue)
	uploads.Go(func() {
		defer close(queue)
		t.upload(ctx, stream, queue)
	})
	uploads.Go(func() { d.sendQueued(queue) })
	ended := make(chan error, 1) // by the client
	uploads.Go(func() {
		defer t.cancel()
		ended <- t.uploadCapsules(stream, d)
	})
	err := t.download(stream, d)
	if !errors.Is(err, errQuiet) && len(ended) > 0 {
		err = <-ended
	}
	switch {
	case errors.Is(err, errQuiet), err == io.EOF:
		stream.Close()
	case errors.Is(err, capsule.ErrMalformed):
		stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeMessageError))
	default:
		stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeConnectError))
	}
	stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	t.cancel()
	uploads.Wait()
}

// upload queues the client's datagrams.
func (t *datagrams3) upload(ctx context.Context, stream *http3.Stream, queue chan<- []byte) {
	for {
		p, err := stream.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		payload, ok, err := capsule.Payload(p)
		if err != nil {
			t.cancel()
			return
		}
		if !ok {
			continue
		}
		select {
		case queue <- payload:
		default:
			t.edge.metrics.dropped(1)
		}
	}
}

// sendQueued sends together what is queued together.
func (d *datagrams) sendQueued(queue <-chan []byte) {
	var batch [][]byte
	for p := range queue {
		batch = append(batch[:0], p)
		for more := true; more && len(batch) < sendSlots; {
			select {
			case p, open := <-queue:
				if more = open; open {
					batch = append(batch, p)
				}
			default:
				more = false
			}
		}
		d.send(batch)
		clear(batch)
	}
}

// uploadCapsules sends the datagrams that come on the stream itself, until the
// client ends that: then it returns io.EOF.
func (t *datagrams3) uploadCapsules(stream *http3.Stream, d *datagrams) error {
	var reader capsule.Reader
	var batch [][]byte
	class := 0
	for {
		buf := t.edge.buffers.get(class)
		n, err := stream.Read(*buf)
		var malformed error
		batch, malformed = reader.Read((*buf)[:n], batch[:0])
		d.send(batch)
		clear(batch)
		t.edge.buffers.put(class, buf)
		if err = cmp.Or(malformed, err); err != nil {
			return err
		}
		class = t.edge.buffers.resized(class, n)
	}
}

// returned are the HTTP datagrams of what a destination sent, one behind the
// other. They are copied since sending them may wait, and the room that they
// came in is dear.
type returned struct {
	bytes []byte
	ends  []int
}

func (r *returned) fill(in *intake) {
	r.bytes, r.ends = r.bytes[:0], r.ends[:0]
	for p := range in.datagrams() {
		r.bytes = capsule.AppendDatagram(r.bytes, p)
		r.ends = append(r.ends, len(r.bytes))
	}
}

// download carries what the destination sends, until the flow ends.
func (t *datagrams3) download(stream *http3.Stream, d *datagrams) error {
	for {
		var r *returned
		err := d.receive(func(in *intake) {
			r = borrow(&d.rooms.returns, func() *returned { return new(returned) })
			r.fill(in)
		})
		if err == nil {
			t.edge.metrics.returned(len(r.ends), len(r.bytes)-len(r.ends)) // a byte of each is the context
			err = t.sendBack(stream, r)
			d.rooms.returns.Put(r)
		}
		if err != nil {
			return err
		}
	}
}

// sendBack sends datagrams to the client, in capsules if no packet of the
// connection has the room or the client takes none.
func (t *datagrams3) sendBack(stream *http3.Stream, r *returned) error {
	begin := 0
	for _, end := range r.ends {
		p := r.bytes[begin:end]
		begin = end
		if stream.SendDatagram(p) == nil {
			continue
		}
		payload, _, err := capsule.Payload(p)
		if err != nil {
			return err
		}
		// Never waits: what fits into a packet must not stand behind what
		// does not.
		err = stream.TryWriteAll(capsule.Append(nil, payload))
		if errors.Is(err, quic.ErrWouldBlock) {
			t.edge.metrics.dropped(1)
		} else if err != nil {
			return err
		}
	}
	return nil
}
