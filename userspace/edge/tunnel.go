package edge

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// caller is the end of a flow at which it was asked for.
type caller interface {
	io.ReadWriteCloser

	// CloseWrite says that no more bytes come.
	CloseWrite() error

	// reset ends both ways at once.
	reset()
}

// tunnel is a connection of HTTP/1.1 or a stream of HTTP/3 that has become a flow
// of TCP.
type tunnel struct {
	edge   *Edge
	cancel context.CancelFunc // of the dial
	widest int                // the class of buffer that a read may fill
	broken atomic.Bool        // the destination takes no more bytes
	ended  atomic.Bool        // and sends none

	mu      sync.Mutex
	aborted bool
	caller  caller
	origin  *net.TCPConn
}

// serveConnect carries the flow of TCP that a request of HTTP/1.1 or HTTP/3 asks
// for. begin answers that it is there, and returns nil when the client has left.
func (e *Edge) serveConnect(w http.ResponseWriter, r *http.Request, authority string, begin func() caller) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	t := &tunnel{edge: e, cancel: cancel, widest: len(e.buffers.pools) - 1}
	if r.ProtoMajor == 1 {
		t.widest = 1 // a TLS record has at most 16 KiB
	}
	if !e.enter(t) {
		e.refuse(r.RemoteAddr, tcp, authority, overLimit()).write(w)
		return
	}
	defer e.leave(t)
	origin, refused := e.open(ctx, authority, r.Header.Get("Proxy-Authorization"))
	if refused != nil {
		e.refuse(r.RemoteAddr, tcp, authority, refused).write(w)
		return
	}
	defer e.giveSlot()
	defer origin.Close()
	e.metrics.passed(tcp)
	c := begin()
	if c == nil {
		abandon(origin)
		return
	}
	defer c.Close()
	t.carry(c, origin)
}

// drain leaves the flow alone.
func (t *tunnel) drain() {}

// abort resets the flow on both sides.
func (t *tunnel) abort() {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aborted = true
	if t.caller != nil {
		abandon(t.origin)
		t.caller.reset()
	}
}

// carry returns when both ways have ended.
func (t *tunnel) carry(c caller, origin *net.TCPConn) {
	t.mu.Lock()
	t.caller, t.origin = c, origin
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
}

// upload copies towards the destination until the client's FIN.
func (t *tunnel) upload() {
	var class int
	for {
		buf := t.edge.buffers.get(class)
		n, err := t.caller.Read(*buf)
		if n > 0 && !t.broken.Load() {
			if _, err := t.origin.Write((*buf)[:n]); err != nil {
				t.breakOff()
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
		class = min(t.edge.buffers.resized(class, n), t.widest)
	}
}

// breakOff lets the client's bytes go nowhere. What the destination sent before
// is still to be read: download finds the end.
func (t *tunnel) breakOff() {
	t.broken.Store(true)
	if t.ended.Load() {
		t.abort()
	}
}

// download copies towards the client until the destination's FIN.
func (t *tunnel) download() {
	in, err := newInflow(t.origin, t.edge.buffers, 0)
	for err == nil {
		var p []byte
		if p, err = in.next(bufferSize(len(t.edge.buffers.pools) - 1)); err != nil {
			break
		}
		t.edge.metrics.received.Add(float64(len(p)))
		_, err = t.caller.Write(p)
		in.release()
	}
	t.ended.Store(true)
	if err != io.EOF || t.broken.Load() || t.caller.CloseWrite() != nil {
		t.abort()
	}
}
