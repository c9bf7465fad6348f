package edge

import (
	"crypto/tls"
	"io"
	"net/http"
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
	e.serveConnect(w, r, r.RequestURI, func() caller { return e.begin1(w) })
}

// begin1 makes the connection of a request the client's end of a flow.
func (e *Edge) begin1(w http.ResponseWriter) caller {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	c := &caller1{conn.(*tls.Conn), early}
	if _, err := io.WriteString(c, e.opened1()); err != nil {
		c.reset()
		c.Close()
		return nil
	}
	return c
}

// caller1 is a connection of HTTP/1.1.
type caller1 struct {
	*tls.Conn
	early []byte // what came with the request
}

// Read implements io.Reader.
func (c *caller1) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// reset implements caller.
func (c *caller1) reset() { c.NetConn().(*accepted).reset() }

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
