package edge

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// maxHeaderBytes bounds the header of a request; a bearer token is the only
// long field in it.
const maxHeaderBytes = 16 << 10

// serveHTTP1 answers one HTTP/1.1 request.
func (e *Edge) serveHTTP1(w http.ResponseWriter, r *http.Request) {
	if e.altSvc != "" {
		w.Header().Set("Alt-Svc", e.altSvc)
	}
	if r.Method != http.MethodConnect {
		plainAnswer(r.Method, r.URL.Path).write(w)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	t := &tunnel{edge: e, cancel: cancel}
	if !e.enter(t) {
		e.refuse(r.RemoteAddr, tcp, r.RequestURI, overLimit()).write(w)
		return
	}
	defer e.leave(t)
	origin, refused := e.open(ctx, r.RequestURI, r.Header.Get("Proxy-Authorization"))
	if refused != nil {
		e.refuse(r.RemoteAddr, tcp, r.RequestURI, refused).write(w)
		return
	}
	defer e.giveSlot()
	defer origin.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	t.carry(conn.(*tls.Conn), origin, early)
}

// opened1 is the header that begins a flow over HTTP/1.1.
func (e *Edge) opened1() string {
	if e.altSvc == "" {
		return "HTTP/1.1 200 OK\r\n\r\n"
	}
	return "HTTP/1.1 200 OK\r\nAlt-Svc: " + e.altSvc + "\r\n\r\n"
}

// write sends the answer over HTTP/1.1 or HTTP/3.
func (a *answer) write(w http.ResponseWriter) {
	for _, f := range a.fields {
		w.Header().Set(f.Name, f.Value)
	}
	w.WriteHeader(a.status)
	io.WriteString(w, a.body)
}

// tunnel is an HTTP/1.1 connection that has become one flow.
type tunnel struct {
	edge   *Edge
	cancel context.CancelFunc // of the dial
	broken atomic.Bool        // the destination takes no more bytes

	mu      sync.Mutex
	aborted bool
	client  *tls.Conn
	origin  *net.TCPConn
}

// drain leaves the flow alone: its connection has no other.
func (t *tunnel) drain() {}

// abort resets the flow on both sides.
func (t *tunnel) abort() {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aborted = true
	if t.client != nil {
		t.origin.SetLinger(0)
		t.origin.Close()
		t.client.NetConn().(*accepted).reset()
	}
}

// carry returns when both ways have ended.
func (t *tunnel) carry(client *tls.Conn, origin *net.TCPConn, early []byte) {
	t.mu.Lock()
	t.client, t.origin = client, origin
	aborted := t.aborted
	t.mu.Unlock()
	if aborted {
		t.abort()
		return
	}
	t.edge.metrics.passed(tcp)
	if _, err := io.WriteString(client, t.edge.opened1()); err != nil {
		t.abort()
		return
	}
	var upload sync.WaitGroup
	upload.Go(func() { t.upload(early) })
	t.download()
	upload.Wait()
	if t.broken.Load() {
		t.abort()
	}
}

// upload copies towards the destination until the client's close_notify or FIN.
func (t *tunnel) upload(p []byte) {
	var class int
	var buf *[]byte
	for {
		if _, err := t.origin.Write(p); err != nil {
			// What the destination sent before is still to be read: download
			// finds the end.
			t.broken.Store(true)
			return
		}
		t.edge.metrics.sent.Add(float64(len(p)))
		if buf != nil {
			t.edge.buffers.put(class, buf)
		}
		// A record has at most 16 KiB, so class 1 is enough.
		class = min(t.edge.buffers.resized(class, len(p)), 1)
		buf = t.edge.buffers.get(class)
		n, err := t.client.Read(*buf)
		p = (*buf)[:n]
		switch {
		case n > 0:
		case err == io.EOF:
			t.edge.buffers.put(class, buf)
			t.origin.CloseWrite()
			return
		case err != nil:
			t.abort()
			return
		}
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
		_, err = t.client.Write(p)
		in.release()
	}
	if err != io.EOF || t.broken.Load() || t.client.CloseWrite() != nil {
		t.abort()
	}
}
