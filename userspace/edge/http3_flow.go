package edge

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// tunnel3 is a stream of HTTP/3 that has become a flow of TCP.
type tunnel3 struct {
	edge   *Edge
	cancel context.CancelFunc // of the dial
	broken atomic.Bool        // the destination takes no more bytes

	mu      sync.Mutex
	aborted bool
	stream  *http3.Stream
	origin  *net.TCPConn
}

// drain leaves the flow alone.
func (t *tunnel3) drain() {}

// abort resets the flow on both sides.
func (t *tunnel3) abort() {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aborted = true
	if t.stream != nil {
		abandon(t.origin)
		resetStream(t.stream)
	}
}

// resetStream ends both ways of a stream as RFC 9114 section 4.4 says of a
// connection that breaks.
func resetStream(stream *http3.Stream) {
	stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeConnectError))
	stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeConnectError))
}

// carry returns when both ways have ended.
func (t *tunnel3) carry(stream *http3.Stream, origin *net.TCPConn) {
	t.mu.Lock()
	t.stream, t.origin = stream, origin
	aborted := t.aborted
	t.mu.Unlock()
	if aborted {
		t.abort()
		return
	}
	var upload sync.WaitGroup
	upload.Go(t.upload)
	t.download()
	upload.Wait()
	if t.broken.Load() {
		t.abort()
	}
}

// upload copies towards the destination until the client's FIN.
func (t *tunnel3) upload() {
	var class int
	for {
		buf := t.edge.buffers.get(class)
		n, err := t.stream.Read(*buf)
		if n > 0 && !t.broken.Load() {
			if _, err := t.origin.Write((*buf)[:n]); err != nil {
				// What the destination sent before is still to be read:
				// download finds the end. Until then the client's bytes go
				// nowhere.
				t.broken.Store(true)
			}
			t.edge.metrics.sent.Add(float64(n))
		}
		t.edge.buffers.put(class, buf)
		switch {
		case err == io.EOF:
			t.origin.CloseWrite()
			return
		case err != nil:
			t.abort()
			return
		}
		class = t.edge.buffers.resized(class, n)
	}
}

// download copies towards the client until the destination's FIN.
func (t *tunnel3) download() {
	in, err := newInflow(t.origin, t.edge.buffers, 0)
	for err == nil {
		var p []byte
		if p, err = in.next(bufferSize(len(t.edge.buffers.pools) - 1)); err != nil {
			break
		}
		t.edge.metrics.received.Add(float64(len(p)))
		_, err = t.stream.Write(p)
		in.release()
	}
	if err != io.EOF || t.broken.Load() || t.stream.Close() != nil {
		t.abort()
	}
}
